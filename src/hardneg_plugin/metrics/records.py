"""The records of a predictions file, one per study, from which all scores can be computed again."""

import json
import math
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from hardneg_plugin.data.report_sections import without_marks
from hardneg_plugin.data.texts import visible_text
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import is_unicode
from hardneg_plugin.metrics.findings import Findings


class _Texts(TypedDict):
    """The entries that every record has."""

    id: str
    reference: str
    """The full report as the tokenizer cleans it."""
    generated: str


class PredictionRecord(_Texts, total=False):
    """One study. Records of other systems need only `id`, `reference` and `generated`."""

    cut_reference: str
    """The reference cut to the maximum length, as published systems use it."""
    patient: str
    labels: str
    """The canonical label set; "" means no findings."""
    findings: "StatedFindings"
    measured: dict[str, float]
    """What only the model can measure: sums of its report loss, ranks among embeddings."""
    scores: dict[str, float]
    """Scores of this study alone."""


class StatedFindings(TypedDict):
    """The findings of the two texts, each `[name, attributes]`."""

    reference: list[Any]
    generated: list[Any]


def make_record(
    study: str,
    reference: str,
    generated: str,
    *,
    patient: str | None = None,
    labels: str | None = None,
    read_findings: Callable[[str], Findings] | None = None,
) -> PredictionRecord:
    """The record of a study with what is known of it, its texts as a reader sees them (`visible_text`).

    Args:
        study: its id.
        reference: its report as the tokenizer cleans it.
        generated: the generated report.
        patient: its patient identifier; None where unknown.
        labels: its canonical label set; None where unknown.
        read_findings: reads findings out of a text; None leaves them out.

    >>> make_record("a", "left effusion .", "no effusion .", patient="p")
    {'id': 'a', 'reference': 'left effusion .', 'generated': 'no effusion .', 'patient': 'p'}
    """
    record = PredictionRecord(id=study, reference=visible_text(reference), generated=visible_text(generated))
    if patient is not None:
        record["patient"] = patient
    if labels is not None:
        record["labels"] = labels
    return record if read_findings is None else with_findings(record, read_findings)


def with_findings(record: PredictionRecord, read_findings: Callable[[str], Findings]) -> PredictionRecord:
    """The record with the findings that its two texts state.

    Args:
        record: a study; findings that it already has are replaced.
        read_findings: reads findings out of a text.
    """
    findings: StatedFindings = {
        "reference": findings_to_json(read_findings(without_marks(record["reference"]))),
        "generated": findings_to_json(read_findings(without_marks(record["generated"]))),
    }
    return {**record, "findings": findings}


def findings_to_json(findings: Findings) -> list[Any]:
    """Findings as a sorted list that JSON holds."""
    return sorted(([name, attributes] for name, attributes in findings), key=repr)


def findings_from_json(stated: Sequence[Any]) -> Findings:
    """Findings from their JSON lists, with tuples again.

    >>> findings_from_json([["nodule", [["mm", 6]]]])
    frozenset({('nodule', (('mm', 6),))})
    """
    return frozenset((str(name), _hashable(attributes)) for name, attributes in stated)


def read_predictions(path: Path) -> list[PredictionRecord]:
    """The records of a predictions file, in its order, with texts as a reader sees them (`visible_text`).

    Raises:
        UserError: it cannot be read, or as `parse_predictions`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Expected a predictions file, but {path} cannot be read ({error}).") from error
    return [as_seen(record) for record in parse_predictions(text, path)]


def parse_predictions(text: str, path: Path) -> list[PredictionRecord]:
    """The records of a predictions file, in its order, with texts as they stand there.

    Args:
        text: what the file holds.
        path: for messages.

    Raises:
        UserError: it is empty, a line is not a record, or a study is repeated.
    """
    records: dict[str, PredictionRecord] = {}
    for number, line in enumerate(text.split("\n"), start=1):  # texts may hold other line breaks
        if not line.strip():
            continue
        record = _record(line, f"{path}, line {number}")
        if record["id"] in records:
            raise UserError(f"{path}, line {number}: study {record['id']!r} is repeated.")
        records[record["id"]] = record
    if not records:
        raise UserError(f"Expected at least one study in {path}, but it is empty.")
    return list(records.values())


def _record(line: str, where: str) -> PredictionRecord:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: expected a JSON object, but it cannot be read ({error}).") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, but got {type(record).__name__}.")
    for key in ("id", "reference", "generated"):
        if not isinstance(record.get(key), str) or not is_unicode(record[key]):
            raise UserError(f'{where}: expected a text under "{key}", but got {record.get(key)!r}.')
    for key in ("cut_reference", "patient", "labels"):
        if key in record and not isinstance(record[key], str):
            raise UserError(f'{where}: expected a text or nothing under "{key}", but got {record[key]!r}.')
    for key in ("measured", "scores"):
        numbers = record.get(key, {})
        if not isinstance(numbers, dict) or not all(_is_number(value) for value in numbers.values()):
            raise UserError(f'{where}: expected numbers by name under "{key}", but got {numbers!r}.')
    if "findings" in record and not _is_stated(record["findings"]):
        raise UserError(
            f'{where}: expected "reference" and "generated" under "findings", lists of [name, attributes], but got '
            f"{record['findings']!r}."
        )
    return cast(PredictionRecord, record)


def as_seen(record: PredictionRecord) -> PredictionRecord:
    """The record with its texts as a reader sees them (`visible_text`)."""
    seen = {key: visible_text(record[key]) for key in ("reference", "generated", "cut_reference") if key in record}  # type: ignore[literal-required]
    return cast(PredictionRecord, {**record, **seen})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_stated(findings: Any) -> bool:
    if not isinstance(findings, dict):
        return False
    lists = [findings.get(side) for side in ("reference", "generated")]
    return all(
        isinstance(side, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in side) for side in lists
    )


def _hashable(value: Any) -> Hashable:
    if isinstance(value, list):
        return tuple(_hashable(part) for part in value)
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else cast(Hashable, value)
