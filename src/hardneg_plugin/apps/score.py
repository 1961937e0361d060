"""hardneg-score: the scores of a predictions file, without model or data."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.console import print_clinical_scores, print_scores
from hardneg_plugin.data.phantom.reading import read_findings as read_phantom_findings
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import check_place, write_json
from hardneg_plugin.knowledge.findings import READERS as BY_LANGUAGE
from hardneg_plugin.metrics.clinical import ClinicalMetric
from hardneg_plugin.metrics.prediction_files import Predictions, read_any_predictions
from hardneg_plugin.metrics.record_scores import clinical_scores, score_records
from hardneg_plugin.metrics.records import with_findings
from hardneg_plugin.metrics.score_card import scores_and_intervals
from hardneg_plugin.terminal import say

log = logging.getLogger(__name__)

READERS = {"phantom": read_phantom_findings, **BY_LANGUAGE}


def main() -> None:
    """Entry point of hardneg-score."""
    commands.score()


def score(config: DictConfig) -> None:
    """Score predictions; write a JSON file with the scores and their intervals.

    Raises:
        UserError: for any error that a user can cause.
    """
    path = Path(config.predictions)
    output = Path(config.output or path.with_suffix(".scores.json"))
    check_place(output, "output")
    columns: Any = OmegaConf.to_container(config.columns, resolve=True)
    predictions = read_any_predictions(path, None if config.references is None else Path(config.references), columns)
    records, findings = predictions.records, config.findings
    if findings is not None:
        if findings not in READERS:
            raise UserError(f"findings: expected one of {', '.join(READERS)} or null, but got {findings!r}.")
        records = [with_findings(record, READERS[findings]) for record in records]
    clinical: Sequence[ClinicalMetric] = [instantiate(metric) for metric in config.clinical.values()]
    for metric in clinical:
        metric.check()
    texts = config.texts or ("seen" if predictions.is_ours else "as_given")
    as_given = texts == "as_given" and config.metrics.caption is not None
    card = score_records(
        records,
        caption=instantiate(config.metrics.caption, as_given=True) if as_given else instantiate(config.metrics.caption),
        given=(predictions.generated, predictions.references) if as_given else None,
    )
    of_clinical = clinical_scores(records, clinical)
    card.add(of_clinical)
    for note in [*predictions.notes, *_normalised(predictions, texts)]:
        log.warning("%s", note)
    about = {
        "predictions": str(path),
        "format": predictions.kind,
        "texts": texts,
        "studies": len(records),
        "notes": predictions.notes,
    }
    # as of predictions.json, which many have
    split = "scores" if path.stem in {*about, "intervals", "directions"} else path.stem
    write_json(output, {**scores_and_intervals({split: card}), **about})
    print_scores(f"{len(records)} studies of {path}", {split: card.values})
    if of_clinical.values:
        print_clinical_scores(of_clinical.values)
    say(f"\nscores   {output}")


def _normalised(predictions: Predictions, texts: str) -> list[str]:
    """Whether it matters if texts are scored as given, in a line."""
    count, total = predictions.unlike_seen(), 2 * len(predictions.records)
    if not count:
        return []
    what = f"{count} of {total} texts have several blanks in a row, other white space or characters that are not seen"
    if texts == "as_given":
        return [
            f"{what}. BLEU, METEOR, ROUGE-L and CIDEr take them as given, as pycocoevalcap does (texts=seen: as training)."
        ]
    return [
        f"{what}; they are scored with one blank for each run and without the rest (texts=as_given: as pycocoevalcap)."
    ]


if __name__ == "__main__":
    main()
