"""hardneg-score: the scores of a predictions file, without model or data."""

from collections.abc import Sequence
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.console import print_scores
from hardneg_plugin.data.phantom.reading import read_findings as read_phantom_findings
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import check_place, write_json
from hardneg_plugin.knowledge.findings import READERS as BY_LANGUAGE
from hardneg_plugin.metrics.clinical import ClinicalMetric
from hardneg_plugin.metrics.record_scores import score_records
from hardneg_plugin.metrics.records import read_predictions, with_findings
from hardneg_plugin.metrics.score_card import scores_and_intervals
from hardneg_plugin.terminal import say

READERS = {"phantom": read_phantom_findings, **BY_LANGUAGE}


def main() -> None:
    """Entry point of hardneg-score."""
    commands.score()


def score(config: DictConfig) -> None:
    """Score a predictions file; write a JSON file with the scores and their intervals.

    Raises:
        UserError: for any error that a user can cause.
    """
    path = Path(config.predictions)
    output = Path(config.output or path.with_suffix(".scores.json"))
    check_place(output, "output")
    records, findings = read_predictions(path), config.findings
    if findings is not None:
        if findings not in READERS:
            raise UserError(f"findings: expected one of {', '.join(READERS)} or null, but got {findings!r}.")
        records = [with_findings(record, READERS[findings]) for record in records]
    clinical: Sequence[ClinicalMetric] = [instantiate(metric) for metric in config.clinical.values()]
    for metric in clinical:
        metric.check()
    card = score_records(records, caption=instantiate(config.metrics.caption), clinical=clinical)
    split = path.stem
    write_json(output, {**scores_and_intervals({split: card}), "predictions": str(path), "studies": len(records)})
    print_scores(f"{len(records)} studies of {path}", {split: card.values})
    say(f"\nscores   {output}")


if __name__ == "__main__":
    main()
