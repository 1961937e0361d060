"""Images on a command line: files, folders and tables as studies of one or several views."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardneg_plugin.apps.shared.typed_paths import typed_path
from hardneg_plugin.data.downloads.listed import images_of_studies
from hardneg_plugin.data.downloads.tables import TABLE_SUFFIXES
from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.shell import command_line

SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom", "")
"""Of image files in a folder; DICOM files often have none."""
MOST_VIEWS = 12
"""Of one study: a folder in a folder with more images is no study."""


@dataclass(frozen=True)
class StudyFiles:
    """One study to write a report for: its name, and a file per view."""

    id: str
    files: tuple[Path, ...]


def studies_of_arguments(images: Sequence[Any], columns: Mapping[str, str | None] | None = None) -> list[StudyFiles]:
    """The studies that arguments name, in their order.

    Args:
        images: any number of: an image, which is a study by that name; a list of images, the views of one study; a folder, in
            which each image is a study and each folder below is one study of several views; a table as hardneg-prepare reads it
            (`ListedStudies`), with paths relative to the table.
        columns: of tables: their names for id and images, where they are not common ones.

    Raises:
        UserError: there is no study, a file is missing, a folder below a folder has too many images for a study, or two studies
            have one name.
    """
    studies = [study for argument in images for study in _studies(argument, columns)]
    if not studies:
        raise UserError("images: expected at least one, but got none: hardneg-predict RUN IMAGE..., or images=...")
    ((name, times),) = Counter(study.id for study in studies).most_common(1)
    if times > 1:
        raise UserError(f"images: expected every study once, but {name} comes {times} times.")
    return studies


def _studies(argument: Any, columns: Mapping[str, str | None] | None) -> list[StudyFiles]:
    if isinstance(argument, list):
        if not argument or not all(isinstance(view, str) for view in argument):
            raise UserError(f"images: expected the paths of the views of a study, but got {argument}.")
        return [StudyFiles(" + ".join(argument), tuple(map(Path, argument)))]
    if not isinstance(argument, str) or not argument:
        raise UserError(f"images: expected a path, but got {argument!r}.")
    path = Path(typed_path(argument))
    if path.is_dir():
        return _studies_of_folder(path)
    if path.suffix.lower() in TABLE_SUFFIXES:
        studies = [StudyFiles(*study) for study in images_of_studies(path, columns).items()]
        if not studies:
            raise UserError(f"Expected studies in {path}, but there is none.")
        return studies
    return [StudyFiles(argument, (path,))]


def _studies_of_folder(top: Path) -> list[StudyFiles]:
    studies = []
    for folder, below, names in os.walk(top):
        below[:] = sorted(name for name in below if not name.startswith("."))
        visible = (Path(folder, name) for name in sorted(names) if not name.startswith("."))
        files = [file for file in visible if file.suffix.lower() in SUFFIXES]
        if Path(folder) == top:
            studies += [StudyFiles(file.name, (file,)) for file in files]
        elif len(files) > MOST_VIEWS:
            raise UserError(
                f"images: expected a study in each folder below {top}, but {folder} holds {len(files)} images, too many views of "
                f"one study. Where each is a study: {command_line('hardneg-predict RUN', Path(folder))}."
            )
        elif files:
            studies.append(StudyFiles(Path(folder).relative_to(top).as_posix(), tuple(files)))
    if not studies:
        raise UserError(f"Expected images in {top} (PNG, JPEG or DICOM), but there are none in it or below it.")
    return studies
