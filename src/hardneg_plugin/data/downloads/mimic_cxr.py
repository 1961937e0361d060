"""MIMIC-CXR and MIMIC-CXR-JPG as PhysioNet distributes them: tables, free-text reports, and images below p10 to p19."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from hardneg_plugin.data.downloads.folders import path_within
from hardneg_plugin.data.downloads.mimic_reports import MissingReport, Reports, group_of, groups_below, open_reports
from hardneg_plugin.data.downloads.mimic_tables import Labels, find_table, read_metadata, read_splits
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.data.studies import SPLITS
from hardneg_plugin.errors import UserError

_REPORTS = ("mimic-cxr-reports.zip", "mimic-cxr-reports", "files")
_ENDINGS = (".jpg", ".png", ".dcm")
_FRONTAL = ("AP", "PA")


class MimicCXR:
    """The studies of the metadata in the order of their numbers, as `Originals`; ids and patients are plain numbers.

    Tables may be compressed or not, whatever name is given. An image is below `images` at
    p10/p10000032/s50414267/<dicom_id> with the ending .jpg, .png or .dcm, the first that exists.

    Frontal views have a ViewPosition that begins with AP or PA, including decubitus ones such as "AP LLD". With
    `views="frontal"` others are left out silently, and images of unknown position are dropped.

    Dropped are studies without an image left, outside the split (if one is given), or whose report cannot be found or read.
    Folders of patients (p10 to p19) that were not downloaded are a reason each.

    Args:
        root: folder that the other paths are relative to.
        reports: mimic-cxr-reports.zip, which is not unpacked; the folder of it; or a table (CSV) of study, findings,
            impression and last_paragraph. None: the archive, the folder mimic-cxr-reports, or `files`, the first that exists.
        metadata: table of dicom_id, subject_id, study_id and, for frontal views, ViewPosition.
        split: table of study_id and split; None: no split.
        labels: table of CheXpert or NegBio; None: no labels. Uncertain labels end with "?" ("Edema?"), "No Finding" is the
            empty set, and a blank row is unknown.
        images: folder of p10 to p19, or of `files` with these.
        views: "all" or "frontal".

    Raises:
        UserError: a file is not the expected one, or a path leaves its folder.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        reports: str | None = None,
        metadata: str = "mimic-cxr-2.0.0-metadata.csv",
        split: str | None = "mimic-cxr-2.0.0-split.csv",
        labels: str | None = None,
        images: str = "files",
        views: Literal["all", "frontal"] = "all",
    ) -> None:
        if views not in ("all", "frontal"):
            raise UserError(f"Expected `views` to be 'all' or 'frontal', but got {views!r}.")
        home = Path(root).absolute()
        self._frontal = views == "frontal"
        self._reports = _find_reports(home, reports)
        self._images, self._groups = groups_below(home / images, "images")
        self._metadata = read_metadata(find_table(home, metadata, "metadata"), views=self._frontal)
        studies = self._metadata.study[self._metadata.starts[:-1]]
        self._splits = None if split is None else read_splits(find_table(home, split, "split"), studies)
        self._labels = None if labels is None else Labels(find_table(home, labels, "labels"))

    def __len__(self) -> int:
        return len(self._metadata.starts) - 1

    def __iter__(self) -> Iterator[OriginalStudy | DroppedEntry]:
        with open_reports(self._reports) as reports:
            for index in range(len(self)):
                yield from self._study(index, reports)

    def _study(self, index: int, reports: Reports) -> Iterator[OriginalStudy | DroppedEntry]:
        start, end = (int(place) for place in self._metadata.starts[index : index + 2])
        study, subject = int(self._metadata.study[start]), int(self._metadata.subject[start])
        id_, group = str(study), group_of(subject)
        split = None if self._splits is None else int(self._splits[index])
        if split == -1:
            yield DroppedEntry(id_, "in no split")
            return
        if group not in self._groups:
            yield DroppedEntry(id_, f"images of {group} not downloaded")
            return
        try:
            report = reports.read(subject, study)
        except MissingReport as error:
            yield DroppedEntry(id_, *error.args)
            return
        folder = f"{group}/p{subject}/s{study}"
        try:
            there = set(os.listdir(self._images / folder))
        except OSError:
            there = set()
        images: list[Path] = []
        for row in range(start, end):
            dicom = self._metadata.dicom[row].as_py()
            if self._frontal:
                position = self._metadata.view[row].as_py()
                if not position:
                    yield DroppedEntry(id_, "unknown view position", dicom)
                    continue
                if position.split()[0] not in _FRONTAL:
                    continue
            name = next((dicom + ending for ending in _ENDINGS if dicom + ending in there), None)
            if name is None:
                yield DroppedEntry(id_, "image not found", f"{folder}/{dicom}")
            else:
                images.append(path_within(self._images, f"{folder}/{name}"))
        if not images:
            yield DroppedEntry(id_, "no frontal image" if self._frontal else "no image")
            return
        yield OriginalStudy(
            id=id_,
            images=tuple(images),
            **report._asdict(),
            patient=str(subject),
            labels=None if self._labels is None else self._labels.of(study),
            split=None if split is None else SPLITS[split],
        )


def _find_reports(home: Path, reports: str | None) -> Path:
    names = _REPORTS if reports is None else (reports,)
    for name in names:
        if (home / name).exists():
            return home / name
    raise UserError(f"Expected the reports at {home / names[0]}, but there is no such file or folder. Set `reports`.")
