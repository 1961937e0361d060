"""What a page shows, as plain data."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.evaluation.inspected_study import InspectedStudy


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
    written: dict[str, InspectedStudy]

    def __post_init__(self) -> None:
        for variant, written in self.written.items():
            for views in written.heat_map_views():
                if views != len(self.views):
                    raise ValueError(
                        f"Expected attention over the {len(self.views)} views of {self.id}, but that of {variant} is over "
                        f"{views}."
                    )


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
