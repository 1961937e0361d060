"""hardneg-page: one HTML file that shows what a trained run, or several side by side, wrote about each study."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from hardneg_plugin.apps import commands
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import check_place, writing
from hardneg_plugin.pages.from_runs import build_page
from hardneg_plugin.pages.render import write_page
from hardneg_plugin.progress import progress
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.terminal import say


def main() -> None:
    """Entry point of hardneg-page."""
    commands.page()


def page(config: DictConfig) -> None:
    """Write the page; print its path and size."""
    runs = _runs(config.run)
    output = _output(config, runs)
    content = build_page(
        runs,
        config.split,
        config.limit,
        zoom=config.zoom,
        data=config.data if "data" in config else None,
        device=config.device,
        trust=config.trust,
        track=progress,
    )
    with writing(output, "Make room, or name another file by output=..."):
        write_page(output, content)
    say(f"{output}  {output.stat().st_size / 1e6:.1f} MB, {len(content.studies)} studies")


def _runs(named: Any) -> dict[str, RunFolder]:
    """The runs by their names, or those of their folders."""
    if isinstance(named, DictConfig):
        runs = {str(name): RunFolder.existing(str(path)) for name, path in named.items()}
    else:
        folders = [RunFolder.existing(str(path)) for path in (named if isinstance(named, ListConfig) else [named])]
        runs = {folder.path.resolve().name: folder for folder in folders}
        if len(runs) < len(folders):
            raise UserError(
                "run: expected folders of different names, but got "
                f"{', '.join(str(folder.path) for folder in folders)}: name them by run='{{first: ..., second: ...}}'."
            )
    if not runs:
        raise UserError("run: expected at least one run, but got none.")
    return runs


def _output(config: DictConfig, runs: dict[str, RunFolder]) -> Path:
    """The file to write; raises a UserError for wrong settings."""
    if config.split not in ("val", "test"):
        raise UserError(f"split: expected val or test, but got {config.split!r}.")
    if type(config.limit) is not int or config.limit < 1:
        raise UserError(f"limit: expected a positive integer, but got {config.limit!r}.")
    folder = next(iter(runs.values())).path if len(runs) == 1 else Path()
    output = folder / "page.html" if config.output is None else Path(str(config.output))
    if output.suffix != ".html":
        raise UserError(f"output: expected the name of an .html file, but got {output}.")
    check_place(output, "output")
    return output


if __name__ == "__main__":
    main()
