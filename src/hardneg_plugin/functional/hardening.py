"""The inner maximisation: hard negative reports made harder in feature space, one study at a time.

Every `harden_*` takes the arguments of `harden_arc` and returns the hardened negatives, detached, of the negatives' shape and
dtype: this step maximises, it does not train. The arithmetic is float32 or wider, whatever the autocast.

With a = z·u, b = z·n, c = u·n: the result is n itself where hardness is 0, where n equals u, and, except in `harden_released`,
where b > a - margin: the hard negative already beats the positive.

A strategy is one function and one dataclass that names it (`Arc`). To add one: write both here, a YAML in conf/hardening, and a
row in tests/unit/functional/test_hardening.py.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.errors import require_count, require_number
from hardneg_plugin.functional.hardening_strategy import Guarded, Stateless

TINY = 1e-6
"""Unit vectors nearer than this count as equal: rounding alone decides the direction from one to the other."""


@torch.no_grad()
def harden_arc(
    images: Tensor, reports: Tensor, negatives: Tensor, *, hardness: float | Tensor, margin: float = 0.0
) -> Tensor:
    """Move each negative along the great circle towards the positive as far as its alignment with the image rises.

    The angle is at most `hardness` times that to the positive. It stops where the alignment peaks, and where it reaches that of
    the positive minus `margin`. Closed form; reconstructed, not from the paper.

    Args:
        images: z, `(B, D)`, unit length.
        reports: u, `(B, D)`, unit length: the positives.
        negatives: n, `(B, D)` or `(B, K, D)`, unit length.
        hardness: a number in [0, 1], or `(B,)`, clamped to it.
        margin: how much worse than the positive a negative stays aligned, a cosine difference >= 0.

    Returns:
        Hardened negatives of unit length.

    Raises:
        ValueError: shapes that do not fit, or a hardness outside of [0, 1].

    >>> z, u, n = torch.eye(3)[:1], torch.eye(3)[:1], torch.eye(3)[1:2]
    >>> harden_arc(z, u, n, hardness=1 / 3).round(decimals=4)
    tensor([[0.5000, 0.8660, 0.0000]])
    """
    z, u, n, h = _rows(images, reports, negatives, hardness)
    a, b, c = _dot(z, u), _dot(z, n), _dot(u, n)
    away = u - c * n
    length = away.norm(dim=-1, keepdim=True)
    towards = away / length.clamp_min(TINY)
    whole = torch.atan2(length, c)
    z_towards = _dot(z, towards)
    peak = torch.atan2(z_towards, b)
    in_plane = torch.hypot(z_towards, b).clamp_min(TINY)
    guard = peak - torch.arccos(((a - margin) / in_plane).clamp(-1, 1))
    angle = torch.minimum(torch.minimum(h * whole, peak), guard)
    moved = torch.cos(angle) * n + torch.sin(angle) * towards
    stays = (angle <= 0) | (b > a - margin) | (length < TINY)
    return _like(negatives, torch.where(stays, n, moved))


@torch.no_grad()
def harden_segment(
    images: Tensor, reports: Tensor, negatives: Tensor, *, hardness: float | Tensor, margin: float = 0.0
) -> Tensor:
    """Move each negative straight towards the positive, `hardness` of the way: the maximum of the dot product there.

    It stops at `z·u - margin`. Closed form; reconstructed, not from the paper.

    Args:
        images, reports, negatives, hardness: as of `harden_arc`.
        margin: a difference of dot products >= 0.

    Returns:
        Hardened negatives, not of unit length.
    """
    z, u, n, h = _rows(images, reports, negatives, hardness)
    way = torch.minimum(h, _room(z, u, n, margin))
    return _like(negatives, torch.where(way > 0, n + way * (u - n), n))


@torch.no_grad()
def harden_projection(
    images: Tensor, reports: Tensor, negatives: Tensor, *, hardness: float | Tensor, margin: float = 0.0
) -> Tensor:
    """Move each negative towards the image's projection on the line to the positive, at most `hardness` of that line.

    The minimum of the Euclidean distance to the image there. Closed form; reconstructed, not from the paper.

    Args:
        images, reports, negatives, hardness: as of `harden_arc`.
        margin: a difference of dot products >= 0.

    Returns:
        Hardened negatives, not of unit length.
    """
    z, u, n, h = _rows(images, reports, negatives, hardness)
    line = u - n
    projected = _dot(z - n, line) / _dot(line, line).clamp_min(TINY**2)
    way = torch.minimum(torch.minimum(h, projected), _room(z, u, n, margin))
    return _like(negatives, torch.where(way > 0, n + way * line, n))


@torch.no_grad()
def harden_ascent(
    images: Tensor,
    reports: Tensor,
    negatives: Tensor,
    *,
    hardness: float | Tensor,
    margin: float = 0.0,
    steps: int = 5,
    step_size: float = 0.1,
) -> Tensor:
    """Projected gradient ascent of the alignment z·x over the sphere, from the negative.

    Each step moves up the gradient, stays within the cap around n whose radius is `hardness` times the angle from n to the
    positive, and stops at the guard z·x = z·u - margin.

    Args:
        images, reports, negatives, hardness, margin: as of `harden_arc`.
        steps: number of steps, >= 0.
        step_size: angle of a step in radians, > 0.

    Returns:
        Hardened negatives of unit length.
    """
    z, u, n, h = _rows(images, reports, negatives, hardness)
    a, b = _dot(z, u), _dot(z, n)
    radius = h * _angle(u, n)
    nearest = torch.arccos((a - margin).clamp(-1, 1))
    x = n
    for _ in range(steps):
        room = (_angle(z, x) - nearest).clamp_min(0)
        x = _turn(x, z, room.clamp_max(step_size))
        x = _turn(n, x, torch.minimum(radius, _angle(n, x)))
    stays = (radius <= 0) | (b > a - margin) | ((u - n).norm(dim=-1, keepdim=True) < TINY)
    return _like(negatives, torch.where(stays, n, x))


@torch.no_grad()
def turn_back(images: Tensor, reports: Tensor, negatives: Tensor, *, margin: float = 0.0) -> Tensor:
    """Turn negatives beyond the guard z·x = z·u - margin back to it, along the great circle away from the image.

    Args:
        images, reports, negatives, margin: as of `harden_arc`.

    Returns:
        Negatives of unit length; those within the guard are unchanged.
    """
    z, u, n, _ = _rows(images, reports, negatives, 0.0)
    allowed = (_dot(z, u) - margin).clamp(-1, 1)
    turned = _turn(z.expand_as(n), n, torch.arccos(allowed).expand(*n.shape[:2], 1))
    return _like(negatives, torch.where(_dot(z, n) > allowed, turned, n))


@torch.no_grad()
def harden_released(images: Tensor, reports: Tensor, negatives: Tensor, *, hardness: float | Tensor) -> Tensor:
    """The formula of the released ITHN code, for comparison: its projection mixes the studies of the batch.

    Row i moves along the difference vectors of every study j, each weighted by its product with row i, without clamp or guard.
    Use another strategy to train.

    Args:
        images, reports, negatives, hardness: as of `harden_arc`.

    Returns:
        Hardened negatives, not of unit length.
    """
    z, u, n, h = _rows(images, reports, negatives, hardness)
    line = u - n
    direction = line / line.norm(dim=-1, keepdim=True).clamp_min(TINY)
    with torch.autocast(n.device.type, enabled=False):
        steps = torch.einsum("ikd,jkd,jke->ike", z - n, line, direction)
    return _like(negatives, n + h * steps)  # = (1 - h) n + h (n + steps), and n itself where there is no step


def _rows(
    images: Tensor, reports: Tensor, negatives: Tensor, hardness: float | Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Check and widen: z and u `(B, 1, D)`, n `(B, K, D)`, hardness `(B, 1, 1)`."""
    if images.ndim != 2 or images.shape != reports.shape:
        raise ValueError(
            f"Expected `images` and `reports` of one shape (B, D), but got {tuple(images.shape)} and {tuple(reports.shape)}."
        )
    if negatives.ndim not in (2, 3) or (negatives.shape[0], negatives.shape[-1]) != tuple(images.shape):
        raise ValueError(
            f"Expected `negatives` of shape (B, D) or (B, K, D) with (B, D) = {tuple(images.shape)}, "
            f"but got {tuple(negatives.shape)}."
        )
    if isinstance(hardness, Tensor):
        if hardness.shape not in ((), images.shape[:1]):
            raise ValueError(f"Expected `hardness` as a number or of shape (B,), but got {tuple(hardness.shape)}.")
    elif not 0 <= hardness <= 1:
        raise ValueError(f"Expected `hardness` between 0 and 1, but got {hardness}.")
    dtype = torch.promote_types(negatives.dtype, torch.float32)
    n = negatives.to(dtype).reshape(len(negatives), -1, negatives.shape[-1])
    h = hardness.to(n).clamp(0, 1) if isinstance(hardness, Tensor) else n.new_full((), hardness)
    h = h.expand(len(n))
    return images.to(dtype)[:, None], reports.to(dtype)[:, None], n, h[:, None, None]


def _like(negatives: Tensor, hardened: Tensor) -> Tensor:
    return hardened.reshape(negatives.shape).to(negatives.dtype)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(dim=-1, keepdim=True)


def _angle(x: Tensor, y: Tensor) -> Tensor:
    """The angle between unit vectors in radians, `(..., 1)`; exact for small ones, where arccos of the cosine is not."""
    return 2 * torch.atan2((x - y).norm(dim=-1, keepdim=True), (x + y).norm(dim=-1, keepdim=True))


def _turn(x: Tensor, towards: Tensor, angle: Tensor) -> Tensor:
    """The unit vector x turned by an angle along the great circle towards another; unchanged where there is no such circle."""
    away = towards - _dot(towards, x) * x
    turned = torch.cos(angle) * x + torch.sin(angle) * F.normalize(away, dim=-1, eps=TINY)
    return torch.where((angle <= 0) | (away.norm(dim=-1, keepdim=True) < TINY), x, F.normalize(turned, dim=-1))


def _room(z: Tensor, u: Tensor, n: Tensor, margin: float) -> Tensor:
    """How much of the way from n to u keeps z·x at or below z·u - margin: 0 where none does."""
    gap = _dot(z, u) - _dot(z, n)
    return torch.where(gap > margin, 1 - margin / gap.clamp_min(TINY), torch.zeros_like(gap))


@dataclass(frozen=True)
class Arc(Guarded):
    """`harden_arc` as a strategy.

    >>> z, u, n = torch.eye(3)[:1], torch.eye(3)[:1], torch.eye(3)[1:2]
    >>> Arc(margin=0.02)(z, u, n, hardness=1 / 3).round(decimals=4)
    tensor([[0.5000, 0.8660, 0.0000]])
    """

    function = staticmethod(harden_arc)


@dataclass(frozen=True)
class Segment(Guarded):
    """`harden_segment` as a strategy.

    >>> z, u, n = torch.eye(3)[:1], torch.eye(3)[:1], torch.eye(3)[1:2]
    >>> Segment(margin=0.02)(z, u, n, hardness=0.5)
    tensor([[0.5000, 0.5000, 0.0000]])
    """

    function = staticmethod(harden_segment)


@dataclass(frozen=True)
class Projection(Guarded):
    """`harden_projection` as a strategy.

    >>> z, u, n = torch.eye(3)[:1], torch.eye(3)[:1], torch.eye(3)[1:2]
    >>> Projection(margin=0.02)(z, u, n, hardness=0.5)
    tensor([[0.5000, 0.5000, 0.0000]])
    """

    function = staticmethod(harden_projection)


@dataclass(frozen=True)
class Ascent(Guarded):
    """`harden_ascent` as a strategy: `steps` >= 0 of `step_size` radians > 0.

    >>> z, u, n = torch.eye(3)[:1], torch.eye(3)[:1], torch.eye(3)[1:2]
    >>> Ascent(margin=0.02, steps=2, step_size=0.1)(z, u, n, hardness=1.0).round(decimals=4)  # turned by 0.2 radians
    tensor([[0.1987, 0.9801, 0.0000]])
    """

    function = staticmethod(harden_ascent)
    steps: int = 5
    step_size: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count(self.steps, "hardening.steps", "a number of ascent steps >= 0", least=0)
        require_number(self.step_size, "hardening.step_size", "an angle in radians above 0", above=0)


@dataclass(frozen=True)
class Released(Stateless):
    """`harden_released` as a strategy: for comparison with the released code, not for training."""

    function = staticmethod(harden_released)
    mixes_studies = True
