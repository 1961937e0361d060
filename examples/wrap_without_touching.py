"""Hard negatives around an unchanged model: `plug_in` and the names of two of its layers.

`Captioner` is the module of wrap_your_module.py. Neither its class nor its checkpoints change: at the end `Captioner` reads one
(half a minute on a CPU).
"""

import tempfile
from pathlib import Path

import pytorch_lightning as pl
from wrap_your_module import Captioner, built_in_studies, train

from hardneg_plugin import HardNegativeObjective, plug_in
from hardneg_plugin.objectives import Weights


def main() -> None:
    pl.seed_everything(1, verbose=False)
    loader, tokenizer = built_in_studies()
    before = dict(vars(Captioner))
    model = Captioner(vocab_size=tokenizer.vocab_size)

    plug_in(
        model,
        HardNegativeObjective(image_width=64, report_width=32, width=16, weights=Weights(alignment=1.0)),
        images="cnn",  # the output of model.cnn, (B, 64)
        reports="words",  # the output of model.words, (B, T - 1, 32): its mean over the masked words
        report_mask=lambda batch, outputs: batch["token_mask"][:, 1:],
        study_ids="batch.ids",
        texts="batch.references",
    )

    trainer = train(model, loader, epochs=8)
    print(f"Captioner is unchanged: {dict(vars(Captioner)) == before}")

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.ckpt"
        trainer.save_checkpoint(path)
        bare = Captioner.load_from_checkpoint(path)  # strict: no unexpected key, none missing
        plugged = type(model).load_from_checkpoint(path)
    print(f"{type(bare).__name__} reads the checkpoint: {same(bare, model)}, without the objective's weights")
    print(
        f"{type(plugged).__name__} reads it: {same(plugged, model)}, with {count(plugged) - count(bare)} weights more"
    )


def same(model, trained) -> bool:
    """Whether all weights of a model are the trained ones."""
    weights = trained.state_dict()
    return all(value.equal(weights[name]) for name, value in model.state_dict().items())


def count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
