"""Studies as a folder of the library `datasets`, which its users exchange: written from a prepared folder, and read as a source."""

import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy, label_text
from hardneg_plugin.data.prepared import PreparedStudies, read_description
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.files import whole_folder, writing

# datasets takes seconds to import, and is an extra: functions import it.

NAMES: dict[str, SplitName] = {
    "train": "train",
    **dict.fromkeys(("validation", "valid", "val", "dev"), "val"),
    "test": "test",
}
"""Our splits by the names that public data sets have for them; the first is written."""
_ROWS = 16
"""Studies read at a time."""
TEXTS = ("report", "findings", "impression")


def write_datasets_folder(prepared: str | Path, folder: str | Path) -> None:
    """Write a prepared folder as a `datasets.DatasetDict`, as its `save_to_disk` does: all of it, or nothing.

    Its splits are train, validation and test; its columns id, images (PNG of the prepared size), report, patient and labels (as in
    `OriginalStudy`). Texts and pixels stay as they are.

    Args:
        prepared: what hardneg-prepare wrote.
        folder: is made; or is empty.

    Raises:
        UserError: the package is missing, the prepared folder cannot be read, or the other exists or cannot be written.
    """
    library, target = _library(), Path(folder).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"{target} exists already and is left as it is. Name another folder.")
    size = read_description(Path(prepared).absolute())["settings"]["size"]
    source = PreparedStudies(prepared, resize=size, crop=size, findings=None)
    columns = {name: library.Value("string") for name in ("id", "report", "patient", "labels")}
    features = library.Features({**columns, "images": [library.Image()]})
    with (
        writing(target, "Make room, or name another folder."),
        whole_folder(target) as unfinished,
        tempfile.TemporaryDirectory(dir=target.parent) as cache,
    ):
        made = {
            public: library.Dataset.from_generator(
                _rows, gen_kwargs={"source": source, "split": NAMES[public]}, features=features, cache_dir=cache
            )
            for public in ("train", "validation", "test")
        }
        library.DatasetDict(made).save_to_disk(str(unfinished))


class DatasetsFolder:
    """The studies of a folder that `datasets` wrote by `save_to_disk`, as `Originals`.

    It is a `DatasetDict` with the splits train, validation and test, which stay; or one `Dataset`, which gets a seeded split. Its
    columns are id (or study_id), images (a list) or image, and one or more of report, findings and impression; if known patient and
    labels (a text with "|", or a list). Images are embedded, as `save_to_disk` writes them. They are unpacked into a folder for
    temporary files, which needs room for all of them; a command that was interrupted reads them anew.

    Args:
        root: the folder.

    Raises:
        UserError: the package is missing, or the folder is none of `datasets`, or has other splits or columns.
    """

    def __init__(self, root: str | Path) -> None:
        library, self._root = _library(), Path(root).absolute()
        try:
            found = library.load_from_disk(str(self._root))
        except Exception as error:  # a damaged or foreign folder makes it raise errors of many kinds
            raise UserError(
                f"Expected a folder that datasets wrote by save_to_disk, but {self._root} cannot be read ({first_line(error)})."
            ) from error
        parts = dict(found) if isinstance(found, library.DatasetDict) else {"": found}
        if unknown := sorted(name for name in parts if name and name not in NAMES):
            raise UserError(f"{self._root}: expected splits among {', '.join(NAMES)}, but got {', '.join(unknown)}.")
        self._parts = {name: _as_stored(part, self._root) for name, part in parts.items()}
        self._unpacked = tempfile.TemporaryDirectory(prefix="hardneg_datasets_")

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))

    def __iter__(self) -> Iterator[OriginalStudy | DroppedEntry]:
        for name, part in self._parts.items():
            rows = (row for batch in part.iter(batch_size=_ROWS) for row in batch.to_pylist())
            for number, row in enumerate(rows):
                study = str(row["id"])
                place = Path(self._unpacked.name, name or "all", str(number))
                given = row.get("images", row.get("image"))
                images = list(_unpacked(given if isinstance(given, list) else [given], place))
                if None in images:
                    yield DroppedEntry(study, "image not found", "of a study whose images are not in the folder")
                    continue
                yield OriginalStudy(
                    id=study,
                    images=tuple(image for image in images if image is not None),
                    patient=None if row.get("patient") is None else str(row["patient"]),
                    labels=_labels(row.get("labels")),
                    split=NAMES.get(name),
                    **{text: (row.get(text) or "").strip() for text in TEXTS},
                )


def _rows(source: PreparedStudies, split: SplitName) -> Iterator[dict[str, Any]]:
    studies = source.split(split)
    columns = zip(studies.ids, studies.reports, studies.patients, studies.labels, strict=True)
    for index, (study, report, patient, labels) in enumerate(columns):
        images = []
        for view in studies.read_views(index, 1):  # as they are stored
            file = io.BytesIO()
            Image.fromarray(view[0].numpy()).save(file, "PNG")
            images.append({"bytes": file.getvalue(), "path": None})
        yield {"id": study, "report": report, "patient": patient, "labels": labels, "images": images}


def _as_stored(part: Any, root: Path) -> Any:
    """A split under our names of columns, its images as the bytes of their files."""
    names = part.column_names
    if "id" not in names and "study_id" in names:
        part = part.rename_column("study_id", "id")
    is_single = "images" not in names and "image" in names
    missing = [
        name for name in ("id", "images") if name not in part.column_names and not (name == "images" and is_single)
    ]
    if not set(TEXTS) & set(names):
        missing.append(", ".join(TEXTS[:-1]) + f" or {TEXTS[-1]}")
    if missing:
        raise UserError(f"{root}: expected columns {' and '.join(missing)}, but got {', '.join(names)}.")
    kind = part.features.arrow_schema.field("image" if is_single else "images").type
    kind = kind if is_single else getattr(kind, "value_type", kind)
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise UserError(f"{root}: expected images in the column images or image, but its values are {kind}.")
    return part.with_format("arrow")  # as they are stored; a cast would write a cache into the folder


def _unpacked(images: Iterable[Any], place: Path) -> Iterator[Path | None]:
    """The files of a study; None for an image that is not in the folder but somewhere on a machine."""
    for view, image in enumerate(images):
        if image is None or not image.get("bytes"):
            yield None
            continue
        file = place / f"{view}.image"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as opened:
            opened.write(image["bytes"])
        yield file


def _labels(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return label_text(map(str, value))


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "source=datasets needs the package datasets: pip install 'hardneg-plugin[datasets]'."
        ) from error
    return datasets
