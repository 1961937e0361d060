"""Properties that every strategy must have, over a table of strategies; closed forms against brute force."""

from dataclasses import fields, replace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hardening import (
    Arc,
    Ascent,
    Projection,
    Released,
    Segment,
    harden_arc,
    harden_ascent,
    harden_projection,
    harden_released,
    harden_segment,
)
from hardneg_plugin.functional.hardening_strategy import Hardening
from hardneg_plugin.objectives import Alternating


class Row(NamedTuple):
    strategy: Hardening  # as conf/hardening has it
    rises: bool = True  # alignment with the image never falls as hardness grows
    unit_length: bool = False
    variants: tuple[Hardening, ...] = ()  # further options; margins of 0 and 0.1 are tried anyway


# By the choice in conf/hardening. A new strategy is one row: every property below is asserted for it.
ROWS = {
    "arc": Row(Arc(margin=0.02), unit_length=True),
    "segment": Row(Segment(margin=0.02)),
    "projection": Row(Projection(), rises=False),
    "ascent": Row(Ascent(margin=0.02), unit_length=True, variants=(Ascent(steps=20, step_size=0.05, margin=0.1),)),
    "released": Row(Released(), rises=False),
    "alternating": Row(Alternating(margin=0.02), unit_length=True),
}


def variants(name, row):
    first = row.strategy.for_evaluation()
    strategies = [first, *row.variants]
    if "margin" in {field.name for field in fields(first)}:
        strategies += [replace(first, margin=margin) for margin in (0.0, 0.1)]
    return {f"{name} {strategy!r}": strategy for strategy in strategies}


STRATEGIES = {key: strategy for name, row in ROWS.items() for key, strategy in variants(name, row).items()}
PER_STUDY = {key: strategy for key, strategy in STRATEGIES.items() if not strategy.mixes_studies}
RISING = {key: strategy for key, strategy in STRATEGIES.items() if ROWS[key.split()[0]].rises}
ON_SPHERE = {key: strategy for key, strategy in STRATEGIES.items() if ROWS[key.split()[0]].unit_length}


def each(strategies):
    return pytest.mark.parametrize("harden", strategies.values(), ids=strategies.keys())


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_dir() / "hardening").glob("*.yaml")))
def test_every_choice_of_the_config_is_a_row(name):
    strategy = instantiate(OmegaConf.load(conf_dir() / "hardening" / f"{name}.yaml"))
    if name == "none":
        assert strategy is None
        return
    expected = ROWS[name].strategy
    assert type(strategy) is type(expected)
    assert strategy.for_evaluation() == expected.for_evaluation()


@each(STRATEGIES)
def test_a_strategy_for_evaluation_has_no_state(harden):
    assert harden.for_evaluation() is harden


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def regimes(studies=400, width=16):
    """Images, reports and negatives from untrained (all unrelated) to trained (positive near, negative a little less)."""
    for seed, (near_report, near_negative) in enumerate([(0, 0), (1, 0), (1, 1), (4, 1), (4, 3)]):
        z = unit(studies, width, seed=10 * seed)
        u = F.normalize(unit(studies, width, seed=10 * seed + 1) + near_report * z, dim=-1)
        n = F.normalize(unit(studies, width, seed=10 * seed + 2) + near_negative * u, dim=-1)
        yield z, u, n


def alignment(z: Tensor, x: Tensor) -> Tensor:
    return (z * x).sum(-1)


@each(STRATEGIES)
def test_hardness_zero_gives_the_negative_exactly(harden):
    for z, u, n in regimes():
        assert torch.equal(harden(z, u, n, 0.0), n)


@each(STRATEGIES)
def test_output_is_detached_and_no_parameter_collects_a_gradient(harden):
    head = nn.Linear(16, 16)
    z, u, n = (F.normalize(head(x), dim=-1) for x in next(regimes(8)))
    hardened = harden(z, u, n, 0.5)
    assert not hardened.requires_grad
    assert all(parameter.grad is None for parameter in head.parameters())


@each(PER_STUDY)
def test_result_depends_on_its_own_row_only(harden):
    z, u, n = list(regimes(32))[3]
    together = harden(z, u, n, 0.7)
    alone = torch.cat([harden(z[i : i + 1], u[i : i + 1], n[i : i + 1], 0.7) for i in range(32)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)


def test_released_mixes_the_batch():
    z, u, n = list(regimes(32))[3]
    alone = torch.cat([Released()(z[i : i + 1], u[i : i + 1], n[i : i + 1], 0.7) for i in range(32)])
    assert (Released()(z, u, n, 0.7) - alone).abs().max() > 0.1


def test_released_is_the_formula_of_the_released_code():
    """(1 - h) n + h (n + Σ_j ((z - n)·line_j) line_j / |line_j|), summed over all studies of the batch, in loops."""
    z, u, n = (unit(3, 4, seed=seed).double() for seed in (1, 2, 3))
    for i in range(3):
        moved = n[i].clone()
        for j in range(3):
            line = u[j] - n[j]
            moved += sum((z[i] - n[i]) * line) * line / sum(line**2) ** 0.5
        expected = 0.3 * n[i] + 0.7 * moved
        assert torch.allclose(harden_released(z, u, n, hardness=0.7)[i], expected, atol=1e-12)


@each(STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_negative_equal_to_the_report_is_finite_and_unchanged(harden, dtype):
    z, u = unit(6, 16, seed=1).to(dtype), unit(6, 16, seed=2).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16 if dtype is torch.float32 else dtype):
        hardened = harden(z, u, u.clone(), 0.9)
    assert hardened.dtype == dtype
    assert torch.equal(hardened, u)


@each(STRATEGIES)
@pytest.mark.parametrize("nudge", [1e-8, 1e-6, 1e-4, 1e-2])
def test_negatives_very_near_the_report_stay_near_it(harden, nudge):
    z, u = unit(64, 16, seed=1), unit(64, 16, seed=2)
    n = F.normalize(u + nudge * unit(64, 16, seed=3), dim=-1)
    hardened = harden(z, u, n, 0.9)
    assert hardened.isfinite().all()
    if not harden.mixes_studies:
        assert (hardened - n).norm(dim=-1).max() <= 1.01 * (u - n).norm(dim=-1).max() + 1e-6


@each(STRATEGIES)
def test_opposite_vectors_are_finite(harden):
    z = unit(6, 16, seed=1)
    for u, n in ((z, -z), (-z, z), (z, z), (unit(6, 16, seed=2), -unit(6, 16, seed=2))):
        assert harden(z, u, n, 0.9).isfinite().all()


@each(STRATEGIES)
def test_half_precision_is_the_float32_result_rounded(harden):
    z, u, n = (x.bfloat16() for x in list(regimes(32))[3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hardened = harden(z, u, n, 0.6)
    expected = harden(z.float(), u.float(), n.float(), 0.6)
    torch.testing.assert_close(hardened, expected.bfloat16(), rtol=0, atol=0)


@each(STRATEGIES)
def test_k_negatives_work_as_k_independent_ones(harden):
    z, u, _ = list(regimes(12))[3]
    negatives = F.normalize(unit(12, 5, 16, seed=7) + u[:, None], dim=-1)
    together = harden(z, u, negatives, 0.6)
    assert together.shape == negatives.shape
    for k in range(5):
        torch.testing.assert_close(together[:, k], harden(z, u, negatives[:, k], 0.6), rtol=0, atol=1e-6)


@each(STRATEGIES)
def test_hardness_may_differ_by_study(harden):
    z, u, n = list(regimes(8))[3]
    hardness = torch.linspace(0, 1, 8)
    together = harden(z, u, n, hardness)
    for i in range(8):
        torch.testing.assert_close(together[i], harden(z, u, n, hardness[i].item())[i], rtol=0, atol=1e-6)


@each(RISING)
def test_alignment_never_falls_as_hardness_grows(harden):
    for z, u, n in regimes():
        curve = torch.stack([alignment(z, harden(z, u, n, h)) for h in torch.linspace(0, 1, 21).tolist()])
        assert (curve.diff(dim=0) >= -1e-5).all()
        assert (curve[-1] > curve[0] + 0.01).any()


def test_projection_never_recedes_from_the_image():
    for z, u, n in regimes():
        curve = torch.stack([(z - Projection()(z, u, n, h)).norm(dim=-1) for h in torch.linspace(0, 1, 21).tolist()])
        assert (curve.diff(dim=0) <= 1e-5).all()


@each(PER_STUDY)
def test_never_aligned_better_than_the_positive_or_the_negative_itself(harden):
    for z, u, n in regimes():
        ceiling = torch.maximum(alignment(z, u) - harden.margin, alignment(z, n))
        for h in (0.3, 0.9, 1.0):
            assert (alignment(z, harden(z, u, n, h)) <= ceiling + 2e-6).all()


@each(PER_STUDY)
def test_a_negative_that_beats_the_report_is_returned_unchanged(harden):
    seen = 0
    for z, u, n in regimes():
        wins = alignment(z, n) > alignment(z, u) - harden.margin
        seen += int(wins.sum())
        assert torch.equal(harden(z, u, n, 0.9)[wins], n[wins])
    assert seen > 100


@each(ON_SPHERE)
def test_unit_length_out(harden):
    for z, u, n in regimes():
        for h in (0.1, 0.9, 1.0):
            torch.testing.assert_close(harden(z, u, n, h).norm(dim=-1), torch.ones(len(z)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("hardness", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_arc_is_the_best_point_of_the_allowed_arc(hardness, margin):
    """Brute force: walk the great circle from n towards u in 2,000 steps while alignment rises and the guard holds."""
    for z, u, n in regimes(60):
        z, u, n = z.double(), u.double(), n.double()
        whole = torch.arccos((u * n).sum(-1).clamp(-1, 1))
        across = F.normalize(u - (u * n).sum(-1, keepdim=True) * n, dim=-1)
        best = n.clone()
        walking = alignment(z, n) <= alignment(z, u) - margin
        for step in range(1, 2001):
            angle = (hardness * whole * step / 2000)[:, None]
            x = angle.cos() * n + angle.sin() * across
            walking &= (alignment(z, x) >= alignment(z, best)) & (alignment(z, x) <= alignment(z, u) - margin)
            best = torch.where(walking[:, None], x, best)
        hardened = harden_arc(z, u, n, hardness=hardness, margin=margin)
        torch.testing.assert_close(hardened, best, rtol=0, atol=3e-3)


@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_segment_is_the_best_point_of_the_allowed_segment(margin):
    for z, u, n in regimes(60):
        t = torch.linspace(0, 0.8, 4001)[:, None, None]
        x = n + t * (u - n)
        aligned = alignment(z, x)
        allowed = aligned <= torch.maximum(alignment(z, u) - margin, alignment(z, n)) + 1e-6
        best = aligned.masked_fill(~allowed, -2).amax(0)
        got = alignment(z, harden_segment(z, u, n, hardness=0.8, margin=margin))
        torch.testing.assert_close(got, best, rtol=0, atol=5e-4)


def test_projection_is_the_nearest_point_of_the_segment():
    for z, u, n in regimes(60):
        t = torch.linspace(0, 0.8, 4001)[:, None, None]
        nearest = (z - (n + t * (u - n))).norm(dim=-1).amin(0)
        hardened = harden_projection(z, u, n, hardness=0.8)
        moves = alignment(z, u) > alignment(z, n)
        torch.testing.assert_close((z - hardened).norm(dim=-1)[moves], nearest[moves], rtol=0, atol=1e-5)
        assert torch.equal(hardened[~moves], n[~moves])


def test_projection_of_a_negative_near_the_report_is_the_nearest_point_too():
    """At 5e-4 radians, far above the distance at which both count as equal; the nearest point lies between them."""
    angles = torch.tensor([2e-4, 0.0, 5e-4], dtype=torch.float64)
    z, u, n = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
    way = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    points = n + way * (u - n)
    nearest = points[(points - z).norm(dim=1).argmin()]
    assert torch.allclose(harden_projection(z, u, n, hardness=1.0)[0], nearest, atol=1e-7, rtol=0)


@pytest.mark.parametrize("hardness", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_ascent_reaches_what_arc_reaches_or_beyond_within_its_cap(hardness, margin):
    for z, u, n in regimes():
        by_arc = alignment(z, harden_arc(z, u, n, hardness=hardness, margin=margin))
        hardened = harden_ascent(z, u, n, hardness=hardness, margin=margin, steps=60, step_size=0.1)
        assert (alignment(z, hardened) >= by_arc - 1e-5).all()
        angle = torch.arccos((hardened * n).sum(-1).clamp(-1, 1))
        assert (angle <= hardness * torch.arccos((u * n).sum(-1).clamp(-1, 1)) + 2e-3).all()


def test_ascent_with_no_steps_is_the_identity_and_each_step_moves_by_its_size():
    z, u, n = list(regimes())[3]
    assert torch.equal(harden_ascent(z, u, n, hardness=1.0, steps=0, step_size=0.1), n)
    moved = torch.arccos((harden_ascent(z, u, n, hardness=1.0, steps=2, step_size=0.05) * n).sum(-1).clamp(-1, 1))
    assert moved.max() <= 0.1 + 1e-3
    assert (moved > 0.099).any()


def test_shapes_and_ranges_are_checked():
    z = unit(4, 8)
    with pytest.raises(ValueError, match=r"one shape \(B, D\).*\(4, 8\) and \(4, 6\)"):
        harden_arc(z, unit(4, 6), z, hardness=0.5)
    with pytest.raises(ValueError, match=r"`negatives` of shape.*\(3, 8\)"):
        harden_arc(z, z, unit(3, 8), hardness=0.5)
    with pytest.raises(ValueError, match=r"`hardness` between 0 and 1, but got 1\.5"):
        harden_arc(z, z, z, hardness=1.5)
    with pytest.raises(ValueError, match=r"`hardness` as a number or of shape \(B,\)"):
        harden_arc(z, z, z, hardness=torch.ones(3))


@pytest.mark.parametrize(
    ("strategy", "options", "message"),
    [
        (Arc, {"margin": -0.1}, r"hardening\.margin.* got -0\.1"),
        (Segment, {"margin": 2.0}, r"hardening\.margin.* got 2\.0"),
        (Projection, {"margin": -1}, r"hardening\.margin.* got -1"),
        (Ascent, {"steps": -1}, r"hardening\.steps.* got -1"),
        (Ascent, {"step_size": 0.0}, r"hardening\.step_size.* got 0\.0"),
        (Alternating, {"margin": 2.0}, r"hardening\.margin.* got 2\.0"),
        (Alternating, {"steps": 0}, r"hardening\.steps.* got 0"),
        (Alternating, {"step_size": -1.0}, r"hardening\.step_size.* got -1\.0"),
    ],
)
def test_options_are_checked_at_the_start(strategy, options, message):
    with pytest.raises(UserError, match=message):
        strategy(**options)


@each(STRATEGIES)
def test_hardness_beyond_its_range_is_clamped(harden):
    z, u, n = (unit(4, 8, seed=seed) for seed in (1, 2, 3))
    for beyond, last in ((1.5, 1.0), (-0.5, 0.0)):
        assert torch.equal(harden(z, u, n, torch.full((4,), beyond)), harden(z, u, n, torch.full((4,), last)))
