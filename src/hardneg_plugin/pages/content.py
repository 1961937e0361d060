"""What a page shows, as plain data."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.evaluation.inspected_study import InspectedStudy
from hardneg_plugin.pages.overview import Overview


@dataclass(frozen=True)
class DrawnBox:
    """Where something shows in a view of a study.

    Args:
        view: number of the view, from 0.
        label: such as "nodule (mm 6, side left)".
        place: (top, left, bottom, right) in shares of the view.
    """

    view: int
    label: str
    place: tuple[float, float, float, float]


@dataclass(frozen=True)
class StudyContent:
    """A study on a page.

    Args:
        id: unique on the page.
        views: `(H, W)` uint8 gray values each, of any sizes; may be empty.
        reference: the report.
        written: what each variant made of the study; a variant may be missing.
        large: the views as they are enlarged, of any size; empty: `views`.
        original: the report in its own case, before cleaning; empty if it is not known.
        boxes: drawn over the views.

    Raises:
        ValueError: a heat map or `large` has another number of views, or a box is in none of them.
    """

    id: str
    views: list[NDArray[np.uint8]]
    reference: str
    written: dict[str, InspectedStudy]
    large: list[NDArray[np.uint8]] = field(default_factory=list)
    original: str = ""
    boxes: list[DrawnBox] = field(default_factory=list)

    def __post_init__(self) -> None:
        if outside := [box.view for box in self.boxes if not 0 <= box.view < len(self.views)]:
            raise ValueError(
                f"Expected boxes in the {len(self.views)} views of {self.id}, but got one in view {outside[0]}."
            )
        if self.large and len(self.large) != len(self.views):
            raise ValueError(f"Expected {len(self.views)} large views of {self.id}, but got {len(self.large)}.")
        for variant, written in self.written.items():
            for views in written.heat_map_views():
                if views != len(self.views):
                    raise ValueError(
                        f"Expected heat maps over the {len(self.views)} views of {self.id}, but one of {variant} is over {views}."
                    )


@dataclass(frozen=True)
class Score:
    """A score over all studies, and the ends of its interval, None where there is none."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Curve:
    """What a variant logged under a name such as "train/hardness": `(step, value)`, by step."""

    variant: str
    name: str
    points: list[tuple[int, float]]


@dataclass(frozen=True)
class PageContent:
    """The content of a page. Any part may be empty; the page then says so.

    Args:
        title: of the page.
        notes: sentences at its top.
        variants: names, in the order of the page.
        studies: that the page lists.
        neighbours: further studies that are hard negatives of these; nothing is written about them.
        scores: by variant, then by name.
        curves: of all variants.
        configs: YAML, by variant.
        overview: of a comparison, the first view of its page; the page then shows it in place of `scores`.
        baselines: scores of reports that need no model, by their name, shown beside `scores`.
        by_difference: a score of single studies, by whose difference between variants they are listed; empty: by id.

    Raises:
        ValueError: two studies have the same id, or a variant is not in `variants`.

    >>> study = StudyContent("s1", [np.zeros((64, 64), np.uint8)], "No effusion.", {"arc": InspectedStudy("no effusion")})
    >>> page = PageContent("Arc", [], ["arc"], [study], neighbours=[], scores={}, curves=[], configs={})
    """

    title: str
    notes: list[str]
    variants: list[str]
    studies: list[StudyContent]
    neighbours: list[StudyContent]
    scores: dict[str, dict[str, Score]]
    curves: list[Curve]
    configs: dict[str, str]
    overview: Overview | None = None
    by_difference: str = ""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ids = Counter(study.id for study in [*self.studies, *self.neighbours])
        if twice := [name for name, count in ids.items() if count > 1]:
            raise ValueError(f"Expected each study once, but got {', '.join(twice[:3])} twice.")
        named = {*self.scores, *self.configs, *(curve.variant for curve in self.curves)}
        named.update(variant for study in self.studies for variant in study.written)
        if unknown := sorted(named - set(self.variants)):
            raise ValueError(f"Expected content of the variants {self.variants}, but got some of {unknown}.")
