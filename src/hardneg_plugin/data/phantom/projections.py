"""The organs of a phantom's chest in a frontal and a lateral projection, in the coordinates of `anatomy`."""
# mypy: disable-error-code="no-any-return"
# numpy's stubs give Any for a Python number times a float32 array.

import math

import numpy as np

from hardneg_plugin.data.phantom.anatomy import VERTEBRA, Array, Body, Grid, Number


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
        """Height of a rib.

        Args:
            number: of the rib, >= 1 from the top.
            u: distance from the midline, a number or `(H, W)`.
        """
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
            collar = (0.04, 0.05), (0.5 * b.width, 0.035), (b.width, -0.03)
            density += 0.08 * g.stroke([(side * across, b.apex + low) for across, low in collar], 0.011)
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
        """Height of a side's diaphragm, which falls towards the back.

        Args:
            u: `(H, W)` positions from front to back.
            side: "left" or "right".
        """
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
