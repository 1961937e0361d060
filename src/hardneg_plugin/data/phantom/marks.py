"""What each finding adds to the density of a view: one small function per finding and view."""
# mypy: disable-error-code="no-any-return"
# numpy's stubs give Any for a Python number times a float32 array.

from collections.abc import Callable, Mapping

import numpy as np
from numpy.random import Generator

from hardneg_plugin.data.phantom.anatomy import SIGN, Array
from hardneg_plugin.data.phantom.findings import Finding
from hardneg_plugin.data.phantom.projections import Frontal, Lateral

MILLIMETRE = 1 / 165
"""A millimetre of a nodule as a share of the image's side; more than twice life size, to keep it visible at 128 pixels."""

HEIGHTS = {"upper": 0.26, "mid": 0.52, "lower": 0.8}
"""The height of a lung zone between apex (0) and dome (1)."""

FLUID = {"small": 0.01, "moderate": -0.13, "large": -0.29}
"""The level of an effusion, below the dome of the diaphragm."""

COLLAPSE = {"small": 0.055, "large": 0.13}
"""The width of the air between lung and ribs."""


def _side(found: Finding) -> float:
    return SIGN[found.value("side")]


def _half(view: Frontal, found: Finding) -> Array:
    return view.is_left if _side(found) > 0 else 1 - view.is_left


def _level(view: Frontal | Lateral, found: Finding) -> float:
    return view.body.base + FLUID[str(found.value("size"))]


def _effusion(view: Frontal, found: Finding, rng: Generator) -> Array:
    # the meniscus climbs along the ribs
    climb = 0.09 * np.clip(view.out / view.body.width, 0, 1) ** 4
    fluid = view.grid.inside(view.grid.v - _level(view, found) + climb, 0.015)
    return 0.9 * view.body.air * fluid * view.aerated * _half(view, found)


def _effusion_lateral(view: Lateral, found: Finding, rng: Generator) -> Array:
    lung = view.left if _side(found) > 0 else view.right
    climb = 0.12 * np.clip(view.grid.u / view.body.depth, 0, 1) ** 2
    fluid = view.grid.inside(view.grid.v - _level(view, found) + climb - 0.02, 0.015)
    return 0.45 * view.body.air * fluid * lung * (1 - view.organs)


def _pneumothorax(view: Frontal, found: Finding, rng: Generator) -> Array:
    gap = COLLAPSE[str(found.value("size"))]
    low = view.body.apex + 0.85 * view.body.height
    lung_edge = view.edge(view.grid.v - 1.2 * gap) - gap * np.clip((low - view.grid.v) / 0.25, 0, 1)
    beyond = (view.out - lung_edge).astype(np.float32)
    air = view.grid.inside(beyond) * view.grid.inside(low - view.grid.v, 0.02)
    line = air * view.grid.inside(0.007 - beyond)
    return (0.4 * line - 0.17 * air) * view.aerated * _half(view, found)


LOBES: Mapping[str, tuple[float, float, float, float, float]] = {
    # outwards over width, height, half-axes, forwards (-) or backwards (+) over depth
    "right upper": (0.42, 0.25, 0.08, 0.085, -0.1),
    "right middle": (0.42, 0.66, 0.075, 0.07, -0.5),
    "right lower": (0.66, 0.9, 0.085, 0.08, 0.45),
    "left upper": (0.45, 0.3, 0.085, 0.1, -0.25),
    "left lower": (0.68, 0.9, 0.08, 0.085, 0.45),
}


def _patch(view: Frontal | Lateral, u: float, v: float, a: float, b: float, rng: Generator) -> Array:
    """A cloud of overlapping soft patches."""
    cloud = view.grid.glow(u, v, 0.7 * a, 0.7 * b)
    for du, dv in rng.uniform(-0.6, 0.6, (4, 2)).tolist():
        np.maximum(cloud, view.grid.glow(u + du * a, v + dv * b, 0.45 * a, 0.45 * b), out=cloud)
    return np.clip(1.5 * cloud - 0.15, 0, 1)


def _consolidation(view: Frontal, found: Finding, rng: Generator) -> Array:
    lobe = str(found.value("lobe"))
    out, height, a, b, _ = LOBES[lobe]
    u = SIGN[lobe.split()[0]] * out * view.body.width
    return 0.3 * _patch(view, u, view.body.apex + height * view.body.height, a, b, rng) * view.aerated


def _consolidation_lateral(view: Lateral, found: Finding, rng: Generator) -> Array:
    _, height, a, b, back = LOBES[str(found.value("lobe"))]
    u = back * view.body.depth
    return 0.26 * _patch(view, u, view.body.apex + height * view.body.height, a, b, rng) * view.aerated


def _nodule_height(view: Frontal | Lateral, found: Finding, rng: Generator) -> float:
    return view.body.apex + view.body.height * (HEIGHTS[str(found.value("zone"))] + rng.uniform(-0.05, 0.05))


def _ball(view: Frontal | Lateral, found: Finding, u: float, v: float) -> Array:
    radius = MILLIMETRE * int(found.value("mm")) / 2
    if found.value("calcified"):
        return 0.65 * view.grid.ellipse(u, v, radius, radius)
    return 0.38 * view.grid.ellipse(u, v, radius, radius, softness=0.012)


def _nodule(view: Frontal, found: Finding, rng: Generator) -> Array:
    v = _nodule_height(view, found, rng)
    return _ball(view, found, _side(found) * float(view.edge(v)) * rng.uniform(0.6, 0.76), v)


def _nodule_lateral(view: Lateral, found: Finding, rng: Generator) -> Array:
    v = _nodule_height(view, found, rng)
    return 0.8 * _ball(view, found, float(view.edge(v)) * rng.uniform(-0.1, 0.45), v)


def _band_height(view: Frontal | Lateral, found: Finding) -> float:
    return view.body.apex + view.body.height * (0.54 if found.value("band") == "mid" else 0.88)


def _atelectasis(view: Frontal, found: Finding, rng: Generator) -> Array:
    side, v = _side(found), _band_height(view, found) + rng.uniform(-0.015, 0.015)
    inner, outer = 0.44 * view.body.width, 0.9 * view.body.width
    tilt = rng.uniform(-0.02, 0.03)
    return 0.28 * view.grid.stroke([(side * inner, v), (side * outer, v + tilt)], 0.009) * view.aerated


def _atelectasis_lateral(view: Lateral, found: Finding, rng: Generator) -> Array:
    v = _band_height(view, found) + rng.uniform(-0.015, 0.015)
    inner, outer = 0.1 * view.body.depth, 0.75 * view.body.depth
    return 0.24 * view.grid.stroke([(inner, v), (outer, v + 0.03)], 0.009) * view.aerated


def _oedema(view: Frontal, found: Finding, rng: Generator) -> Array:
    b, g = view.body, view.grid
    v = b.apex + 0.52 * b.height
    wings = g.glow(-0.42 * b.width, v, 0.07, 0.11) + g.glow(0.46 * b.width, v, 0.07, 0.11)
    septa = np.clip(np.cos(2 * np.pi * g.v / 0.045) - 0.5, 0, 1) * g.inside(view.out - 0.72 * b.width, 0.02)
    septa *= g.inside(g.v - b.apex - 0.6 * b.height, 0.05)
    return (0.3 * wings + 0.16 * septa) * view.aerated


def _oedema_lateral(view: Lateral, found: Finding, rng: Generator) -> Array:
    b = view.body
    return 0.26 * view.grid.glow(0.08 * b.depth, b.apex + 0.5 * b.height, 0.09, 0.11) * view.aerated


def _fracture(view: Frontal, found: Finding, rng: Generator) -> Array:
    side, number, g = _side(found), int(found.value("number")), view.grid
    u = 0.84 * float(view.edge(view.rib(number, 0.85 * view.body.width)))
    v = view.rib(number, u)
    gap = g.stroke([(side * (u - 0.006), v - 0.02), (side * (u + 0.006), v + 0.02)], 0.007)
    # the ends have slipped past one another
    ends = np.maximum(
        g.stroke([(side * (u - 0.045), v - 0.016), (side * (u - 0.01), v - 0.008)], 0.009),
        g.stroke([(side * (u + 0.01), v + 0.014), (side * (u + 0.04), v + 0.024)], 0.009),
    )
    return 0.34 * ends - 0.16 * gap


def _pacemaker(view: Frontal, found: Finding, rng: Generator) -> Array:
    b, side = view.body, _side(found)
    u, v = side * 0.66 * b.width, b.apex + 0.16 * b.height
    box = view.grid.ellipse(u, v, 0.05, 0.038, softness=0.008)
    tip = (-0.02, b.base - 0.14), (0.11, b.base - 0.03)
    lead = [(u, v), (side * 0.1, b.apex + 0.05), (-0.03, b.apex + 0.3 * b.height), *tip]
    return np.maximum(0.75 * box, 0.4 * view.grid.stroke(lead, 0.004))


def _pacemaker_lateral(view: Lateral, found: Finding, rng: Generator) -> Array:
    b = view.body
    u, v = -0.62 * b.depth, b.apex + 0.16 * b.height
    box = view.grid.ellipse(u, v, 0.018, 0.038, softness=0.008)
    lead = [(u, v), (-0.05, b.apex + 0.1), (-0.06, b.base - 0.2), (-0.45 * b.depth, b.base - 0.03)]
    return np.maximum(0.75 * box, 0.35 * view.grid.stroke(lead, 0.004))


def _central_line(view: Frontal, found: Finding, rng: Generator) -> Array:
    b, side = view.body, _side(found)
    neck = (side * 0.24, b.apex - 0.07), (side * 0.13, b.apex + 0.015), (side * 0.06, b.apex + 0.045)
    path = [*neck, (-0.04, b.apex + 0.25 * b.height), (-0.04, b.apex + 0.5 * b.height)]
    return 0.4 * view.grid.stroke(path, 0.006)


def _central_line_lateral(view: Lateral, found: Finding, rng: Generator) -> Array:
    b = view.body
    path = [(-0.1, b.apex - 0.06), (-0.07, b.apex + 0.1), (-0.05, b.apex + 0.5 * b.height)]
    return 0.3 * view.grid.stroke(path, 0.006)


FRONTAL: Mapping[str, Callable[[Frontal, Finding, Generator], Array]] = {
    "pleural effusion": _effusion,
    "pneumothorax": _pneumothorax,
    "consolidation": _consolidation,
    "nodule": _nodule,
    "atelectasis": _atelectasis,
    "oedema": _oedema,
    "rib fracture": _fracture,
    "pacemaker": _pacemaker,
    "central line": _central_line,
}
"""The findings drawn onto the body in the frontal view."""

LATERAL: Mapping[str, Callable[[Lateral, Finding, Generator], Array]] = {
    "pleural effusion": _effusion_lateral,
    "consolidation": _consolidation_lateral,
    "nodule": _nodule_lateral,
    "atelectasis": _atelectasis_lateral,
    "oedema": _oedema_lateral,
    "pacemaker": _pacemaker_lateral,
    "central line": _central_line_lateral,
}
"""The same in the lateral view, which does not show the others (pneumothorax, rib fracture, scoliosis)."""
