"""What a model made of one study, as plain data: its report, its heat maps, and how close the hard negative is."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardneg_plugin.knowledge import ABSENT, PRESENT, UNKNOWN
from hardneg_plugin.metrics.findings import Findings
from hardneg_plugin.metrics.records import StatedFindings, findings_from_json

FOUND_ABOVE = 0.5
"""The probability above which an entity counts as found."""

FindingVerdict = Literal["correct", "wrong", "missed"]
EntityVerdict = Literal["found and stated", "found, not stated", "found, left open", "stated, not found", "found"]

VERDICT_BY_FACT: Mapping[int, EntityVerdict] = {
    PRESENT: "found and stated",
    ABSENT: "found, not stated",
    UNKNOWN: "found, left open",
}
"""For an entity that is found, by what the report says of it."""


def quantise(attention: Tensor) -> NDArray[np.uint8]:
    """Heat maps `(N, views, rows, columns)` as bytes: 255 is the largest value of each of the N; all 0 stays 0.

    >>> quantise(torch.tensor([[[[0.1, 0.2]]], [[[0.0, 0.0]]]]))[:, 0, 0].tolist()
    [[128, 255], [0, 0]]
    """
    largest = attention.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(attention.dtype).tiny)
    values: NDArray[np.uint8] = (255 * attention / largest).round().to(torch.uint8).cpu().numpy()
    return values


@dataclass(frozen=True)
class Similarities:
    """Cosines of an image with reports, in the space of the objective."""

    positive: float
    """With its report, z·u."""
    hard: float
    """With its hard negative, z·n."""
    hardened: float | None
    """With its hardened negative, z·ñ: a dot product where the strategy leaves the sphere. None where none is hardened."""


@dataclass(frozen=True)
class Reading:
    """How an objective that compares words with regions reads a reference.

    Raises:
        ValueError: the fields do not fit together.
    """

    words: list[str]
    """The words that it reads, in order: a long reference is cut."""
    importance: list[float] | None
    """β of each word, in [0, 1], summed over its tokens; the end token has a share, too. None where words are not weighted."""
    attention: NDArray[np.uint8]
    """`(words, views, rows, columns)`, where each word looks, as of `quantise`."""

    def __post_init__(self) -> None:
        _check_heat_maps(self.attention, self.words)
        if self.importance is not None and len(self.importance) != len(self.words):
            raise ValueError(
                f"Expected the importance of {len(self.words)} words, but got {len(self.importance)} numbers."
            )


@dataclass(frozen=True)
class FoundEntity:
    """An entity that a model finds in a study, or that the report states."""

    phrase: str
    """Such as "left pleural effusion"."""
    probability: float
    """That it is present, by the model."""
    fact: int | None
    """What the report says: `PRESENT`, `ABSENT` or `UNKNOWN`; None where that is not known."""
    attention: NDArray[np.uint8]
    """`(views, rows, columns)`, where its prompt looks: 255 is the largest value."""

    @property
    def verdict(self) -> EntityVerdict:
        """Model against report; a report that neither states nor denies the entity leaves it open."""
        if self.probability <= FOUND_ABOVE:
            return "stated, not found"
        return "found" if self.fact is None else VERDICT_BY_FACT[self.fact]


@dataclass(frozen=True)
class InspectedStudy:
    """What one model made of one study.

    Raises:
        ValueError: `attention` has another shape or type.

    >>> InspectedStudy("no effusion", np.zeros((2, 1, 7, 7), np.uint8), hard_negative="study 3").words
    ['no', 'effusion']
    """

    text: str
    """The generated report."""
    attention: NDArray[np.uint8] | None = None
    """`(words, views, rows, columns)`, the mean over layers and heads, as of `quantise`; each map covers the whole view. None
    where it is not known."""
    findings: list[tuple[str, FindingVerdict]] | None = None
    """Of the generated report against the reference; None where findings cannot be read."""
    scores: dict[str, float] = field(default_factory=dict)
    """Of this study alone; the higher the better."""
    similarities: Similarities | None = None
    """None for a bare host, and for a study without a hard negative."""
    hard_negative: str | None = None
    """The nearest study of the split that is no match; None where all others match."""
    reading: Reading | None = None
    """How the alignment reads the reference; None for one that does not compare words with regions."""
    entities: list[FoundEntity] | None = None
    """Those found or stated, the most likely first; None for a model that looks for none."""

    def __post_init__(self) -> None:
        if self.attention is not None:
            _check_heat_maps(self.attention, self.words)

    @property
    def words(self) -> list[str]:
        """The words of the text, to which the rows of `attention` belong."""
        return self.text.split()

    def heat_map_views(self) -> Iterator[int]:
        """The number of views of each of its heat maps."""
        if self.attention is not None:
            yield self.attention.shape[1]
        if self.reading is not None:
            yield self.reading.attention.shape[1]
        for entity in self.entities or ():
            yield len(entity.attention)


def _check_heat_maps(maps: NDArray[np.uint8], words: list[str]) -> None:
    if maps.ndim != 4 or len(maps) != len(words) or maps.dtype != np.uint8:
        raise ValueError(
            f"Expected `attention` ({len(words)} words, views, rows, columns) uint8, but got {maps.shape} {maps.dtype}."
        )


def finding_verdicts(stated: StatedFindings) -> list[tuple[str, FindingVerdict]]:
    """The findings that both texts state, those that only the generated one states, and those that it misses.

    >>> finding_verdicts({"reference": [["oedema", None], ["nodule", [["mm", 6]]]], "generated": [["oedema", None]]})
    [('oedema', 'correct'), ('nodule (mm 6)', 'missed')]
    """
    reference, generated = findings_from_json(stated["reference"]), findings_from_json(stated["generated"])
    groups: list[tuple[FindingVerdict, Findings]] = [
        ("correct", generated & reference),
        ("wrong", generated - reference),
        ("missed", reference - generated),
    ]
    return [(text, verdict) for verdict, findings in groups for text in sorted(map(describe_finding, findings))]


def describe_finding(finding: tuple[str, Any]) -> str:
    """A finding as a person reads it.

    >>> describe_finding(("nodule", (("calcified", False), ("mm", 6), ("side", "left"))))
    'nodule (not calcified, mm 6, side left)'
    >>> describe_finding(("oedema", ())), describe_finding(("effusion", "small")), describe_finding(("effusion", None))
    ('oedema', 'effusion (small)', 'effusion')
    """
    name, attributes = finding
    if attributes in (None, ()):
        return name
    each = attributes if isinstance(attributes, tuple) else [attributes]
    return f"{name} ({', '.join(map(_describe_attribute, each))})"


def _describe_attribute(attribute: Any) -> str:
    match attribute:
        case (key, True):
            return str(key)
        case (key, False):
            return f"not {key}"
        case (key, value):
            return f"{key} {value}"
    return str(attribute)
