"""Predictions of any system: generated reports and references from one file or two, in the formats of `parse_rows`."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hardneg_plugin.data.downloads.tables import column_name
from hardneg_plugin.data.encodings import read_text
from hardneg_plugin.data.texts import is_missing, visible_text
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import is_unicode, json_kind
from hardneg_plugin.metrics.records import PredictionRecord, as_seen, make_record, parse_predictions
from hardneg_plugin.metrics.text_rows import ID, TEXT, TextRow, first_of_lines, parse_rows

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "id": (ID, "study_id", "studyid", "image_id", "uid", "dicom_id"),
    "generated": (
        *("generated", "generated_report", "prediction", "predictions", "predicted", "predicted_report", "pred"),
        *("pred_report", "model_prediction", "hypothesis", "hyp", "candidate", "output", "response", "res"),
    ),
    "reference": (
        *(
            "reference",
            "references",
            "reference_report",
            "ref",
            "ground_truth",
            "groundtruth",
            "gt",
            "gts",
            "gt_report",
        ),
        *("target", "label"),
    ),
}
"""The names of columns that are found by themselves."""
_EITHER = (TEXT, "report", "caption")
"""Of a generated report or a reference, where the file has no other or the names above say which it is."""


@dataclass
class Predictions:
    """N generated reports with their references."""

    records: list[PredictionRecord]
    """Texts as a reader sees them (`visible_text`)."""
    generated: list[str]
    """As the file has them."""
    references: list[str]
    """As the file has them."""
    kind: str
    """The format in words."""
    is_ours: bool = False
    """Whether hardneg-train or hardneg-evaluate wrote the file."""
    notes: list[str] = field(default_factory=list)
    """What was done that a reader may not expect, a sentence each."""

    def unlike_seen(self) -> int:
        """How many of the 2N texts change where they are read as a reader sees them, runs of blanks as one."""
        return sum(text != " ".join(visible_text(text).split()) for text in [*self.generated, *self.references])


def read_any_predictions(
    file: Path, references: Path | None = None, columns: Mapping[str, str | None] | None = None
) -> Predictions:
    """The predictions of a file, in its order.

    Lines of JSON with "id", "reference" and "generated" are read strictly, as `read_predictions` does. Elsewhere a generated report
    that is missing counts as empty, and a study without a reference is left out; both are noted.

    Args:
        file: the generated reports, with their references unless these are in a file of their own.
        references: that file; its ids are those of `file`, and further ones are left out.
        columns: the file's names of "id", "generated" and "reference" where they are not found by themselves (`COLUMNS`). None as
            a name: found.

    Raises:
        UserError: a file cannot be read; a column is not found; a study is repeated, or has no reference in `references`.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "res.json").write_text('{"a": ["no effusion ."]}')
    >>> _ = (folder / "gts.json").write_text('{"a": ["left effusion ."]}')
    >>> read_any_predictions(folder / "res.json", folder / "gts.json").records
    [{'id': 'a', 'reference': 'left effusion .', 'generated': 'no effusion .'}]
    """
    given = {key: column_name(str(name)) for key, name in (columns or {}).items() if name is not None}
    if unknown := sorted(given.keys() - COLUMNS.keys()):
        raise UserError(f"columns: expected keys among {', '.join(COLUMNS)}, but got {', '.join(unknown)}.")
    text, encoding = read_text(file, "predictions")
    notes = _of_encoding(file, encoding)
    if references is None and not given and (ours := _ours(text, file)) is not None:
        wrote = any("measured" in record or "scores" in record for record in ours)
        texts = [record["generated"] for record in ours], [record["reference"] for record in ours]
        return Predictions([as_seen(record) for record in ours], *texts, "JSONL", wrote, notes)
    found = parse_rows(text, file)
    sides = ("generated",) if references is not None else ("generated", "reference")
    names = _columns(found.rows, file, given, sides)
    rows = _by_id(found.rows, names.get("id"), file)
    generated = {study: _text(row, names["generated"], file) for study, row in rows.items()}
    if references is None:
        true = {study: _text(row, names["reference"], file) for study, row in rows.items()}
        if "id" not in names:
            notes.append(f"{file}: no column of ids, so studies are numbered as they stand there.")
    else:
        true = _references(references, given, notes)
        if "id" not in names and len(true) != len(generated):
            raise UserError(f"{file} has {len(generated)} texts without ids, but {references} has {len(true)}.")
        if missing := [study for study in generated if study not in true]:
            raise UserError(
                f"{references}: expected a reference of each study of {file}, but {missing[0]!r} has none "
                f"(so have {len(missing)} of {len(generated)}). Are the ids of the same kind?"
            )
        if others := len(true) - len(generated):
            notes.append(f"{references}: references without a prediction, left out of the scores: {others}.")
    return _predictions(generated, true, found.kind, notes, file)


def _ours(text: str, file: Path) -> list[PredictionRecord] | None:
    """The records of a file of our own format; None if it has another."""
    first = first_of_lines(text) if text.strip() else None
    is_ours = first is not None and first.keys() >= {"id", "reference", "generated"}
    return parse_predictions(text, file) if is_ours else None


def _of_encoding(file: Path, encoding: str) -> list[str]:
    return [] if encoding == "utf-8" else [f"{file}: read as {encoding}."]


def _references(file: Path, given: Mapping[str, str], notes: list[str]) -> dict[str, str | None]:
    text, encoding = read_text(file, "references")
    notes += _of_encoding(file, encoding)
    rows = parse_rows(text, file).rows
    # the names that are given may be of the other file alone
    given = {key: name for key, name in given.items() if any(name in row.cells for row in rows)}
    names = _columns(rows, file, given, ("reference",))
    return {study: _text(row, names["reference"], file) for study, row in _by_id(rows, names.get("id"), file).items()}


def _columns(rows: Sequence[TextRow], file: Path, given: Mapping[str, str], sides: Collection[str]) -> dict[str, str]:
    """The name of the column of the ids, if any, and of each side."""
    known = {name: None for row in rows for name in row.cells}
    names: dict[str, str] = {}
    for key in ("id", *sides):
        if key in given:
            if given[key] not in known:
                raise UserError(
                    f"columns.{key}: expected a column of {file}, but got {given[key]!r}: {_listed(known)}."
                )
            names[key] = given[key]
            continue
        candidates = [name for name in COLUMNS[key] if name in known and name not in given.values()]
        if len(candidates) > 1 and key != "id":
            raise UserError(
                f"{file}: {' and '.join(candidates)} may be the {key} texts; say which by columns.{key}=NAME."
            )
        if candidates:
            names[key] = candidates[0]
    for key in sides:
        if key not in names:
            left = [name for name in _EITHER if name in known and name not in names.values()]
            if not left:
                more = " Name the file of the references by references=FILE." if key == "reference" else ""
                raise UserError(
                    f"{file}: expected a column of {key} texts, but {_listed(known)}; say which by columns.{key}=NAME.{more}"
                )
            names[key] = left[0]
    return names


def _listed(names: Collection[str]) -> str:
    return f"its columns are {', '.join(names)}"


def _by_id(rows: Sequence[TextRow], column: str | None, file: Path) -> dict[str, TextRow]:
    found: dict[str, TextRow] = {}
    for number, row in enumerate(rows, 1):
        study = number if column is None else row.cells.get(column)
        if type(study) is int:
            study = str(study)
        if not isinstance(study, str) or not study.strip() or not is_unicode(study):
            raise UserError(f'{file}, {row.place}: expected an id under "{column}", but got {study!r}.')
        if study in found:
            raise UserError(f"{file}, {row.place}: study {study!r} is repeated ({found[study].place}).")
        found[study] = row
    return found


def _text(row: TextRow, column: str, file: Path) -> str | None:
    """The text of a row as it stands there; None where it is missing."""
    value = row.cells.get(column)
    if is_missing(value):
        return None
    if isinstance(value, list):
        raise UserError(f"{file}, {row.place}: expected one text, but got a list of {len(value)}.")
    if not isinstance(value, str) or not is_unicode(value):
        raise UserError(f'{file}, {row.place}: expected a text under "{column}", but got {json_kind(value)}.')
    return value


def _predictions(
    generated: Mapping[str, str | None], true: Mapping[str, str | None], kind: str, notes: list[str], file: Path
) -> Predictions:
    texts: dict[str, tuple[str, str]] = {}
    for study, text in generated.items():
        reference = true[study]
        if reference is not None:
            texts[study] = (text or "", reference)
    if not texts:
        raise UserError(f"Expected at least one study with a reference in {file}, but all {len(generated)} lack it.")
    if left_out := len(generated) - len(texts):
        notes.append(f"{file}: studies without a reference, left out: {left_out}.")
    if empty := sum(generated[study] is None for study in texts):
        notes.append(f"{file}: generated reports that are missing, scored as empty: {empty}.")
    records = [make_record(study, reference, text) for study, (text, reference) in texts.items()]
    return Predictions(
        records, [text for text, _ in texts.values()], [reference for _, reference in texts.values()], kind, notes=notes
    )
