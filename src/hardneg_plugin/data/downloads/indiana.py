"""IU X-Ray as two CSV files: indiana_reports.csv and indiana_projections.csv, with a folder of images."""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from hardneg_plugin.data.downloads.folders import path_within
from hardneg_plugin.data.downloads.iu_xray import mesh_labels
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.data.downloads.tables import check_columns, read_table
from hardneg_plugin.data.texts import is_missing
from hardneg_plugin.errors import UserError

_REPORT_COLUMNS = ("uid", "mesh", "findings", "impression")
_PROJECTION_COLUMNS = ("uid", "filename", "projection")


class Indiana:
    """The reports and images of the two tables, as `Originals`.

    A study is a row of the reports, in that order: its id is "CXR" and its uid, its patient the uid, its labels the MeSH
    terms (`mesh_labels`); its images are in the order of the projections. There is no split.

    Dropped are studies without an image (with `views="frontal"`: without a frontal one), missing images, and images without a
    report. With `views="frontal"` lateral images are left out silently, and images of neither projection are dropped.

    Args:
        reports: indiana_reports.csv: uid, MeSH (terms between ";"), findings, impression; others are not read.
        projections: indiana_projections.csv: uid, filename, projection ("Frontal" or "Lateral").
        images: folder that the file names are relative to.
        views: "all" or "frontal".

    Raises:
        UserError: a file is not such a table (`read_table`), a uid is blank or repeated, or a path leaves the folder.
    """

    def __init__(
        self,
        reports: str | Path,
        projections: str | Path,
        images: str | Path,
        views: Literal["all", "frontal"] = "all",
    ) -> None:
        if views not in ("all", "frontal"):
            raise UserError(f"Expected `views` to be 'all' or 'frontal', but got {views!r}.")
        self._folder, self._views = Path(images).absolute(), views
        if not self._folder.is_dir():
            raise UserError(f"Expected a folder of images at {self._folder}, but there is none. Set `images`.")
        self._reports: dict[str, dict[str, str]] = {}
        for line, row in _read(Path(reports), _REPORT_COLUMNS):
            if row["uid"] in self._reports:
                raise UserError(f"Expected each uid once in {reports}, but line {line} repeats {row['uid']!r}.")
            self._reports[row["uid"]] = row
        self._images: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for line, row in _read(Path(projections), _PROJECTION_COLUMNS):
            if not row["filename"]:
                raise UserError(f"Expected a filename in each row of {projections}, but line {line} has none.")
            self._images[row["uid"]].append((row["filename"], row["projection"].lower()))
        self._without_report = [uid for uid in self._images if uid not in self._reports]

    def __len__(self) -> int:
        return len(self._reports) + len(self._without_report)

    def __iter__(self) -> Iterator[OriginalStudy | DroppedEntry]:
        for uid, row in self._reports.items():
            id_ = f"CXR{uid}"
            images: list[Path] = []
            for name, projection in self._images.get(uid, ()):
                path = path_within(self._folder, name)
                if self._views == "frontal" and projection != "frontal":
                    if projection != "lateral":
                        yield DroppedEntry(id_, "unknown projection", f"{name}: {projection!r}")
                elif not os.path.isfile(path):
                    yield DroppedEntry(id_, "image not found", name)
                else:
                    images.append(path)
            if images:
                yield OriginalStudy(
                    id=id_,
                    images=tuple(images),
                    findings=row["findings"],
                    impression=row["impression"],
                    patient=uid,
                    labels=mesh_labels(row["mesh"].split(";")),
                )
            else:
                yield DroppedEntry(id_, "no image" if self._views == "all" else "no frontal image")
        for uid in self._without_report:
            yield DroppedEntry(f"CXR{uid}", "no report", ", ".join(name for name, _ in self._images[uid]))


def _read(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    line = 0
    for line, row in read_table(file):
        check_columns(file, row, columns)
        cells = {name: "" if is_missing(row[name]) else row[name].strip() for name in columns}
        if not cells["uid"]:
            raise UserError(f"Expected a uid in each row of {file}, but line {line} has none.")
        yield line, cells
    if not line:
        raise UserError(f"Expected rows in {file}, but it has only a header.")
