"""The chest of a phantom: body build, and the pixels of a view in the coordinates of the body.

Coordinates are shares of the image's side. `v` runs down. In the frontal view `u` runs to the image's right, which is the
patient's left (the radiological convention), from the middle of the spine; in the lateral view it runs from the breastbone
(image left) to the back, from the middle of the chest. Density is additive: 0 is air outside the body, 1 is about white.
"""
# mypy: disable-error-code="no-any-return"
# numpy's stubs give Any for a Python number times a float32 array.

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hardneg_plugin.data.phantom.findings import Finding, Value

Array = NDArray[np.floating[Any]]
"""`(H, W)` float32."""

Number = TypeVar("Number", float, Array)

SIGN: Mapping[Value, float] = {"left": 1.0, "right": -1.0}
"""The direction of a patient's side along `u` in the frontal view."""

HEART_GRADES: Mapping[Value, float] = {"mild": 0.56, "moderate": 0.63, "severe": 0.70}
VERTEBRA = 0.055
"""The height of one vertebra as a share of the image's side."""
SHAPE_FINDINGS = frozenset({"cardiomegaly", "hyperinflation", "elevated hemidiaphragm", "tortuous aorta", "scoliosis"})
"""The findings that change the shape of the body; the others are drawn onto it."""


@dataclass(frozen=True)
class Body:
    """One person's build; lengths as shares of the image's side."""

    width: float
    """Half the inner width of the thorax at its base."""
    depth: float
    """Half the depth of the thorax from front to back."""
    apex: float
    """Height of the lung apices."""
    base: float
    """Height of the right dome of the diaphragm."""
    sag: float
    """How far the diaphragm falls from its dome to the ribs."""
    heart: float
    """Width of the heart over the inner width of the thorax."""
    mediastinum: float
    """Half the width of the mediastinum."""
    aorta: float
    """How far the aorta bulges into the left lung."""
    curve: float
    """How far the spine leaves the midline, to the patient's left."""
    flesh: float
    """Density of the soft tissue."""
    air: float
    """How much less dense aerated lung is."""
    bone: float
    """Density of ribs and spine."""
    lift_left: float = 0.0
    lift_right: float = 0.0
    """How far a dome of the diaphragm is raised above its place."""

    @property
    def height(self) -> float:
        """From apex to dome."""
        return self.base - self.apex

    @property
    def rib_spacing(self) -> float:
        """From one rib to the next."""
        return self.height / 8.5


def draw_body(rng: Generator) -> Body:
    """A random healthy build."""
    stout = rng.uniform(-1, 1)  # slender to stout: wide bodies have high diaphragms, broad hearts and more soft tissue
    return Body(
        width=0.325 + 0.03 * stout + rng.uniform(-0.01, 0.01),
        depth=0.26 + 0.03 * stout + rng.uniform(-0.01, 0.01),
        apex=0.15 + rng.uniform(-0.02, 0.02),
        base=0.735 - 0.025 * stout + rng.uniform(-0.015, 0.015),
        sag=0.10 + rng.uniform(-0.01, 0.015),
        heart=0.445 + 0.015 * stout + rng.uniform(-0.015, 0.015),
        mediastinum=0.058 + 0.006 * stout + rng.uniform(-0.004, 0.004),
        aorta=0.012 + rng.uniform(0, 0.006),
        curve=rng.uniform(-0.006, 0.006),
        flesh=0.72 + 0.03 * stout,
        air=0.54 - 0.03 * stout,
        bone=0.085 + rng.uniform(-0.015, 0.015),
    )


def shape_body(body: Body, findings: Iterable[Finding]) -> Body:
    """A body with findings.

    Args:
        body: the healthy build.
        findings: those of `SHAPE_FINDINGS` change it; others have no effect.
    """
    for found in findings:
        match found.name:
            case "cardiomegaly":
                body = replace(body, heart=HEART_GRADES[found.value("grade")])
            case "hyperinflation":
                deep = {"base": body.base + 0.075, "sag": 0.03, "air": body.air + 0.06, "depth": 1.08 * body.depth}
                body = replace(body, heart=0.8 * body.heart, **deep)
            case "elevated hemidiaphragm":
                body = replace(body, **{f"lift_{found.value('side')}": 0.11})
            case "tortuous aorta":
                body = replace(body, aorta=body.aorta + 0.05)
            case "scoliosis":
                body = replace(body, curve=0.095 * SIGN[found.value("direction")])
    return body


@dataclass(frozen=True)
class Grid:
    """The pixels of a view in the patient's coordinates."""

    u: Array
    v: Array
    pixel: float
    """The width of one pixel, and so of the sharpest edge."""

    def inside(self, distance: Array, softness: float = 0.006) -> Array:
        """A filled shape: 1 inside, 0 outside.

        Args:
            distance: `(H, W)` signed distance to the edge, positive inside.
            softness: width of the edge, at least a pixel.
        """
        return np.clip(distance / max(softness, self.pixel) + 0.5, 0, 1).astype(np.float32, copy=False)

    def ellipse(self, u: float, v: float, a: float, b: float, tilt: float = 0.0, softness: float = 0.006) -> Array:
        """A filled ellipse.

        Args:
            u, v: centre.
            a, b: half-axes, > 0.
            tilt: rotation in radians.
            softness: width of the edge.
        """
        du, dv = self.u - u, self.v - v
        cos, sin = math.cos(tilt), math.sin(tilt)
        along, across = cos * du + sin * dv, cos * dv - sin * du
        return self.inside((1 - np.hypot(along / a, across / b)) * min(a, b), softness)

    def glow(self, u: float, v: float, a: float, b: float) -> Array:
        """A patch without an edge: a Gaussian.

        Args:
            u, v: centre.
            a, b: standard deviations, > 0.
        """
        return np.exp(-((self.u - u) ** 2) / (2 * a * a) - (self.v - v) ** 2 / (2 * b * b))

    def stroke(self, points: Iterable[tuple[float, float]], radius: float) -> Array:
        """A line through points.

        Args:
            points: at least two distinct `(u, v)`.
            radius: half its width.
        """
        nearest = np.full_like(self.u, np.inf)
        for (u0, v0), (u1, v1) in pairwise(points):
            eu, ev = u1 - u0, v1 - v0
            du, dv = self.u - u0, self.v - v0
            t = np.clip((du * eu + dv * ev) / (eu * eu + ev * ev), 0, 1)
            np.minimum(nearest, (du - t * eu) ** 2 + (dv - t * ev) ** 2, out=nearest)
        return self.inside(radius - np.sqrt(nearest))


def draw_grid(size: int, rng: Generator) -> Grid:
    """The pixels of a square view of a patient who stands slightly off centre and tilted.

    Args:
        size: H = W in pixels.
        rng: draws shift, tilt and zoom.
    """
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = axis[None, :] - rng.uniform(-0.02, 0.02), axis[:, None] - rng.uniform(-0.02, 0.02)
    angle, zoom = math.radians(rng.uniform(-2.5, 2.5)), rng.uniform(0.97, 1.04)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    return Grid(cos * x + sin * y, cos * y - sin * x + 0.5, 1 / size)
