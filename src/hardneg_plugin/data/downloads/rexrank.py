"""Studies in ReXrank's JSON: by id, with the paths of their images and the sections of their report."""

import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hardneg_plugin.data.downloads.folders import path_within
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.data.texts import is_missing
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import json_kind, read_json

_SPLITS: Mapping[str, SplitName] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "val"),
    "test": "test",
}
_PATIENTS = ("subject_id", "patient_id")
Views = Literal["all", "key"]


class ReXrankStudies:
    """The studies of one or several files of ReXrank, as `Originals`, in their order.

    An entry has "image_path" (paths, with or without "/" before them) and, of its report, "section_findings" and
    "section_impression"; a NaN, null or blank section is missing. "split", "subject_id" and "key_image_path" are read where they
    are. Studies without an image are dropped, as are images that are not there and, if any study has a split, studies without one.

    Args:
        files: the JSON files, such as one for each split; an id is in one of them.
        images: folder that the paths are relative to.
        views: "all", or "key" for the frontal image that ReXrank names.

    Raises:
        UserError: a file is not of this kind, an id is repeated, a split is unknown, or a path leaves the folder.
    """

    def __init__(self, files: str | Path | Sequence[str | Path], images: str | Path, views: Views = "all") -> None:
        if views not in ("all", "key"):
            raise UserError(f"Expected `views` to be 'all' or 'key', but got {views!r}.")
        self._folder, self._views = Path(images).absolute(), views
        if not self._folder.is_dir():
            raise UserError(f"Expected a folder of images at {self._folder}, but there is none. Set `images`.")
        self._entries: dict[str, Mapping[str, Any]] = {}
        for file in map(Path, [files] if isinstance(files, str | Path) else files):
            for study, entry in read_rexrank(file).items():
                if study in self._entries:
                    raise UserError(f"{file}: study {study!r} is repeated. Give each study once.")
                _check(entry, f"{file}, study {study!r}")
                self._entries[study] = entry
        self._has_split = any("split" in entry for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[OriginalStudy | DroppedEntry]:
        for study, entry in self._entries.items():
            if self._has_split and "split" not in entry:
                yield DroppedEntry(study, "no split")
                continue
            images: list[Path] = []
            for name in views_of(entry, self._views):
                path = path_within(self._folder, name.lstrip("/"))
                if os.path.isfile(path):
                    images.append(path)
                else:
                    yield DroppedEntry(study, "image not found", name)
            if not images:
                yield DroppedEntry(study, "no image")
                continue
            patient = next((entry[key] for key in _PATIENTS if not is_missing(entry.get(key))), None)
            yield OriginalStudy(
                id=study,
                images=tuple(images),
                findings=section_text(entry, "findings"),
                impression=section_text(entry, "impression"),
                patient=None if patient is None else str(patient),
                split=_SPLITS[entry["split"].lower()] if "split" in entry else None,
            )


def read_rexrank(file: Path) -> dict[str, dict[str, Any]]:
    """The entries of a file of ReXrank by study.

    Raises:
        UserError: it cannot be read, or is not an object of objects.
    """
    content = read_json(file, "ReXrank")
    if not isinstance(content, dict) or not content:
        kind = "an empty one" if content == {} else json_kind(content)
        raise UserError(f"Expected an object with an entry for each study in {file}, but got {kind}.")
    for study, entry in content.items():
        if not isinstance(entry, dict):
            raise UserError(f"{file}, study {study!r}: expected an object, but got {json_kind(entry)}.")
    return content


def views_of(entry: Mapping[str, Any], views: Views = "all") -> list[str]:
    """The paths of an entry's images; empty where it has none.

    Args:
        entry: of one study.
        views: "all", or "key" for the frontal one; all if none is named.
    """
    names = entry.get("image_path", [])
    names = [names] if isinstance(names, str) else names
    key = entry.get("key_image_path")
    return [key] if key is not None and (views == "key" or not names) else list(names or [])


def section_text(entry: Mapping[str, Any], section: str) -> str:
    """A section of an entry's report, without white space at its ends; empty where it is missing.

    Args:
        entry: of one study.
        section: "findings" or "impression".
    """
    text = entry.get(f"section_{section}", entry.get(section))
    return "" if is_missing(text) else str(text).strip()


def _check(entry: Mapping[str, Any], place: str) -> None:
    images = views_of(entry)
    if not all(isinstance(name, str) and name for name in images):
        raise UserError(f'{place}: expected "image_path" to be a list of paths, but got {reprlib.repr(images)}.')
    for key in ("section_findings", "section_impression"):
        if not is_missing(entry.get(key)) and not isinstance(entry[key], str):
            raise UserError(f'{place}: expected "{key}" to be a text or missing, but got {json_kind(entry[key])}.')
    split = entry.get("split", "test")
    if not isinstance(split, str) or split.lower() not in _SPLITS:
        raise UserError(f'{place}: expected "split" to be train, val or test, but got {reprlib.repr(split)}.')
