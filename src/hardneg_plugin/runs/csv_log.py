"""What a run logged of its training and validation, read back from its CSV logs."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.folder import RunFolder


@dataclass(frozen=True)
class LoggedRow:
    """What was logged at once."""

    step: int
    epoch: int | None
    """From 0; None where it was not logged."""
    values: dict[str, float]
    """Finite, by names such as "train/report_loss" and "val/BLEU-4"."""


def read_csv_log(run: RunFolder) -> list[LoggedRow]:
    """The rows of training and validation in the order in which they were written; none without CSV logs.

    A run that was resumed has several files, the later ones last; where two rows have the same step, the later one counts.

    Raises:
        UserError: a file is no table of numbers.
    """
    files = sorted(run.path.glob("logs/csv/*/metrics.csv"), key=lambda path: (len(str(path)), path))  # version_10 last
    return [row for file in files for row in _read(file)]


def _read(file: Path) -> list[LoggedRow]:
    with file.open(newline="", encoding="utf-8") as lines:
        table = csv.DictReader(lines)
        try:
            rows = [(int(row.pop("step")), {name: float(text) for name, text in row.items() if text}) for row in table]
        except (KeyError, TypeError, ValueError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
            raise UserError(
                f"{file}, line {table.line_num}: expected a table of numbers with the column step, but got {error!r}. Remove the "
                "file to do without its curves."
            ) from error
    # After training the best checkpoint is scored and logged under a further step, which is no point of a curve.
    scored = {step for step, values in rows if any(name.startswith("test/") for name in values)}
    return [
        LoggedRow(
            step,
            int(values["epoch"]) if "epoch" in values else None,
            {
                name: value
                for name, value in values.items()
                if name.startswith(("train/", "val/")) and math.isfinite(value)
            },
        )
        for step, values in rows
        if step not in scored
    ]
