"""From original files to a prepared folder: chunk by chunk, resumable, and put in place when complete."""

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from tqdm import tqdm

from hardneg_plugin.data.downloads.study import SECTIONS, DroppedEntry, Originals, OriginalStudy, Section, text_of
from hardneg_plugin.data.prepare.chunks import Chunk, ChunkRecord, store_chunk
from hardneg_plugin.data.prepare.counts import PreparationCounts
from hardneg_plugin.data.prepare.growing_files import DroppedLines, TableRows
from hardneg_plugin.data.prepare.parallel import map_in_order
from hardneg_plugin.data.prepare.seeded_split import check_shares, seeded_split
from hardneg_plugin.data.prepare.work_folder import GO_ON, WorkFolder, at_work_on, check_replaceable, is_finished
from hardneg_plugin.data.prepared import DESCRIPTION, DROPPED, TABLE, VERSION, read_description
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.data.study_table import SCHEMA
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import is_unicode, whole_file, writing
from hardneg_plugin.functional.match_keys import match_key

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
        shares: of the patients in each split, if the source has none; they add up to 1.

    Raises:
        UserError: a value is out of its range.
    """

    section: Section = "findings"
    size: int = 256
    seed: int = 0
    shares: Mapping[SplitName, float] = field(default_factory=lambda: dict(SHARES))

    def __post_init__(self) -> None:
        if self.section not in SECTIONS:
            raise UserError(f"section: expected one of {', '.join(SECTIONS)}, but got {self.section!r}.")
        for key, value, lowest in (("size", self.size, 1), ("seed", self.seed, 0)):
            if type(value) is not int or value < lowest:
                raise UserError(f"{key}: expected an integer >= {lowest}, but got {value!r}.")
        check_shares(self.shares)


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
    for key, value, kind in (("workers", workers, int), ("overwrite", overwrite, bool)):
        if type(value) is not kind or value < 0:
            raise UserError(f"{key}: expected {_EXPECTED[kind]}, but got {value!r}.")
    written = {
        "source": described,
        "section": settings.section,
        "size": settings.size,
        "seed": settings.seed,
        "splits": dict(settings.shares),
    }
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


_EXPECTED = {int: "an integer >= 0", bool: "true or false"}


def _fill(source: Originals, work: WorkFolder, settings: PrepareSettings, workers: int, chunk: int) -> dict[str, Any]:
    """Fill the unfinished folder, except its description; returns the summary."""
    counts = PreparationCounts()
    shards = 0
    with ExitStack() as stack:
        # disable=None: only on a terminal
        bar = stack.enter_context(tqdm(total=len(source), unit="study", disable=None, desc="preparing"))
        # Studies dropped in reading come before unreadable images, so that the order does not depend on timing.
        dropped = stack.enter_context(DroppedLines(work.unfinished / DROPPED))
        unreadable = stack.enter_context(DroppedLines(work.path / DROPPED))
        rows = stack.enter_context(TableRows(work.unfinished / TABLE))
        parts = _parts(_UsableStudies(source, settings, dropped, counts), work, settings.size, chunk)
        done = map_in_order(store_chunk, parts, workers, argument=lambda part: part.images)
        for part, record in stack.enter_context(closing(done)):
            shards += 1
            for entry in record.dropped:
                counts.drop(entry)
                unreadable.add(entry)
            rows.add(_rows_of(part, record, settings, counts))
            bar.update(part.read - bar.n)
        bar.update(counts.read - bar.n)
        counts.check(settings.shares)
        rows.finish()
        unreadable.finish()
        dropped.append(work.path / DROPPED)
        dropped.finish()
    work.leave_only(shards)
    return counts.summary()


class _Part(NamedTuple):
    """A chunk with the texts of its studies; workers get the chunk only."""

    studies: list[OriginalStudy]
    images: Chunk
    read: int
    """Entries of the source read so far."""


def _parts(usable: "_UsableStudies", work: WorkFolder, size: int, chunk: int) -> Iterator[_Part]:
    """Studies in order, `chunk` at a time; the last part may be smaller."""
    studies = iter(usable)
    for number in itertools.count():
        some = list(itertools.islice(studies, chunk))
        if not some:
            return
        images = tuple((study.id, study.images) for study in some)
        yield _Part(some, Chunk(number, images, work.images, work.records, size), usable.counts.read)


class _UsableStudies:
    """The usable studies of a source; the others are counted and listed."""

    def __init__(
        self, source: Originals, settings: PrepareSettings, dropped: DroppedLines, counts: PreparationCounts
    ) -> None:
        self._source, self._settings, self._dropped, self.counts = source, settings, dropped, counts
        self._seen: set[int] = set()

    def __iter__(self) -> Iterator[OriginalStudy]:
        for entry in self._source:
            self.counts.read += 1
            dropped = entry if isinstance(entry, DroppedEntry) else self._flaw(entry)
            if dropped is not None:
                self.counts.drop(dropped)
                self._dropped.add(dropped)
            elif isinstance(entry, OriginalStudy):
                self._seen.add(match_key(entry.id))
                yield entry

    def _flaw(self, study: OriginalStudy) -> DroppedEntry | None:
        texts = (study.id, study.findings, study.impression, study.report, study.patient or "", study.labels or "")
        if not all(map(is_unicode, texts)):
            return DroppedEntry(study.id, "text is not Unicode")
        if not study.id.strip():
            return DroppedEntry(study.id, "no id")
        if not text_of(study, self._settings.section).strip():
            wanted = "findings or impression" if self._settings.section == "both" else self._settings.section
            return DroppedEntry(study.id, f"no {wanted}")
        if not study.images:
            return DroppedEntry(study.id, "no image")
        if match_key(study.id) in self._seen:
            return DroppedEntry(study.id, "repeated id")
        return None


def _rows_of(part: _Part, record: ChunkRecord, settings: PrepareSettings, counts: PreparationCounts) -> "pa.Table":
    rows = []
    for place, (views, stored) in record.studies.items():
        study = part.studies[place]
        split = study.split or seeded_split(study.id, study.patient, settings.shares, settings.seed)
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
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)
