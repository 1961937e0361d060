"""Studies in the R2Gen layout: `annotation.json` and a folder of images."""

from collections.abc import Iterator
from pathlib import Path

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.data.studies import SPLITS


class AnnotatedOriginals:
    """The studies of a folder that `data=annotations` reads, as `Originals`, with its splits; reports are not divided.

    Args:
        root, annotation, images: as in `AnnotatedStudies`.

    Raises:
        UserError: the first flaw of the annotation, including missing images.
    """

    def __init__(self, root: str | Path, annotation: str = "annotation.json", images: str = "images") -> None:
        source = AnnotatedStudies(root, annotation=annotation, images=images, check="stat")
        self._splits = {name: source.split(name) for name in SPLITS}

    def __len__(self) -> int:
        return sum(map(len, self._splits.values()))

    def __iter__(self) -> Iterator[OriginalStudy | DroppedEntry]:
        for name, studies in self._splits.items():
            for index, (id_, report, patient, labels) in enumerate(
                zip(studies.ids, studies.reports, studies.patients, studies.labels, strict=True)
            ):
                yield OriginalStudy(
                    id=id_,
                    images=studies.files(index),
                    report=report.strip(),
                    patient=patient,
                    labels=labels,
                    split=name,
                )
