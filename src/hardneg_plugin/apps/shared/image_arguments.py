"""Images on a command line: files, folders and tables as studies of one or several views."""

import csv
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardneg_plugin.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", "")
"""Of image files in a folder; DICOM files often have none."""


@dataclass(frozen=True)
class StudyFiles:
    """One study to write a report for: its name, and a file per view."""

    id: str
    files: tuple[Path, ...]


def studies_of_arguments(images: Sequence[Any]) -> list[StudyFiles]:
    """The studies that arguments name, in their order.

    Args:
        images: any number of: an image, which is a study by that name; a list of images, the views of one study; a folder, in
            which each image is a study and each folder below is one study of several views; a .csv table with the columns id
            and images ("|" between views), with paths relative to the table.

    Raises:
        UserError: there is no study, a file is missing, or two studies have one name.
    """
    studies = [study for argument in images for study in _studies(argument)]
    if not studies:
        raise UserError("images: expected at least one, but got none: hardneg-predict RUN IMAGE..., or images=...")
    ((name, times),) = Counter(study.id for study in studies).most_common(1)
    if times > 1:
        raise UserError(f"images: expected every study once, but {name} comes {times} times.")
    return studies


def _studies(argument: Any) -> list[StudyFiles]:
    if isinstance(argument, list):
        if not argument or not all(isinstance(view, str) for view in argument):
            raise UserError(f"images: expected the paths of the views of a study, but got {argument}.")
        return [StudyFiles(" + ".join(argument), tuple(map(Path, argument)))]
    if not isinstance(argument, str) or not argument:
        raise UserError(f"images: expected a path, but got {argument!r}.")
    path = Path(argument)
    if path.is_dir():
        return _studies_of_folder(path)
    if path.suffix.lower() == ".csv":
        return list(_studies_of_table(path))
    return [StudyFiles(argument, (path,))]


def _studies_of_folder(top: Path) -> list[StudyFiles]:
    studies = []
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if not name.startswith("."))
        visible = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        files = [file for file in visible if file.suffix.lower() in SUFFIXES]
        if Path(folder) == top:
            studies += [StudyFiles(file.name, (file,)) for file in files]
        elif files:
            studies.append(StudyFiles(Path(folder).relative_to(top).as_posix(), tuple(files)))
    if not studies:
        raise UserError(f"Expected images in {top} (PNG, JPEG or DICOM), but there are none in it or below it.")
    return studies


def _studies_of_table(table: Path) -> Iterator[StudyFiles]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if not {"id", "images"} <= set(reader.fieldnames or ()):
                found = ", ".join(map(str, reader.fieldnames or ())) or "nothing"
                raise UserError(f"Expected a table with the columns id and images, but {table} has {found}.")
            for row in reader:
                name = (row["id"] or "").strip()
                files = [part.strip() for part in (row["images"] or "").split("|") if part.strip()]
                if not name or not files:
                    raise UserError(f"Expected an id and at least one image in {table}, line {reader.line_num}.")
                yield StudyFiles(name, tuple(table.parent / part for part in files))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"Expected a table (CSV, UTF-8), but {table} cannot be read: {error}.") from error
