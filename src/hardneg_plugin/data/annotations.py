"""Real data in the R2Gen layout: `annotation.json` with one list of studies per split, and a folder of images."""

import logging
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from hardneg_plugin.data.file_source import FileSource, FileSplit
from hardneg_plugin.data.framing import Framing
from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.data.leakage import ImageKeys
from hardneg_plugin.data.prepared import DESCRIPTION
from hardneg_plugin.data.same_files import file_size, keys_of_files
from hardneg_plugin.data.studies import SPLITS, SplitName
from hardneg_plugin.data.texts import is_missing, visible_text
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import is_unicode, json_kind, read_json

_log = logging.getLogger(__name__)

_PATIENT_KEYS = ("patient", "patient_id", "subject_id")
_IDENTIFIERS = ("id", *_PATIENT_KEYS)


class _Entry(NamedTuple):
    """One study of the annotation file."""

    id: str
    report: str
    patient: str | None
    labels: str | None
    images: tuple[str, ...]


class _EntryFlaw(Exception):
    """What is wrong with one entry or its images; flaws of one kind are reported together, with their number."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class AnnotatedStudies(FileSource["AnnotatedSplit"]):
    """A `StudySource` over `{"train" | "val" | "test": [{"id", "report", "image_path": [...]}]}`.

    Entries may also have a patient ("patient", "patient_id" or "subject_id") and "labels" (a text, or a list of names). Texts
    but ids are read as a reader sees them (`visible_text`); a NaN or "nan" counts as missing. Ids are unique over the whole
    file. Image paths are relative to the folder of images and stay inside it or inside `root`. Lists of other names are left
    out, except a blank name in place of "test" (`read_lists`). Everything is checked once here, so that nothing fails in
    mid-training.

    Args:
        root: folder of the data set.
        annotation: the JSON file (UTF-8), relative to `root`.
        images: the folder of images, relative to `root`.
        resize: pixels of the shorter side before the random crop of training.
        crop: pixels of the square that a model sees; in [1, `resize`].
        boxes: file of the anatomy's regions in the images, by study id (`BoxTable`); None: no boxes.
        findings: "english": findings are read out of the reports by the rules of `knowledge`; None for reports in another language.
        check: "decode" reads every image once (for thousands of images); "stat" checks that the files exist and are not
            empty (for hundreds of thousands), and a broken one is reported when it is read; "none" checks no file, where
            only the reports are needed.

    Raises:
        UserError: the first flaw, with the file, the study and the number of flaws of the same kind.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        annotation: str = "annotation.json",
        images: str = "images",
        resize: int = 256,
        crop: int = 224,
        boxes: str | Path | None = None,
        findings: str | None = "english",
        check: Literal["decode", "stat", "none"] = "decode",
    ) -> None:
        framing = Framing(resize=resize, crop=crop, boxes=boxes)
        if check not in ("decode", "stat", "none"):
            raise UserError(f"Expected `check` to be 'decode', 'stat' or 'none', but got {check!r}.")
        home = Path(root).absolute()
        file, folder = home / annotation, home / images
        self.annotation = file
        """The JSON file."""
        if not file.exists():
            raise UserError(
                f"Expected the annotation file {file}, but it cannot be read (No such file or directory). {_other_reader(home)}"
            )
        lists = read_lists(file)
        if check != "none" and not folder.is_dir():
            raise UserError(
                f"Expected a folder of images at {folder}, but there is none. Put it there, or set `images`."
            )
        studies = _parse_lists(lists, file, folder, check != "none")
        splits = {name: AnnotatedSplit(of_split, folder, framing) for name, of_split in studies.items()}
        super().__init__(splits, framing, findings)
        if check == "decode":
            _raise_first([flaw for split in splits.values() for flaw in split.unreadable()])

    def image_keys(self) -> ImageKeys:
        """By split, for each study the keys of its image files; only files of one size in two splits are read.

        See `HasImageKeys`.
        """
        files = {name: [split.files(index) for index in range(len(split))] for name, split in self.splits.items()}
        return keys_of_files(files)


class AnnotatedSplit(FileSplit):
    """The studies of one split; made by `AnnotatedStudies`."""

    def __init__(self, entries: Sequence[_Entry], folder: Path, framing: Framing) -> None:
        super().__init__(framing)
        self._folder = folder
        # By column: every worker holds hundreds of thousands, and lists of texts take the least memory.
        self.ids = [entry.id for entry in entries]
        self.reports = [entry.report for entry in entries]
        self.patients = [entry.patient for entry in entries]
        self.labels = [entry.labels for entry in entries]
        self._images = [entry.images for entry in entries]

    @property
    def view_counts(self) -> list[int]:
        """Number of views of each study."""
        return [len(names) for names in self._images]

    def files(self, index: int) -> tuple[Path, ...]:
        """The image files of a study, one per view."""
        return tuple(self._folder / name for name in self._images[index])

    def image_marks(self) -> Iterator[str]:
        """The names and sizes of the image files of each study; see `HasImageMarks`."""
        return (repr([(name, file_size(self._folder / name)) for name in names]) for names in self._images)

    def read_views(self, index: int, shorter_side: int) -> list[Tensor]:
        """Decode the files of a study; see `FileSplit.read_views`."""
        try:
            return [read_grayscale(file, shorter_side=shorter_side) for file in self.files(index)]
        except UserError as error:
            raise UserError(f"Study {self.ids[index]!r}: {error}") from error

    def unreadable(self) -> list[_EntryFlaw]:
        """Decode every image once and collect the flaws of those that cannot be read."""

        def try_to_read(index: int) -> _EntryFlaw | None:
            try:
                self.read_views(index, self._framing.crop)
            except UserError as error:
                return _EntryFlaw("unreadable", str(error))
            return None

        with ThreadPoolExecutor() as pool:  # threads, since Pillow decodes outside the interpreter lock
            return [flaw for flaw in pool.map(try_to_read, range(len(self))) if flaw is not None]


def _other_reader(root: Path) -> str:
    """How to read a folder without annotation."""
    if (root / DESCRIPTION).is_file():
        return f"hardneg-prepare wrote {root}: read it with data=prepared."
    return "data=annotations reads R2Gen's layout; of a CSV hardneg-prepare source=listed makes a folder for data=prepared."


def read_lists(file: Path) -> dict[SplitName, list[Any]]:
    """The three lists of an annotation file, entries unchanged.

    Some copies of the annotation of IU X-Ray have their test list under a name of four spaces. A single blank name is
    therefore read as "test" if there is no such list.

    Raises:
        UserError: the file cannot be read, or lacks one of the three lists, or one is empty.
    """
    content = read_json(file, "annotation")
    if not isinstance(content, dict):
        raise UserError(
            f'Expected {{"train": [...], "val": [...], "test": [...]}} in {file}, but got {json_kind(content)}.'
        )
    blank = [name for name in content if not name.strip()]
    if "test" not in content and len(blank) == 1:
        _log.warning(
            '%s: there is no list "test"; the one under the blank name %r is read in its place.', file, blank[0]
        )
        content["test"] = content.pop(blank[0])
    for name in SPLITS:
        if not isinstance(content.get(name), list) or not content[name]:
            got = f"only {sorted(content)}"
            if name in content:
                got = "an empty one" if content[name] == [] else json_kind(content[name])
            raise UserError(f'Expected a list "{name}" with at least one study in {file}, but got {got}.')
    if others := sorted(content.keys() - set(SPLITS)):
        _log.warning("%s: only train, val and test are used; left out: %s.", file, others)
    return {name: content[name] for name in SPLITS}


def _parse_lists(
    lists: Mapping[SplitName, list[Any]], file: Path, folder: Path, check_files: bool
) -> dict[SplitName, list[_Entry]]:
    """Check every entry and, if `check_files`, the files it names."""
    homes = (os.path.realpath(folder), os.path.realpath(file.parent))
    studies: dict[SplitName, list[_Entry]] = {name: [] for name in SPLITS}
    places: dict[str, str] = {}
    flaws: list[_EntryFlaw] = []
    for name, entries in lists.items():
        for index, entry in enumerate(entries):
            place = f"{name}[{index}]"
            try:
                study = _parse_entry(entry)
                if study.id in places:
                    raise _EntryFlaw(
                        "repeated id", f"the id is also that of {places[study.id]}; give each study its own"
                    )
                places[study.id] = place
                for image in study.images if check_files else ():
                    _check_file(image, str(folder), homes)
            except _EntryFlaw as flaw:
                identity = f" (id {reprlib.repr(entry['id'])})" if isinstance(entry, dict) and "id" in entry else ""
                flaws.append(_EntryFlaw(flaw.kind, f"{file}, {place}{identity}: {flaw}."))
            else:
                studies[name].append(study)
    _raise_first(flaws)
    return studies


def _parse_entry(entry: Any) -> _Entry:
    if not isinstance(entry, dict):
        raise _EntryFlaw("entry", f"expected an object with id, report and image_path, but got {json_kind(entry)}")
    images = entry.get("image_path")
    if not isinstance(images, list) or not images:
        raise _flaw_of(entry, "image_path", "a list of at least one path")
    return _Entry(
        id=_text(entry, "id", "a text or an integer"),
        report=_seen(entry, "report", "a text that is not empty"),
        images=tuple(_text({"image_path": image}, "image_path", "a list of paths") for image in images),
        patient=next(
            (_seen(entry, key, "a text or an integer") for key in _PATIENT_KEYS if not is_missing(entry.get(key))), None
        ),
        labels=_labels(entry),
    )


def _text(entry: Mapping[str, Any], key: str, expected: str) -> str:
    value = entry.get(key)
    if type(value) is int and key in _IDENTIFIERS:
        return str(value)
    if not isinstance(value, str) or not value.strip() or not is_unicode(value):
        raise _flaw_of(entry, key, expected)
    return value


def _seen(entry: Mapping[str, Any], key: str, expected: str) -> str:
    """A text as a reader sees it."""
    text = visible_text(_text(entry, key, expected))
    if is_missing(text):
        raise _flaw_of(entry, key, expected)
    return text


def _labels(entry: Mapping[str, Any]) -> str | None:
    labels = entry.get("labels")
    if isinstance(labels, list) and all(isinstance(name, str) and is_unicode(name) for name in labels):
        return "|".join(sorted(set(map(visible_text, labels))))
    if isinstance(labels, str) and is_unicode(labels) and not labels.strip():
        return labels
    if is_missing(labels):
        return None
    if not (isinstance(labels, str) and is_unicode(labels)):
        raise _flaw_of(entry, "labels", "a text or a list of names")
    return visible_text(labels)


def _flaw_of(entry: Mapping[str, Any], key: str, expected: str) -> _EntryFlaw:
    got = reprlib.repr(entry[key]) if key in entry else "no such key"
    return _EntryFlaw(key, f'expected "{key}" to be {expected}, but got {got}; correct or remove the study')


def _check_file(image: str, folder: str, homes: tuple[str, str]) -> None:
    if os.path.isabs(image) or ".." in Path(image).parts or "\0" in image:
        raise _EntryFlaw(
            "path", f"expected image paths inside {folder}, but got {image!r}; write it relative to that folder"
        )
    path = os.path.join(folder, image)
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise _EntryFlaw(
            "missing", f"image {path} cannot be found ({error.strerror}); add it or remove the study"
        ) from error
    if size == 0 or not os.path.isfile(path):
        raise _EntryFlaw("empty", f"image {path} is empty or no file; replace it or remove the study")
    real = os.path.realpath(path)
    if not any(real.startswith(home + os.sep) for home in homes):
        raise _EntryFlaw("link", f"image {path} links to {real}, outside the data set; put the file itself there")


def _raise_first(flaws: Sequence[_EntryFlaw]) -> None:
    if flaws:
        more = sum(flaw.kind == flaws[0].kind for flaw in flaws) - 1
        raise UserError(f"{flaws[0]}" + (f" ({more} more like it.)" if more else ""))
