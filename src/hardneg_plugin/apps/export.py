"""hardneg-export: write a trained R2Gen or R2GenCMN as a file that the released code loads."""

from pathlib import Path

from omegaconf import DictConfig

from hardneg_plugin.apps import commands
from hardneg_plugin.backbones.official import save_released
from hardneg_plugin.files import check_place, writing
from hardneg_plugin.runs.checkpoint import check_writes_reports, find_checkpoint, load_trained_model
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.terminal import say


def main() -> None:
    """Entry point of hardneg-export."""
    commands.export()


def export(config: DictConfig) -> None:
    """Write decoder and visual extractor under their released names, without what exists in training only."""
    run = RunFolder.existing(config.run)
    trained = run.read_config(trust=config.trust)
    check_writes_reports(trained.model, run)
    path, output = find_checkpoint(run, config.checkpoint), Path(config.output)
    check_place(output, "output")
    model = load_trained_model(trained.model, path, trust=config.trust)
    with writing(output, "Make room, or name another file by output=..."):
        save_released(output, model.decoder, model.visual)  # which checks their kind
    words = model.decoder.vocab_size
    say(f"{output}: {path} under the released names, {words} tokens. Such a file holds no vocabulary.")


if __name__ == "__main__":
    main()
