"""The chest of a phantom: body build, and density of the organs in a frontal and a lateral projection.

Coordinates are shares of the image's side. `v` runs down. In the frontal view `u` runs to the image's right, which is the
patient's left (the radiological convention), from the middle of the spine; in the lateral view it runs from the breastbone
(image left) to the back, from the middle of the chest. Density is additive: 0 is air outside the body, 1 is about white.
"""
# mypy: disable-error-code="no-any-return"
# numpy's stubs give Any for a Python number times a float32 array.

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from hardneg_plugin.data.phantom.findings import Finding

Array = NDArray[np.floating[Any]]
"""`(H, W)` float32."""

Number = TypeVar("Number", float, Array)

SIGN = {"left": 1.0, "right": -1.0}
"""The direction of a patient's side along `u` in the frontal view."""

HEART_GRADES = {"mild": 0.56, "moderate": 0.63, "severe": 0.70}
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
    """The body under the findings that change its shape; the others have no effect."""
    for found in findings:
        match found.name:
            case "cardiomegaly":
                body = replace(body, heart=HEART_GRADES[str(found.value("grade"))])
            case "hyperinflation":
                body = replace(
                    body,
                    base=body.base + 0.075,
                    sag=0.03,
                    heart=0.8 * body.heart,
                    air=body.air + 0.06,
                    depth=1.08 * body.depth,
                )
            case "elevated hemidiaphragm":
                body = replace(body, **{f"lift_{found.value('side')}": 0.11})
            case "tortuous aorta":
                body = replace(body, aorta=body.aorta + 0.05)
            case "scoliosis":
                body = replace(body, curve=0.095 * SIGN[str(found.value("direction"))])
    return body


@dataclass(frozen=True)
class Grid:
    """The pixels of a view in the patient's coordinates."""

    u: Array
    v: Array
    pixel: float
    """The width of one pixel, and so of the sharpest edge."""

    def inside(self, distance: Array, softness: float = 0.006) -> Array:
        """1 where a signed distance is positive, 0 where negative, with an edge of width `softness` (share of the side)."""
        return np.clip(distance / max(softness, self.pixel) + 0.5, 0, 1).astype(np.float32, copy=False)

    def ellipse(self, u: float, v: float, a: float, b: float, tilt: float = 0.0, softness: float = 0.006) -> Array:
        """A filled ellipse with half-axes `a`, `b`, turned by `tilt` radians."""
        du, dv = self.u - u, self.v - v
        cos, sin = math.cos(tilt), math.sin(tilt)
        along, across = cos * du + sin * dv, cos * dv - sin * du
        return self.inside((1 - np.hypot(along / a, across / b)) * min(a, b), softness)

    def glow(self, u: float, v: float, a: float, b: float) -> Array:
        """A patch without an edge: a Gaussian of widths `a`, `b`."""
        return np.exp(-((self.u - u) ** 2) / (2 * a * a) - (self.v - v) ** 2 / (2 * b * b))

    def stroke(self, points: Iterable[tuple[float, float]], radius: float) -> Array:
        """A line of this radius through the points."""
        nearest = np.full_like(self.u, np.inf)
        for (u0, v0), (u1, v1) in pairwise(points):
            eu, ev = u1 - u0, v1 - v0
            du, dv = self.u - u0, self.v - v0
            t = np.clip((du * eu + dv * ev) / (eu * eu + ev * ev), 0, 1)
            np.minimum(nearest, (du - t * eu) ** 2 + (dv - t * ev) ** 2, out=nearest)
        return self.inside(radius - np.sqrt(nearest))


def draw_grid(size: int, rng: Generator) -> Grid:
    """The pixels of a square view of a patient who stands slightly off centre and tilted."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    x, y = axis[None, :] - rng.uniform(-0.02, 0.02), axis[:, None] - rng.uniform(-0.02, 0.02)
    angle, zoom = math.radians(rng.uniform(-2.5, 2.5)), rng.uniform(0.97, 1.04)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    return Grid(cos * x + sin * y, cos * y - sin * x + 0.5, 1 / size)


class Frontal:
    """The frontal projection of a body."""

    def __init__(self, body: Body, grid: Grid) -> None:
        self.body, self.grid = b, g = body, grid
        self.out = np.abs(g.u)
        """Distance from the midline."""
        self.is_left = g.inside(g.u)
        """1 on the patient's left."""
        edge = self.edge(g.v)
        medial = b.mediastinum + 0.03 * np.clip((g.v - b.apex) / b.height, 0, 1) ** 2
        self.ribcage = g.inside(edge + 0.012 - self.out)
        self.lungs = g.inside(edge - self.out, 0.012) * g.inside(self.out - medial, 0.014)
        self.lungs *= g.inside(self.diaphragm(g.u) - g.v, 0.012)
        self.heart = self._heart()
        self.organs = np.maximum(self.heart, self._aorta())
        self.aerated = self.lungs * (1 - 0.85 * self.organs)
        """Lung with only chest wall in front and behind: the space that fluid can fill."""

    def edge(self, v: Array | float) -> Array:
        """Distance of the ribs' inner surface from the midline at a height."""
        b = self.body
        rise = np.clip((b.base + 0.05 - v) / (b.height + 0.05), 0, 1)
        return b.width * np.sqrt(1 - rise**2.3)

    def diaphragm(self, u: Array) -> Array:
        """Height of the diaphragm; the left dome is a little lower than the right."""
        b = self.body
        dome: Array = np.where(u > 0, b.base + 0.018 - b.lift_left, b.base - b.lift_right).astype(np.float32)
        return dome + b.sag * ((np.abs(u) / b.width - 0.45) / 0.55) ** 2

    def rib(self, number: int, u: Number) -> Number:
        """Height of a rib, counted from 1, at a distance from the midline."""
        b = self.body
        return b.apex - 0.02 + (number - 1) * b.rib_spacing + 0.16 * u**2 / b.width

    def density(self) -> Array:
        """The organs in the shape that this body has, without any drawn mark."""
        b, g, out = self.body, self.grid, self.out
        torso = g.inside(_outline(0.10, b.width + 0.07, g.v) - out, 0.02)
        density = torso * (b.flesh + 0.06 * np.clip(g.v - 0.5, 0, 1)) + 0.04 * self.organs
        # lungs let less through towards their roots and bases, where vessels and soft tissue are thicker
        density -= b.air * self.aerated * (1.06 - 0.2 * np.exp(-((out / (0.45 * b.width)) ** 2)))
        density += (
            1.2 * b.bone * _ridges((g.v - self.rib(1, g.u)) / b.rib_spacing) * self.ribcage * g.inside(out - 0.03, 0.03)
        )
        spine = g.u - b.curve * np.sin(np.pi * np.clip((g.v - 0.05) / 0.9, 0, 1)) ** 2
        vertebra = 0.7 + 0.3 * np.cos(2 * np.pi * g.v / VERTEBRA)
        density += 1.7 * b.bone * g.inside(0.034 - np.abs(spine), 0.012) * vertebra
        for side in (-1, 1):
            root = side * (b.mediastinum + 0.025), b.apex + (0.47 if side < 0 else 0.44) * b.height
            density += 0.13 * g.glow(*root, 0.028, 0.045) * self.aerated
            for slope in (-1.1, 0.2, 0.9, 1.9):  # vessels
                tip = root[0] + side * 0.13 / math.hypot(1, slope), root[1] + 0.13 * slope / math.hypot(1, slope)
                density += 0.07 * g.stroke([root, tip], 0.006) * self.aerated
            collar = (
                (side * 0.04, b.apex + 0.05),
                (side * 0.5 * b.width, b.apex + 0.035),
                (side * b.width, b.apex - 0.03),
            )
            density += 0.08 * g.stroke(collar, 0.011)
        density -= 0.12 * g.inside(0.016 - out, 0.01) * g.inside(b.apex + 0.33 * b.height - g.v, 0.03)  # windpipe
        density -= 0.2 * g.ellipse(0.5 * b.width, b.base + 0.085 - b.lift_left, 0.055, 0.035, softness=0.02)  # stomach
        return density

    def _heart(self) -> Array:
        b = self.body
        across = 2 * b.width * b.heart  # two thirds of it lie on the left
        ventricles = self.grid.ellipse(
            0.17 * across, b.base - 0.24 * across, 0.53 * across, 0.035 + 0.27 * across, tilt=0.6, softness=0.014
        )
        atrium = self.grid.ellipse(-0.1 * across, b.base - 0.26 * across, 0.24 * across, 0.38 * across, softness=0.014)
        return np.maximum(ventricles, atrium)

    def _aorta(self) -> Array:
        b, g = self.body, self.grid
        reach = b.mediastinum + b.aorta
        knob = g.ellipse(reach - 0.025, b.apex + 0.26 * b.height, 0.034 + 0.3 * b.aorta, 0.036 + 0.2 * b.aorta)
        bend = reach * np.exp(-(((g.v - b.apex - 0.42 * b.height) / 0.16) ** 2)) + 0.01
        return np.maximum(knob, self.is_left * g.inside(bend - self.out, 0.012))


class Lateral:
    """The lateral projection of a body: both lungs on top of one another."""

    def __init__(self, body: Body, grid: Grid) -> None:
        self.body, self.grid = body, grid
        g = grid
        edge = self.edge(g.v)
        self.ribcage = g.inside(edge + 0.01 - np.abs(g.u))
        chest = g.inside(edge - np.abs(g.u), 0.014)
        self.left, self.right = (chest * g.inside(self.diaphragm(g.u, side) - g.v, 0.012) for side in ("left", "right"))
        """Each side's lung."""
        self.heart = self._heart()
        self.organs = np.maximum(0.8 * self.heart, self._vessels())
        self.aerated = 0.5 * (self.left + self.right) * (1 - self.organs)
        """Lung with only chest wall beside it; 0.5 where only one side's lung is."""

    def edge(self, v: Array | float) -> Array:
        """Distance of the ribs' inner surface from the middle at a height."""
        b = self.body
        rise = np.clip((b.base + 0.05 - v) / (b.height + 0.05), 0, 1)
        return b.depth * np.sqrt(1 - rise**3)

    def diaphragm(self, u: Array, side: str) -> Array:
        """Height of a side's diaphragm, which falls further towards the back."""
        b = self.body
        dome = b.base + (0.018 - b.lift_left if side == "left" else -b.lift_right)
        return dome + 1.3 * b.sag * np.clip((u / b.depth + 0.35) / 1.35, -1, 1) ** 2

    def density(self) -> Array:
        """The organs in the shape that this body has, without any drawn mark."""
        b, g = self.body, self.grid
        torso = g.inside(_outline(0.12, b.depth + 0.05, g.v) - np.abs(g.u), 0.02)
        density = torso * (b.flesh + 0.05 * np.clip(g.v - 0.5, 0, 1)) - 0.95 * b.air * self.aerated
        density += 0.5 * b.bone * _ridges((g.v - b.apex - 0.25 * (g.u + b.depth)) / b.rib_spacing) * self.ribcage
        spine = g.u - 0.78 * b.depth + 0.05 * (g.v - 0.5)
        vertebra = 0.45 + 0.55 * np.clip(1.5 + 2 * np.cos(2 * np.pi * g.v / VERTEBRA), 0, 1)
        density += 1.1 * b.bone * g.inside(0.045 - np.abs(spine), 0.012) * vertebra * torso
        density += 0.12 * g.glow(0.05 * b.depth, b.apex + 0.47 * b.height, 0.035, 0.05) * self.aerated
        windpipe = g.inside(0.014 - np.abs(g.u + 0.02 - 0.15 * (g.v - 0.3)), 0.01)
        return density - 0.1 * windpipe * g.inside(b.apex + 0.4 * b.height - g.v, 0.03)

    def _heart(self) -> Array:
        b = self.body  # in front, on the diaphragm
        across = 2 * b.width * b.heart
        return self.grid.ellipse(
            -0.42 * b.depth, b.base - 0.05, 0.05 + 0.42 * across, 0.03 + 0.28 * across, tilt=-0.7, softness=0.016
        )

    def _vessels(self) -> Array:
        b = self.body
        arch = [(-0.2, 0.62), (-0.15, 0.4), (-0.02, 0.26), (0.15, 0.2), (0.33, 0.24), (0.46, 0.4), (0.52, 1.0)]
        path = [(back * b.depth + 0.8 * b.aorta * (back > 0.3), b.apex + low * b.height) for back, low in arch]
        return 0.3 * self.grid.stroke(path, 0.022 + 0.3 * b.aorta)


def _outline(neck: float, chest: float, v: Array) -> Array:
    """Half the width of the body at a height: neck, shoulders, chest."""
    down = np.clip((v - 0.02) / 0.2, 0, 1)
    return neck + (chest - neck) * down * (2 - down)


def _ridges(phase: Array) -> Array:
    """Ten ribs as one ridge repeated at every integer, at the cost of one."""
    return np.clip(1.6 - 6.5 * np.abs(phase - np.rint(phase)), 0, 1) * (phase > -0.4) * (phase < 9.4)
