"""hardneg-prepare: turn original downloads into a folder that data=prepared reads."""

import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.console import console, make_table
from hardneg_plugin.data.downloads.study import OF_ONE_VIEW
from hardneg_plugin.data.leakage import SharedStudies, leakage_warning
from hardneg_plugin.data.prepare.build import PrepareSettings, build
from hardneg_plugin.data.prepared import DROPPED
from hardneg_plugin.runs.shell import command_line
from hardneg_plugin.terminal import say

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of hardneg-prepare."""
    commands.prepare()


def prepare(config: DictConfig) -> None:
    """Prepare a folder and print what it holds; the same command continues an interrupted one."""
    output = Path(str(config.output))
    settings = PrepareSettings(
        section=config.section,
        size=config.size,
        seed=config.seed,
        splits=OmegaConf.to_container(config.splits, resolve=True),  # type: ignore[arg-type]  # which are checked
    )
    try:
        summary, is_new = build(
            instantiate(config.source),
            output,
            settings,
            described=OmegaConf.to_container(config.source, resolve=True),
            workers=config.workers,
            overwrite=config.overwrite,
        )
    except KeyboardInterrupt:
        say("Interrupted. Run the same command again to continue.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    _print_summary(f"{output}: {settings.section} at {settings.size} px", summary)
    if is_new:
        say(f"\nTrain on it: {command_line('hardneg-train', 'data=prepared', data__root=output)}")
    else:
        say(f"\n{output} is already prepared and left as it is; overwrite=true prepares it again.")


def _print_summary(title: str, summary: Mapping[str, Any]) -> None:
    """Print what was kept and dropped, and why."""
    table = make_table(title, "", "studies", "views")
    for split, counts in summary["kept"].items():
        table.add_row(split, str(counts["studies"]), str(counts["views"]))
    table.add_section()
    for reason, count in summary["dropped"].items():
        of_views = reason in OF_ONE_VIEW
        table.add_row(f"left out: {reason}", "" if of_views else str(count), str(count) if of_views else "")
    console(at_least=160).print(table)
    say(f"read {summary['read']}, stored {summary['bytes'] / 1e9:.2f} GB")
    say(_how_split(summary))
    if strays := summary["in_another_split_than_their_patient"]:
        say(f"in another split than their patient's first study, by the source: {strays} studies")
    shared = {name: SharedStudies(**counts) for name, counts in summary.get("shared_with_train", {}).items()}
    if (warning := leakage_warning(shared)) is not None:
        log.warning("Warning: %s", warning)
    if summary["dropped"]:
        say(f"every study or view left out, and why: {DROPPED}")


def _how_split(summary: Mapping[str, Any]) -> str:
    """What the split was made by, in a line."""
    split, drawn = summary["split"], summary["split"]["by the seed"]
    alone = summary.get("by_the_seed_without_a_patient", 0)  # not counted by earlier versions
    told = [
        f"{count} studies {how}"
        for how, count in (
            ("as the source says", split["of the source"]),
            ("by the seed and their patient", drawn - alone),
            ("by the seed and their own id, as no patient is known: name their column (docs/DATA.md), or studies of one patient "
             "may be on both sides", alone),
        )
        if count
    ]  # fmt: skip
    return f"split: {'; '.join(told)}"


if __name__ == "__main__":
    main()
