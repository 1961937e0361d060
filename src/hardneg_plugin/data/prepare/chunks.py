"""The images of a few hundred studies at a time: resized into a shard, with a record that says it is done."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor
from torchvision.transforms.v2 import functional as F

from hardneg_plugin.data.downloads.study import DroppedEntry
from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.data.prepare.work_folder import GO_ON
from hardneg_plugin.data.prepared import VERSION
from hardneg_plugin.data.store import StoredViews, shard_name, view_hash, write_shard
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_file, writing


@dataclass(frozen=True)
class Chunk:
    """The images of some studies, and where to store them."""

    number: int
    """The number of the shard."""
    studies: tuple[tuple[str, tuple[Path, ...]], ...]
    """The id and the files of the views of each study."""
    images: Path
    """The folder of shards."""
    records: Path
    """The folder of records."""
    size: int
    """Pixels of the shorter side."""

    @property
    def shard(self) -> Path:
        """The file of the shard."""
        return self.images / shard_name(self.number)

    @property
    def record(self) -> Path:
        """The file of the record."""
        return self.records / f"{self.number:05d}.json"

    def fingerprint(self) -> str:
        """Identifies these studies at this size in a shard of this number; files are compared by size and time."""
        files = [[study, [[os.fspath(path), *_state(path)] for path in paths]] for study, paths in self.studies]
        return hashlib.sha256(json.dumps([VERSION, self.size, files]).encode()).hexdigest()


@dataclass(frozen=True)
class ChunkRecord:
    """The outcome of a chunk."""

    fingerprint: str
    size: int = 0
    """Bytes of the shard."""
    studies: dict[int, tuple[list[int], StoredViews]] = field(default_factory=dict)
    """By place in the chunk, for studies with a readable view: the indices of these views, and where they are stored."""
    dropped: list[DroppedEntry] = field(default_factory=list)
    hashes: dict[int, list[int]] = field(default_factory=dict)
    """By place in the chunk, the `view_hash` of each stored view."""

    def to_json(self) -> bytes:
        """The record as a file."""
        studies = [[k, *v] for k, v in self.studies.items()]
        return json.dumps({**asdict(self), "studies": studies, "hashes": list(self.hashes.items())}).encode()

    @classmethod
    def of_json(cls, text: bytes) -> "ChunkRecord":
        """The record of a file; a ValueError, TypeError or KeyError if it is not one."""
        content = json.loads(text)
        studies = {
            place: (views, StoredViews(offset, tuple(heights), tuple(widths), checksum))
            for place, views, (offset, heights, widths, checksum) in content["studies"]
        }
        dropped = [DroppedEntry(**entry) for entry in content["dropped"]]
        return cls(content["fingerprint"], content["size"], studies, dropped, dict(content["hashes"]))


def store_chunk(chunk: Chunk) -> ChunkRecord:
    """Read, resize and store the images of a chunk, unless that was done before.

    A process killed at any moment leaves either a finished chunk or an unfinished one.

    Raises:
        UserError: the shard cannot be written.
    """
    fingerprint = chunk.fingerprint()
    if (done := _record_of(chunk)) is not None and done.fingerprint == fingerprint:
        return done
    with writing(chunk.record, GO_ON):
        chunk.record.unlink(missing_ok=True)  # first: it must never stand beside another shard
    kept: dict[int, list[int]] = {}
    dropped: list[DroppedEntry] = []
    hashes: dict[int, list[int]] = {}
    with writing(chunk.shard, GO_ON), whole_file(chunk.shard) as file:
        stored = write_shard(file, _read_studies(chunk, kept, dropped, hashes))
    size = sum(each.size for each in stored)
    studies = {place: (views, each) for (place, views), each in zip(kept.items(), stored, strict=True)}
    record = ChunkRecord(fingerprint, size, studies, dropped, hashes)
    with writing(chunk.record, GO_ON), whole_file(chunk.record) as file:
        file.write(record.to_json())
    return record


def _read_studies(
    chunk: Chunk, kept: dict[int, list[int]], dropped: list[DroppedEntry], hashes: dict[int, list[int]]
) -> Iterator[list[Tensor]]:
    """The views of each study that has a readable one; fills `kept`, `dropped` and `hashes`."""
    for place, (study, paths) in enumerate(chunk.studies):
        views = {}
        for index, path in enumerate(paths):
            try:
                # as in training from files, so that the crops are equal
                image = read_grayscale(path, shorter_side=chunk.size)
                views[index] = F.resize(image, [chunk.size], antialias=True)
            except UserError as error:
                dropped.append(DroppedEntry(study, "unreadable image", str(error)))
        if views:
            kept[place] = list(views)
            hashes[place] = list(map(view_hash, views.values()))
            yield list(views.values())
        else:
            dropped.append(DroppedEntry(study, "no readable image"))


def _record_of(chunk: Chunk) -> ChunkRecord | None:
    """The record of a complete shard."""
    try:
        record = ChunkRecord.of_json(chunk.record.read_bytes())
        return record if record.size == chunk.shard.stat().st_size else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _state(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]
