"""A prepared folder: a table of studies beside a store of their images, resized once.

prepared.json     format version, settings, summary of what was kept and dropped
studies.parquet   one row per study, under `study_table.SCHEMA`
images/00000.bin  grayscale views, see `store`; they may be elsewhere, see `remote_store`
dropped.jsonl     one line per study or view left out
"""

import reprlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from hardneg_plugin.data.file_source import FileSource, FileSplit
from hardneg_plugin.data.framing import Framing
from hardneg_plugin.data.leakage import ImageKeys
from hardneg_plugin.data.remote_store import RemoteStore
from hardneg_plugin.data.store import ImageStore
from hardneg_plugin.data.studies import SPLITS, SplitName
from hardneg_plugin.data.study_table import Columns, check_texts, view_keys
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import read_json

VERSION = 1
DESCRIPTION, TABLE, IMAGES, DROPPED = "prepared.json", "studies.parquet", "images", "dropped.jsonl"


class PreparedStudies(FileSource["PreparedSplit"]):
    """A `StudySource` over a folder written by hardneg-prepare.

    If `resize` is the prepared size, training crops equal those of the original files pixel by pixel. Whole images, as
    evaluation sees them, differ slightly: they are resized to a square after they were resized by their shorter side.

    Args:
        root: the prepared folder.
        images: URL of its shards where they are elsewhere, such as s3://bucket/prepared/images; None: they are in the folder.
        resize: pixels of the shorter side before the random crop of training; at most the prepared size.
        crop: pixels of the square that a model sees; in [1, `resize`].
        boxes: file of the anatomy's regions in the images, by study id (`BoxTable`); None: no boxes.
        findings: "english": findings are read out of the reports by the rules of `knowledge`; None for reports in another language.
        check: "sizes" compares the sizes of the files with the table; "checksums" also reads every image.

    Raises:
        UserError: the folder is incomplete, or was prepared at a smaller size.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        images: str | None = None,
        resize: int = 256,
        crop: int = 224,
        boxes: str | Path | None = None,
        findings: str | None = "english",
        check: Literal["sizes", "checksums"] = "sizes",
    ) -> None:
        framing = Framing(resize=resize, crop=crop, boxes=boxes)
        if check not in ("sizes", "checksums"):
            raise UserError(f"Expected `check` to be 'sizes' or 'checksums', but got {check!r}.")
        home = Path(root).absolute()
        size = read_description(home)["settings"]["size"]
        if resize > size:
            raise UserError(
                f"resize: expected at most {size} pixels, as {home} was prepared with, but got {resize}. Set a smaller "
                f"one, or prepare it anew with size={resize}."
            )
        store = ImageStore(home / IMAGES) if images is None else RemoteStore(images)
        splits = {name: PreparedSplit(home / TABLE, name, store, framing) for name in SPLITS}
        check_texts(home / TABLE, splits)
        _check_shards(list(splits.values()), store)
        super().__init__(splits, framing, findings)
        self._table = home / TABLE
        if check == "checksums":
            for split in splits.values():
                split.check()

    def image_keys(self) -> ImageKeys:
        """By split, for each study the keys of its views; see `HasImageKeys`."""
        return view_keys(self._table)


class PreparedSplit(Columns, FileSplit):
    """The studies of one split; made by `PreparedStudies`.

    Pickled as what it is made from: a spawned process reads the table itself.
    """

    def __init__(self, table: Path, name: SplitName, store: ImageStore, framing: Framing) -> None:
        Columns.__init__(self, table, name)
        FileSplit.__init__(self, framing)
        self._made_from, self._store = (table, name, store, framing), store

    def __reduce__(self) -> tuple[Any, ...]:
        return PreparedSplit, self._made_from

    def read_views(self, index: int, shorter_side: int) -> list[Tensor]:
        """The views of a study as stored, at any `shorter_side`; see `FileSplit.read_views`."""
        return self._store.views(self.ids[index], *self.place(index))

    def image_marks(self) -> Iterator[str]:
        """The checksum of the images of each study; see `HasImageMarks`."""
        return map(str, self.checksums.tolist())

    def check(self) -> None:
        """Read all images and compare their checksums.

        Raises:
            UserError: the first that differs.
        """
        for index, study in enumerate(self.ids):
            self._store.check(study, *self.place(index))


def read_description(root: Path) -> dict[str, Any]:
    """The content of a folder's prepared.json.

    Raises:
        UserError: the file is missing, or of another version.
    """
    file = root / DESCRIPTION
    if not file.is_file():
        raise UserError(
            f"Expected a folder written by hardneg-prepare, but {root} has no {DESCRIPTION}. Prepare it, or set data.root."
        )
    content: dict[str, Any] = read_json(file, "description")
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(
            f"Expected a folder of version {VERSION}, but {file} says {reprlib.repr(version)}. Prepare it anew."
        )
    settings = content.get("settings")
    if not isinstance(settings, dict) or type(settings.get("size")) is not int:
        raise UserError(f"Expected the settings of hardneg-prepare in {file}, but they are missing. Prepare it anew.")
    return content


def _check_shards(columns: Sequence[Columns], store: ImageStore) -> None:
    """Check that every shard is exactly as large as the table says."""
    shards = np.concatenate([each.shards for each in columns])
    ends = np.concatenate([each.ends() for each in columns])

    def study(row: int) -> str:
        ids = chain.from_iterable(each.ids for each in columns)
        return f"Study {next(islice(ids, row, None))!r}"

    if len(broken := np.flatnonzero(np.isnan(ends))):
        raise UserError(
            f"{study(int(broken[0]))}: the table gives an impossible place of its images "
            f"({len(broken) - 1} more like it). Copy the folder again, or prepare it anew."
        )
    order = np.lexsort((ends, shards))
    last_of_shard = np.append(np.flatnonzero(np.diff(shards[order])), len(order) - 1)
    for row in order[last_of_shard].tolist():
        shard, expected = int(shards[row]), int(ends[row])
        try:
            size = store.size(shard)
        except UserError as error:
            raise UserError(f"{study(row)}: {error}") from error
        if size != expected:
            raise UserError(
                f"{study(row)}: expected {store.path(shard)} to end with its images after {expected} bytes, but it has "
                f"{size}: it is truncated, or of another table. Copy the folder again, or prepare it anew."
            )
