"""From a study's number and findings to its two images, and to the places where each finding shows."""
# mypy: disable-error-code="no-any-return"
# numpy's stubs give Any for a Python number times a float32 array.

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hardneg_plugin.data.phantom import marks
from hardneg_plugin.data.phantom.anatomy import SHAPE_FINDINGS, Array, draw_body, draw_grid, shape_body
from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding
from hardneg_plugin.data.phantom.projections import Frontal, Lateral

View = Literal["frontal", "lateral"]
VIEWS: tuple[View, ...] = ("frontal", "lateral")
"""The order of a study's images."""

VISIBLE = 0.025
"""A pixel belongs to a mark if the finding changes it by more than this share of the grey range."""


@dataclass(frozen=True)
class Mark:
    """Where one finding shows in one view."""

    finding: Finding
    view: View
    box: tuple[int, int, int, int]
    """`(y0, x0, y1, x1)` in pixels, ends exclusive: the smallest box around the mask."""
    mask: NDArray[np.bool_]
    """`(H, W)`: the pixels that the finding changes visibly."""


Stream = tuple[int, int]
"""(seed, number of the study): what every random choice of a study is drawn from."""


def draws(stream: Stream, *purpose: int) -> Generator:
    """A generator per purpose, so that what one finding draws changes neither the body, the noise nor another finding.

    Args:
        stream: of the study.
        purpose: numbers of the use.
    """
    return np.random.default_rng((*stream, *purpose))


def project(stream: Stream, findings: Collection[Finding], view: View, size: int) -> Frontal | Lateral:
    """A projection of the study's body, in the shape that its findings give it.

    Args:
        stream: of the study.
        findings: of the study.
        view: which projection.
        size: H = W in pixels.
    """
    body = shape_body(draw_body(draws(stream, 1)), findings)
    grid = draw_grid(size, draws(stream, 2, VIEWS.index(view)))
    return Frontal(body, grid) if view == "frontal" else Lateral(body, grid)


def smallest_box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """The box `(y0, x0, y1, x1)` around a mask `(H, W)`, ends exclusive; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1) if len(rows) else None


def _density(stream: Stream, findings: Collection[Finding], view: View, size: int) -> Array:
    scene = project(stream, findings, view, size)
    drawn: Any = marks.FRONTAL if view == "frontal" else marks.LATERAL
    density = scene.density()
    for found in sorted(findings):
        if found.name in drawn:
            rng = draws(stream, 3, VIEWS.index(view), list(ATTRIBUTES).index(found.name))
            density = density + drawn[found.name](scene, found, rng)
    return density


def _expose(density: Array, rng: Generator) -> Array:
    """Greys in [0, 1] under a random exposure."""
    gain, dark = rng.uniform(0.85, 1.0), rng.uniform(0.02, 0.06)
    return dark + gain * np.clip(density, 0, 1.1)


def _texture(size: int, rng: Generator) -> Array:
    """Uneven tissue and the noise of the film."""
    coarse = rng.standard_normal((12, 12), dtype=np.float32)
    # bilinear, as two small matrix products
    at = np.linspace(0, 11, size, dtype=np.float32)
    blend = np.clip(1 - np.abs(at[:, None] - np.arange(12, dtype=np.float32)), 0, 1)
    return 0.016 * (blend @ coarse @ blend.T) + 0.014 * rng.standard_normal((size, size), dtype=np.float32)


def render(stream: Stream, findings: Collection[Finding], size: int) -> NDArray[np.uint8]:
    """The images of a study, `(2, H, W)` uint8: frontal, lateral; the patient's right is on the frontal image's left.

    Body, position, exposure and noise depend on `stream` alone: without a finding, the same stream is the same patient
    without it.

    Args:
        stream: of the study.
        findings: to draw.
        size: H = W in pixels.
    """
    images = np.empty((len(VIEWS), size, size), np.uint8)
    for which, view in enumerate(VIEWS):
        rng = draws(stream, 4, which)
        grey = _expose(_density(stream, findings, view, size), rng) + _texture(size, rng)
        images[which] = np.clip(255 * grey + 0.5, 0, 255)
    return images


def find_marks(stream: Stream, findings: Collection[Finding], size: int) -> list[Mark]:
    """Where each finding shows: the pixels that change when it is removed from the noiseless image, view by view.

    A view that does not show a finding has no mark of it. For a finding that reshapes the body, findings drawn onto the
    body are left out of the comparison, since they move with it.

    Args:
        stream: of the study.
        findings: of the study.
        size: H = W in pixels.
    """
    found_marks = []
    for found in sorted(findings):
        reshapes = found.name in SHAPE_FINDINGS
        present = [other for other in findings if not reshapes or other.name in SHAPE_FINDINGS]
        absent = [other for other in present if other != found]
        for which, view in enumerate(VIEWS):
            grey = [
                _expose(_density(stream, these, view, size), draws(stream, 4, which)) for these in (present, absent)
            ]
            mask = np.abs(np.minimum(grey[0], 1) - np.minimum(grey[1], 1)) > VISIBLE
            if (box := smallest_box(mask)) is not None:
                found_marks.append(Mark(found, view, box, mask))
    return found_marks
