"""GK-MVLP around an unchanged model: findings that reports state are grounded in image patches.

`Captioner` of wrap_your_module.py exposes patches and words; the objective has the module that grounds entities in them. Facts of
studies come from their reports by rules (`ChestXray().facts(report)` for real ones) and are training targets only
(a minute on a CPU).
"""

from functools import partial

import pytorch_lightning as pl
import torch
from wrap_your_module import Captioner, built_in_studies, train

from hardneg_plugin import plug_in
from hardneg_plugin.data.phantom import PhantomKnowledge
from hardneg_plugin.grounding import Cells, Grounding
from hardneg_plugin.objectives import GroundedKnowledgeObjective, Weights


def main() -> None:
    pl.seed_everything(1, verbose=False)
    loader, tokenizer = built_in_studies()
    knowledge = PhantomKnowledge()
    model = Captioner(vocab_size=tokenizer.vocab_size)
    objective = GroundedKnowledgeObjective(
        image_width=64,
        report_width=32,
        width=16,
        knowledge=knowledge,
        grounding=partial(Grounding, width=32, heads=4, regions=Cells(2, 2)),
        statement_weight=0.0,  # or give `statements`: your text encoder's embeddings of objective.statement_texts
        weights=Weights(alignment=1.0),
    )
    plug_in(
        model,
        objective,
        images="cnn.3",  # a map (B, 64, 4, 4) inside model.cnn: 16 patches
        reports="words",
        report_mask=lambda batch, outputs: batch["token_mask"][:, 1:],
        study_ids="batch.ids",
        texts="batch.references",
        facts=lambda batch, outputs: torch.tensor([knowledge.facts(text) for text in batch["references"]]),
    )
    trainer = train(model, loader, epochs=8)
    for name in ("pair_matching_loss", "entity_loss"):
        print(f"{name.replace('_', ' ')} in the last step: {trainer.callback_metrics[f'train/{name}'].item():.3f}")


if __name__ == "__main__":
    main()
