"""Labels of reports from the files of any labeller."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardneg_plugin.data.downloads.tables import check_columns, column_name, read_table
from hardneg_plugin.data.texts import is_missing
from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.chexpert import CONDITIONS, label_f1
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats

COLUMNS = [column_name(name) for name in CONDITIONS]
VALUES = {1.0, 0.0, -1.0}


@dataclass(frozen=True)
class LabelFiles:
    """The `ClinicalMetric` "labels_F1": F1 of CheXpert labels from two CSV files, in twelve variants (see `label_f1`).

    Each file has a column of study ids and one for each of the 14 labels, with 1, 0, -1 (uncertain) or nothing, as the CheXpert and
    CheXbert labellers and MIMIC-CXR's own table have them. Other columns and other studies are ignored.

    Args:
        generated: the file with the labels of the generated reports.
        references: the file with those of the references.
        id_column: the column of study ids, such as "study_id".
        name: prefix of the scores' names, such as the name of the labeller.

    Raises:
        UserError: in `check` and when called: a file cannot be read, lacks a column, has a study twice or another value. When
            called: it lacks a study. The message names file, line, column and study.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "labels.csv")
    ...     _ = file.write_text(f"id,{','.join(CONDITIONS)}\\na{',1' * 14}\\n")
    ...     LabelFiles(str(file), str(file))(["generated"], ["reference"], ["a"]).values["labels_F1_micro14_uncertain-positive"]
    1.0
    """

    generated: str
    references: str
    id_column: str = "id"
    name: str = "labels"

    def check(self) -> None:
        """See `ClinicalMetric`."""
        for file in (self.generated, self.references):
            read_labels(Path(file), self.id_column)

    def __call__(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> ScoreCard:
        """See `ClinicalMetric`; the texts are not used."""
        rows, reference_rows = (
            _of_studies(Path(file), self.id_column, ids) for file in (self.generated, self.references)
        )
        return label_f1(rows, reference_rows, self.name)


def read_labels(file: Path, id_column: str) -> dict[str, Floats]:
    """Labels `(14,)` by study id, in the order of `CONDITIONS`: 1, 0, -1, and NaN for blank.

    Args:
        file: the CSV file.
        id_column: its column of study ids.

    Raises:
        UserError: see `LabelFiles`.
    """
    key = column_name(id_column)
    labels: dict[str, Floats] = {}
    lines: dict[str, int] = {}
    for line, cells in read_table(file):
        if not lines:
            check_columns(file, cells, [key, *COLUMNS])
        study = cells[key].strip()
        if study in lines:
            raise UserError(f"{file}, line {line}: study {study!r} is repeated, after line {lines[study]}.")
        where = f"{file}, line {line}, study {study!r}"
        labels[study] = np.array([_value(cells[column], f"{where}, column {column!r}") for column in COLUMNS])
        lines[study] = line
    if not labels:
        raise UserError(f"Expected at least one study in {file}, but there is no row below its header.")
    return labels


def _of_studies(file: Path, id_column: str, ids: Sequence[str]) -> Floats:
    labels = read_labels(file, id_column)
    if missing := [study for study in ids if study not in labels]:
        raise UserError(
            f"Expected labels of {len(ids)} studies in {file}, but {len(missing)} are missing, such as {missing[0]!r}. Its column "
            f"{id_column!r} has ids like {next(iter(labels))!r}."
        )
    return np.stack([labels[study] for study in ids])


def _value(cell: str, where: str) -> float:
    if is_missing(cell):
        return float("nan")
    with suppress(ValueError):
        if (value := float(cell)) in VALUES:
            return value
    raise UserError(f"{where}: expected 1, 0, -1 or nothing, but got {cell!r}.")
