"""Hard negatives in the Hydra app of another project, whose config (own_hydra_app.yaml) uses our groups by name.

    python examples/own_hydra_app.py hardening=ascent negatives=queue negatives.size=256

`register_configs` makes them known. A group of yours wins over ours of the same name, say a learning-rate `schedule`;
`register_configs(under="hardneg")` offers ours as `hardneg/schedule` (half a minute on a CPU).
"""

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig
from wrap_your_module import Captioner, built_in_studies, train

from hardneg_plugin import plug_in
from hardneg_plugin.config import register_configs

register_configs()


@hydra.main(version_base="1.3", config_path=".", config_name="own_hydra_app")
def main(config: DictConfig) -> None:
    pl.seed_everything(config.seed, verbose=False)
    loader, tokenizer = built_in_studies(config.studies)
    model = Captioner(vocab_size=tokenizer.vocab_size, lr=config.optimizer.lr)
    plug_in(
        model,
        instantiate(config.hard_negatives),
        images="cnn",
        reports="words",
        report_mask=lambda batch, outputs: batch["token_mask"][:, 1:],
        study_ids="batch.ids",
        texts="batch.references",
    )
    train(model, loader, epochs=config.epochs)


if __name__ == "__main__":
    main()
