"""What a page shows, as plain data."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.evaluation.alignment_inspection import FoundEntity, Reading
from hardneg_plugin.evaluation.inspection import Similarities


@dataclass(frozen=True)
class Written:
    """What one variant wrote about one study.

    Args:
        text: the generated report.
        words: those of the text, in order; the rows of `attention` belong to them.
        attention: `(words, views, rows, columns)`, 255 = the word's largest; each map lies over the whole of its view. None
            where it is not known.
        findings: each in words, with what became of it; None where findings cannot be read.
        scores: of this study; the higher the better.
        similarities: None for a variant without an objective.
        hard_negative: the id of a study of the page; None where there is none.
        reading: how its alignment reads the reference; None where that does not compare words with regions.
        entities: those found or stated, the most likely first; None for a variant that looks for none.

    Raises:
        ValueError: `attention` is not of that shape and type.
    """

    text: str
    words: list[str]
    attention: NDArray[np.uint8] | None
    findings: list[tuple[str, Literal["correct", "wrong", "missed"]]] | None
    scores: dict[str, float]
    similarities: Similarities | None
    hard_negative: str | None
    reading: Reading | None = None
    entities: list[FoundEntity] | None = None

    def __post_init__(self) -> None:
        maps = self.attention
        if maps is not None and (maps.ndim != 4 or len(maps) != len(self.words) or maps.dtype != np.uint8):
            raise ValueError(
                f"Expected `attention` ({len(self.words)} words, views, rows, columns) uint8, but got {maps.shape} {maps.dtype}."
            )


@dataclass(frozen=True)
class StudyContent:
    """One study.

    Args:
        id: unique on the page.
        views: `(H, W)` uint8 gray values, of any sizes; there may be none.
        reference: the report as a radiologist wrote it.
        written: by variant; a variant may be missing.

    Raises:
        ValueError: attention is over another number of views.
    """

    id: str
    views: list[NDArray[np.uint8]]
    reference: str
    written: dict[str, Written]

    def __post_init__(self) -> None:
        for variant, written in self.written.items():
            for views in _views_looked_at(written):
                if views != len(self.views):
                    raise ValueError(
                        f"Expected attention over the {len(self.views)} views of {self.id}, but that of {variant} is over "
                        f"{views}."
                    )


def _views_looked_at(written: Written) -> Iterator[int]:
    """Over how many views each attention is."""
    if written.attention is not None:
        yield written.attention.shape[1]
    if written.reading is not None:
        yield written.reading.attention.shape[1]
    for entity in written.entities or ():
        yield len(entity.attention)


@dataclass(frozen=True)
class Score:
    """A score over all studies, with the ends of its interval where there is one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """What a variant logged under a name, such as "train/hardness", as `(step, value)` in order of the steps."""

    variant: str
    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class PageContent:
    """All of a page; whatever is empty is told to be so.

    Args:
        title: of the page.
        notes: sentences shown at its top.
        variants: names, in the order in which they are shown.
        studies: those to look at.
        neighbours: further studies that are hard negatives of these, with nothing written.
        scores: by variant, then by name.
        curves: of all variants.
        configs: YAML by variant.

    Raises:
        ValueError: two studies have one id, or something is of a variant that is not listed.
    """

    title: str
    notes: list[str]
    variants: list[str]
    studies: list[StudyContent]
    neighbours: list[StudyContent]
    scores: dict[str, dict[str, Score]]
    curves: list[Curve]
    configs: dict[str, str]

    def __post_init__(self) -> None:
        ids = Counter(study.id for study in [*self.studies, *self.neighbours])
        if twice := [name for name, count in ids.items() if count > 1]:
            raise ValueError(f"Expected each study once, but these are there twice: {', '.join(twice[:3])}.")
        named = {*self.scores, *self.configs, *(curve.variant for curve in self.curves)}
        named.update(variant for study in self.studies for variant in study.written)
        if unknown := sorted(named - set(self.variants)):
            raise ValueError(f"Expected the variants {self.variants}, but there is something of {unknown}.")
