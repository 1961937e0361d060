"""From original files to a prepared folder: chunk by chunk, resumable, and put in place when complete."""

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from hardneg_plugin.data.downloads.study import (
    SECTIONS,
    DroppedEntry,
    Originals,
    OriginalStudy,
    Section,
    as_seen,
    text_of,
)
from hardneg_plugin.data.leakage import shared_with_training
from hardneg_plugin.data.prepare.chunks import Chunk, ChunkRecord, store_chunk
from hardneg_plugin.data.prepare.counts import PreparationCounts
from hardneg_plugin.data.prepare.growing_files import growing_file, table_rows, write_dropped
from hardneg_plugin.data.prepare.parallel import map_in_order
from hardneg_plugin.data.prepare.seeded_split import check_shares, seeded_split
from hardneg_plugin.data.prepare.work_folder import GO_ON, WorkFolder, at_work_on, check_replaceable, is_finished
from hardneg_plugin.data.prepared import DESCRIPTION, DROPPED, TABLE, VERSION, read_description
from hardneg_plugin.data.studies import SPLITS, SplitName
from hardneg_plugin.data.study_table import SCHEMA, Columns, view_keys
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import is_unicode, whole_file, writing
from hardneg_plugin.functional.match_keys import match_key
from hardneg_plugin.progress import Work

CHUNK = 256
"""Studies per shard: some tens of megabytes, and the most that a killed command loses."""
SHARES: Mapping[SplitName, float] = {"train": 0.7, "val": 0.1, "test": 0.2}


@dataclass(frozen=True)
class PrepareSettings:
    """What decides a prepared folder, apart from its source.

    Args:
        section: the text that a model learns to write.
        size: pixels of the shorter side of an image, >= 1.
        seed: of the split, if the source has none; >= 0.
        splits: share of the patients in each split, if the source has none; the shares add up to 1.

    Raises:
        UserError: a value is out of its range.
    """

    section: Section = "findings"
    size: int = 256
    seed: int = 0
    splits: Mapping[SplitName, float] = field(default_factory=lambda: dict(SHARES))

    def __post_init__(self) -> None:
        if self.section not in SECTIONS:
            raise UserError(f"section: expected one of {', '.join(SECTIONS)}, but got {self.section!r}.")
        for key, value, lowest in (("size", self.size, 1), ("seed", self.seed, 0)):
            if type(value) is not int or value < lowest:
                raise UserError(f"{key}: expected an integer >= {lowest}, but got {value!r}.")
        check_shares(self.splits)


def build(
    source: Originals,
    output: Path,
    settings: PrepareSettings,
    *,
    described: Any = None,
    workers: int = 0,
    overwrite: bool = False,
    chunk: int = CHUNK,
) -> tuple[dict[str, Any], bool]:
    """Prepare a folder.

    An interrupted command leaves its work in `<output>.part`, and the next one continues from there. The result is the same
    to the byte, whatever the interruptions and the number of workers.

    Args:
        source: the studies.
        output: the folder to make.
        settings: how the studies are prepared.
        described: the source as written to prepared.json.
        workers: processes that read images, >= 0; 0: this one.
        overwrite: replace a prepared folder once the new one is complete.
        chunk: studies per shard, >= 1.

    Returns:
        The summary, and whether the folder is new: False if one with the same settings existed, which is left as it is.

    Raises:
        UserError: whatever a user can cause, including a full disk and another command at work on the folder.
    """
    if type(workers) is not int or workers < 0:
        raise UserError(f"workers: expected an integer >= 0, but got {workers!r}.")
    if type(overwrite) is not bool:
        raise UserError(f"overwrite: expected true or false, but got {overwrite!r}.")
    written = {"source": described, **asdict(settings)}
    with at_work_on(output) as work:
        if overwrite:
            check_replaceable(work.output)
        elif is_finished(work.output, written):
            return read_description(work.output)["summary"], False
        work.begin()
        summary = _fill(source, work, settings, workers, chunk)
        content = {"version": VERSION, "settings": written, "summary": summary}
        description = work.unfinished / DESCRIPTION
        with writing(description, GO_ON), whole_file(description) as file:
            file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(errors="replace"))
        work.put_in_place()
    return summary, True


def _fill(source: Originals, work: WorkFolder, settings: PrepareSettings, workers: int, chunk: int) -> dict[str, Any]:
    """Fill the unfinished folder, except its description; returns the summary."""
    counts = PreparationCounts()
    shards = 0
    with (
        Work("preparing studies", len(source)) as shown,
        # Studies dropped in reading come before unreadable images, so that the order does not depend on timing.
        growing_file(work.unfinished / DROPPED) as dropped,
        growing_file(work.path / DROPPED) as unreadable,
        table_rows(work.unfinished / TABLE) as add_rows,
    ):
        parts = _parts(_usable(source, settings.section, dropped, counts), work, settings.size, chunk, counts)
        with closing(map_in_order(store_chunk, parts, workers, argument=lambda part: part.images)) as done:
            for part, record in done:
                shards += 1
                for entry in record.dropped:
                    counts.drop(entry)
                    write_dropped(unreadable, entry)
                add_rows(_rows_of(part, record, settings, counts))
                shown.done(part.read)
        shown.done(counts.read)
        counts.check(settings.splits)
        with writing(work.path / DROPPED, GO_ON):
            unreadable.seek(0)
            shutil.copyfileobj(unreadable, dropped)
    work.leave_only(shards)
    table = work.unfinished / TABLE
    shared = shared_with_training({name: Columns(table, name) for name in SPLITS}, view_keys(table))
    return {**counts.summary(), "shared_with_train": {name: each._asdict() for name, each in shared.items()}}


class _Part(NamedTuple):
    """A chunk with the texts of its studies; workers get the chunk only."""

    studies: list[OriginalStudy]
    images: Chunk
    read: int
    """Entries of the source read so far."""


def _parts(
    studies: Iterator[OriginalStudy], work: WorkFolder, size: int, chunk: int, counts: PreparationCounts
) -> Iterator[_Part]:
    """Studies in order, `chunk` at a time; the last part may be smaller."""
    for number in itertools.count():
        some = list(itertools.islice(studies, chunk))
        if not some:
            return
        images = tuple((study.id, study.images) for study in some)
        yield _Part(some, Chunk(number, images, work.images, work.records, size), counts.read)


def _usable(
    source: Originals, section: Section, dropped: BinaryIO, counts: PreparationCounts
) -> Iterator[OriginalStudy]:
    """The usable studies of a source; the others are counted and listed."""
    seen: set[int] = set()
    for original in source:
        entry = as_seen(original) if isinstance(original, OriginalStudy) else original
        counts.read += 1
        flaw = entry if isinstance(entry, DroppedEntry) else _flaw(entry, section, seen)
        if flaw is not None:
            counts.drop(flaw)
            write_dropped(dropped, flaw)
        elif isinstance(entry, OriginalStudy):
            seen.add(match_key(entry.id))
            yield entry


def _flaw(study: OriginalStudy, section: Section, seen: set[int]) -> DroppedEntry | None:
    texts = (study.id, study.findings, study.impression, study.report, study.patient or "", study.labels or "")
    if not all(map(is_unicode, texts)):
        return DroppedEntry(study.id, "text is not Unicode")
    if not study.id.strip():
        return DroppedEntry(study.id, "no id")
    if not text_of(study, section).strip():
        return DroppedEntry(
            study.id, f"no {'findings or impression' if section in ('both', 'findings_impression') else section}"
        )
    if not study.images:
        return DroppedEntry(study.id, "no image")
    if match_key(study.id) in seen:
        return DroppedEntry(study.id, "repeated id")
    return None


def _rows_of(part: _Part, record: ChunkRecord, settings: PrepareSettings, counts: PreparationCounts) -> "pa.Table":
    rows = []
    for place, (views, stored) in record.studies.items():
        study = part.studies[place]
        split = study.split or seeded_split(study.id, study.patient, settings.splits, settings.seed)
        counts.add(study, split, views=len(views), size=stored.size)
        rows.append(
            {
                "id": study.id,
                "split": split,
                "report": text_of(study, settings.section),
                "findings": study.findings or None,
                "impression": study.impression or None,
                "patient": study.patient,
                "labels": study.labels,
                "shard": part.images.number,
                "offset": stored.offset,
                "heights": stored.heights,
                "widths": stored.widths,
                "checksum": stored.checksum,
                # a file name need not be Unicode
                "views": [study.images[view].name.encode(errors="replace").decode() for view in views],
                "view_hashes": record.hashes[place],
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)
