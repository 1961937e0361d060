"""The table of nearest studies: for each study the studies whose reports are closest to its report."""

import json
import logging
import re
import reprlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import json_kind, read_json, whole_file, writing
from hardneg_plugin.parquet_file import read_parquet

_log = logging.getLogger(__name__)

METADATA = b"hardneg_mine"
"""The key of the settings and counts, in JSON, in the metadata of a Parquet table's schema."""


def read_neighbours(path: str | Path) -> dict[str, list[str]]:
    """The nearest studies of each study, nearest first; a study may have none.

    The file is one of
    - `.parquet`: the columns `study` and `neighbours` of `write_neighbours`;
    - JSON: `{study id: [ids]}`, ids being texts, or integers that are read as texts;
    - JSON: an annotation in the R2Gen layout whose training entries have `neg_report` and `neg_image_path`, as released with
      ITHN. A negative is the training study with these images, or else the only one with this report, or with one that reads
      the same once it is cleaned as released. Of several negatives of a study the first counts. A negative that is no such study,
      or the study itself, is left out with a warning.

    Raises:
        UserError: the file is missing, empty or no such table; a study has itself or another one twice as its neighbour; or no
            negative of an annotation is known.
    """
    file = Path(path)
    if file.suffix == ".parquet":
        return _checked(_read_parquet(file), file)
    content = read_json(file, "neighbour table")
    if not isinstance(content, dict):
        raise UserError(f"Expected {{study id: [ids, nearest first]}} in {file}, but got {json_kind(content)}.")
    entries = content.get("train")
    if isinstance(entries, list) and entries and isinstance(entries[0], dict):  # not the neighbours of a study "train"
        return _read_annotation(entries, file)
    return _checked(content.items(), file)


def neighbours_within(
    table: Mapping[str, Sequence[str]], studies: Sequence[str], path: str | Path, setting: str
) -> list[list[int]]:
    """The neighbours of each study of a training split that are in it too, as places in the split, nearest first.

    Args:
        table: from `read_neighbours`.
        studies: the ids of the split.
        path: of the table, for the message.
        setting: that names it, for the message.

    Raises:
        UserError: no study has a neighbour there.

    >>> neighbours_within({"a": ["x", "b"], "b": []}, ["b", "a"], "table.json", "sampler.table")
    [[], [0]]
    """
    place_of = {study: place for place, study in enumerate(studies)}
    neighbours = [[place_of[name] for name in table.get(study, ()) if name in place_of] for study in studies]
    if not any(neighbours):
        raise UserError(
            f"Expected neighbours of the training studies, such as {studies[0]!r}, in {path}, but got those of "
            f"{next(iter(table))!r} and {len(table) - 1} others, none with a neighbour in training: it was mined on other "
            f"data. Set {setting} to one of this training split."
        )
    return neighbours


def write_neighbours(
    path: str | Path,
    studies: Sequence[str],
    neighbours: Sequence[Sequence[str]],
    scores: Sequence[Sequence[float]],
    metadata: Mapping[str, Any],
) -> None:
    """Write a table that `read_neighbours` reads, as Parquet: whole, or not at all.

    Args:
        path: the file.
        studies: N ids: the column `study`.
        neighbours: of each study the ids of its neighbours, nearest first: the column `neighbours`.
        scores: of each study the cosines of these: the column `scores`, float32.
        metadata: plain values, written as JSON under `METADATA` in the schema.

    Raises:
        UserError: the file cannot be written.
    """
    import pyarrow as pa  # imported where used: a plug-in without a table does not need it
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("study", pa.string()), ("neighbours", pa.list_(pa.string())), ("scores", pa.list_(pa.float32()))],
        metadata={METADATA: json.dumps(metadata, allow_nan=False).encode()},
    )
    columns = {"study": studies, "neighbours": neighbours, "scores": scores}
    with writing(Path(path), "It is unchanged."), whole_file(Path(path)) as file:
        pq.write_table(pa.table(columns, schema=schema), file)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `write_neighbours` was given; empty where the file has none."""
    import pyarrow.parquet as pq

    written = (pq.read_schema(path).metadata or {}).get(METADATA, b"{}")
    return dict(json.loads(written))


def _checked(rows: Iterable[tuple[Any, Any]], file: Path) -> dict[str, list[str]]:
    table: dict[str, list[str]] = {}
    for study, entry in rows:
        if type(study) not in (str, int):
            raise UserError(f"{file}, row {len(table)}: expected a study id, but got {json_kind(study)}.")
        if str(study) in table:
            raise UserError(f"{file}: expected each study once, but got {str(study)!r} twice. Take one out.")
        table[str(study)] = _neighbours(str(study), entry, file)
    if not table:
        raise UserError(f"Expected the neighbours of at least one study in {file}, but it is empty. Mine them again.")
    return table


def _neighbours(study: str, entry: Any, file: Path) -> list[str]:
    place = f"{file}, study {reprlib.repr(study)}"
    if not isinstance(entry, list):
        raise UserError(f"{place}: expected a list of study ids, nearest first, but got {json_kind(entry)}.")
    ids = []
    for position, name in enumerate(entry):
        if type(name) not in (str, int):
            raise UserError(f"{place}, [{position}]: expected a study id, but got {json_kind(name)}.")
        ids.append(str(name))
    if study in ids:
        raise UserError(f"{place}: expected other studies, but [{ids.index(study)}] is the study itself. Take it out.")
    if len(set(ids)) < len(ids):
        repeated = next(name for position, name in enumerate(ids) if name in ids[:position])
        raise UserError(f"{place}: expected each neighbour once, but got {repeated!r} twice. Take one out.")
    return ids


def _read_parquet(file: Path) -> list[tuple[Any, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = ["study", "neighbours"]
    try:
        # opened here: pyarrow takes a path for a data set, which may be a folder of many files
        with file.open("rb") as opened:
            parquet = pq.ParquetFile(opened)
            if missing := [name for name in wanted if name not in parquet.schema_arrow.names]:
                raise UserError(
                    f"Expected the columns {', '.join(wanted)} in {file}, but it has no {', '.join(missing)}, only "
                    f"{', '.join(parquet.schema_arrow.names)}. Mine it with hardneg-mine."
                )
            columns = read_parquet(parquet, wanted, file)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Expected Parquet in {file}, but it cannot be read ({reason}). Make the file again."
        ) from error
    except OSError as error:  # which pyarrow raises for damaged pages, too
        reason = error.strerror or str(error).splitlines()[0]
        raise UserError(f"Expected the neighbour table file {file}, but it cannot be read ({reason}).") from error
    return list(zip(*(columns[name].to_pylist() for name in wanted), strict=True))


def _read_annotation(entries: Sequence[Any], file: Path) -> dict[str, list[str]]:
    studies = {_entry_id(entry, index, file): entry for index, entry in enumerate(entries)}
    if len(studies) < len(entries):
        raise UserError(
            f"{file}: expected each study once, but {len(entries) - len(studies)} ids of train are repeated."
        )
    if not any("neg_report" in entry or "neg_image_path" in entry for entry in entries):
        raise UserError(
            f"Expected neg_report and neg_image_path in the entries of {file}, but none has them: it is an annotation without "
            "negatives. Mine them with hardneg-mine."
        )
    owners = _owners(studies)
    table: dict[str, list[str]] = {}
    left_out = dict.fromkeys(("unknown", "ambiguous", "the study itself", "without a negative"), 0)
    for study, entry in studies.items():
        found = _owner(entry, *owners)
        reason = "the study itself" if found == {study} else found
        if isinstance(reason, str):
            left_out[reason] += 1
        table[study] = [] if isinstance(reason, str) else list(reason)
    counts = ", ".join(f"{number} {reason}" for reason, number in left_out.items() if number)
    if not any(table.values()):
        raise UserError(
            f"Expected negatives among the training entries of {file}, but no neg_image_path or neg_report is that of a training "
            f"study ({counts}). Give the annotation that they were mined on."
        )
    if counts:
        total = sum(left_out.values())
        _log.warning("%s: negatives of %d of %d studies are left out: %s.", file, total, len(studies), counts)
    return table


def _entry_id(entry: Any, index: int, file: Path) -> str:
    if not isinstance(entry, dict) or type(entry.get("id")) not in (str, int):
        got = f"the id {reprlib.repr(entry.get('id'))}" if isinstance(entry, dict) else json_kind(entry)
        raise UserError(f"{file}, train[{index}]: expected an object with an id, but got {got}.")
    return str(entry["id"])


Owners = Mapping[str, set[str]]
"""By image or report, the studies that have it."""


def _owners(studies: Mapping[str, Mapping[str, Any]]) -> tuple[Owners, Owners, Owners]:
    """The owners of each image, of each report, and of each report's text without what cleaning removes."""
    by_image: dict[str, set[str]] = defaultdict(set)
    by_report: dict[str, set[str]] = defaultdict(set)
    by_text: dict[str, set[str]] = defaultdict(set)
    for study, entry in studies.items():
        for path in _paths(entry.get("image_path")):
            by_image[path].add(study)
        if isinstance(entry.get("report"), str):
            by_report[entry["report"].strip()].add(study)
            by_text[_bare(entry["report"])].add(study)
    return by_image, by_report, by_text


def _bare(report: str) -> str:
    """What a report and its cleaned form have in common: letters and digits, without the numbers that end a sentence or a list's.

    >>> _bare("1. No effusion.  2. Heart-size 1.5 cm.") == _bare("no effusion . heart-size 15 cm .")
    True
    """
    # the released cleaning takes "1. " out anywhere, and ends the last sentence
    unnumbered = re.sub(r"\d{1,2}[^\w.]*\.(?=\W|$)", "", report.replace("1. ", "").lower() + ".")
    return re.sub(r"[\W_]+", "", unnumbered)


def _owner(entry: Mapping[str, Any], by_image: Owners, by_report: Owners, by_text: Owners) -> set[str] | str:
    """The one study that a negative is, or why there is none."""
    report, images = entry.get("neg_report"), entry.get("neg_image_path")
    if isinstance(images, list) and images and (isinstance(images[0], list) or isinstance(report, list)):
        images = images[0]
    if isinstance(report, list):
        report = report[0] if report else None
    paths = _paths(images)
    if not paths and not isinstance(report, str):
        return "without a negative"
    # images first: studies share reports, but not images
    owners = [by_image.get(path, set()) for path in paths]
    found = set.intersection(*owners) if owners else set()
    if not found and isinstance(report, str):
        found = by_report.get(report.strip()) or by_text.get(_bare(report), set())
    if len(found) == 1:
        return found
    return "ambiguous" if found else "unknown"


def _paths(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [path for path in values if isinstance(path, str)]
