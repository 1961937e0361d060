"""The objective: every strategy trains it, matches are never negatives, and nothing leaks out of it."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hardening import Arc, Ascent, Projection, Released, Segment
from hardneg_plugin.objectives import Absolute, Hinge, InBatch, InfoNCE, ReleasedAlignment, Triplet, Weights
from hardneg_plugin.objectives.schedule import Constant, Exponential, Linear, TrainingProgress

HARDENINGS = [Arc(), Segment(), Projection(), Ascent(), Released(), None]
ALIGNMENTS = [InfoNCE(), InfoNCE(negative_weight=0.0), Triplet()]
LATE = TrainingProgress(step=50, epoch=5, fraction=0.5)


def pairs(studies=8, width=6, report_width=None, seed=0, **fields):
    random = torch.Generator().manual_seed(seed)
    return PairEmbeddings(
        images=torch.randn(studies, width, generator=random, requires_grad=True),
        reports=torch.randn(studies, report_width or width, generator=random, requires_grad=True),
        **{"study_ids": [f"study {i}" for i in range(studies)], **fields},
    )


def objective(**options):
    return HardNegativeObjective(
        **{"schedule": Constant(hardness=0.5, warmup=0.1), "separation": Hinge(margin=0.0), **options}
    )


@pytest.mark.parametrize("hardening", HARDENINGS, ids=str)
@pytest.mark.parametrize("alignment", ALIGNMENTS, ids=str)
@pytest.mark.parametrize("k", [1, 3])
def test_every_combination_gives_every_parameter_and_feature_a_gradient(hardening, alignment, k):
    loss = objective(
        hardening=hardening, alignment=alignment, negatives=InBatch(k=k), image_width=6, report_width=5, width=4
    )
    batch = pairs(report_width=5)
    terms = loss(batch, LATE)
    (terms.alignment_loss + terms.separation_loss).backward()
    for name, parameter in loss.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert batch.images.grad.isfinite().all()
    assert batch.reports.grad.isfinite().all()


def test_without_arguments_there_is_one_weight():
    assert [name for name, _ in HardNegativeObjective().named_parameters()] == ["log_scales"]
    assert HardNegativeObjective().log_scales.exp().item() == pytest.approx(1 / 0.07)
    assert not list(HardNegativeObjective(alignment=Triplet()).parameters())


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(pairs(studies=1), id="one study"),
        pytest.param(pairs(study_ids=["same"] * 8), id="all one study"),
        pytest.param(pairs(texts=["normal ."] * 8), id="all one text"),
        pytest.param(pairs(patient_ids=[7] * 8), id="all one patient"),
        pytest.param(pairs(labels=[""] * 8), id="all without findings"),
    ],
)
@pytest.mark.parametrize("alignment", ALIGNMENTS, ids=str)
def test_without_a_negative_the_loss_is_zero_with_a_zero_gradient(batch, alignment):
    loss = objective(alignment=alignment, image_width=6, report_width=6, width=4)
    terms = loss(batch, LATE)
    total = terms.alignment_loss + terms.separation_loss
    total.backward()
    assert total.item() == pytest.approx(0.0, abs=1e-7)
    for parameter in loss.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 1e-7


def test_during_the_warm_up_both_losses_and_all_gradients_are_zero():
    loss = objective(image_width=6, report_width=6, width=4)
    terms = loss(pairs(), TrainingProgress(fraction=0.05))
    (terms.alignment_loss + terms.separation_loss).backward()
    assert terms.alignment_loss.item() == terms.separation_loss.item() == 0
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in loss.parameters())


def test_values_are_those_of_plain_loops():
    """In-batch, two matching studies, arc at hardness 0.5 without a margin, written out study by study."""
    batch = pairs(studies=5, texts=["a", "b", "a", "c", "d"], seed=4)
    terms = objective(hardening=Arc())(batch, LATE)
    z = F.normalize(batch.images.detach().double(), dim=-1)
    u = F.normalize(batch.reports.detach().double(), dim=-1)
    scale = 1 / 0.07
    matches = {(0, 2), (2, 0)}
    losses, separations = [], []
    for i in range(5):
        others = [j for j in range(5) if j != i and (i, j) not in matches]
        j = max(others, key=lambda j: float(u[i] @ u[j]))
        n = u[j]
        hardened = Arc()(z[i : i + 1], u[i : i + 1], n[None], 0.5)[0]
        to_report = math.exp(scale * z[i] @ u[i])
        to_report += sum(math.exp(scale * z[i] @ u[o]) for o in others)
        to_report += math.exp(scale * z[i] @ n) + math.exp(scale * z[i] @ hardened)
        to_image = math.exp(scale * u[i] @ z[i]) + sum(math.exp(scale * u[i] @ z[o]) for o in others)
        to_image += math.exp(scale * u[i] @ z[j])
        own = scale * float(z[i] @ u[i])
        losses.append((math.log(to_report) + math.log(to_image)) / 2 - own)
        separations.append(max(0.0, float(z[i] @ z[j])))
    assert terms.alignment_loss.item() == pytest.approx(sum(losses) / 5, rel=1e-5)
    assert sum(separations) > 0
    assert terms.separation_loss.item() == pytest.approx(sum(separations) / 5, rel=1e-5)
    assert terms.logs["false_negative_share"].item() == pytest.approx(2 / 20)
    assert terms.logs["hardness"].item() == pytest.approx(0.5)


def test_unknown_ids_are_all_different_studies():
    named = objective()(pairs(), LATE)
    unnamed = objective()(pairs(study_ids=None), LATE)
    torch.testing.assert_close(named.alignment_loss, unnamed.alignment_loss)


def test_match_keys_stand_for_the_identities_they_were_made_of():
    batch = pairs(studies=5, texts=["a", "b", "a", "c", "d"])
    given = PairEmbeddings(images=batch.images, reports=batch.reports, match_keys=batch.match_keys)
    assert torch.equal(objective()(given, LATE).alignment_loss, objective()(batch, LATE).alignment_loss)
    with pytest.raises(ValueError, match=r"either `match_keys` or `study_ids`.* both"):
        replace(batch, study_ids=["a", "b", "c", "d", "e"])
    with pytest.raises(ValueError, match=r"`match_keys` of 5 studies, but got 4"):
        replace(batch, match_keys=batch.match_keys[:4])


def test_token_rows_as_texts_match_whatever_their_padding():
    tokens = torch.tensor([[0, 5, 7, 0, 0, 0], [0, 5, 7, 0, 0, 0], [0, 5, 8, 0, 0, 0], [0, 5, 0, 0, 0, 0]])
    keys = pairs(studies=4, texts=tokens).match_keys.columns[:, 2]
    assert keys[0] == keys[1]
    assert len(set(keys.tolist())) == 3
    assert torch.equal(keys, pairs(studies=4, texts=tokens[:, :4]).match_keys.columns[:, 2])


def test_the_hardened_negative_gets_no_gradient_but_the_mined_one_does():
    """Pulling z·u down through the hardened negative is the released code's fault number 4."""
    batch = pairs(studies=2)
    only_hardened = objective(alignment=InfoNCE(negative_weight=0.0), separation=None, hardening=Arc())
    seen = []
    real = only_hardened.hardening

    def spy(images, reports, negatives, hardness, studies):
        seen.extend([images.requires_grad, reports.requires_grad, negatives.requires_grad])
        hardened = real(images, reports, negatives, hardness, studies)
        seen.append(hardened.requires_grad)
        return hardened

    only_hardened.hardening = spy
    only_hardened(batch, LATE).alignment_loss.backward()
    assert seen == [False] * 4


def test_works_in_float32_inside_autocast():
    loss = objective(image_width=6, report_width=6, width=4, centred=False)  # each call would move the centre
    batch = pairs()
    expected = loss(batch, LATE).alignment_loss
    half = PairEmbeddings(images=batch.images.bfloat16().float(), reports=batch.reports.bfloat16().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(batch, LATE).alignment_loss
        from_half = loss(
            PairEmbeddings(images=batch.images.bfloat16(), reports=batch.reports.bfloat16()), LATE
        ).alignment_loss
    assert inside.dtype == from_half.dtype == torch.float32
    assert torch.equal(inside, expected)
    torch.testing.assert_close(from_half, loss(half, LATE).alignment_loss)


def test_logit_scale_stays_within_its_range_and_can_come_back():
    loss = objective()
    with torch.no_grad():
        loss.log_scales.fill_(10.0)
    loss(pairs(), LATE).alignment_loss.backward()
    assert loss.log_scales.exp().item() == pytest.approx(100)
    assert loss.log_scales.grad.abs().item() > 0
    free = objective(alignment=ReleasedAlignment(), hardening=Released())
    with torch.no_grad():
        free.log_scales.fill_(5.0)
    free(pairs(), LATE)
    assert free.log_scales.tolist() == [5.0, 5.0]


def test_hardened_similarity_lies_between_the_mined_and_the_own():
    terms = objective(hardening=Arc(), schedule=Constant(hardness=0.9))(pairs(studies=64, seed=5), LATE)
    assert terms.logs["negative_similarity"] < terms.logs["hardened_similarity"]
    assert "hardened_similarity" not in objective(hardening=None)(pairs(), LATE).logs


def test_widths_are_checked_with_the_remedy():
    with pytest.raises(
        ValueError,
        match=r"one width, but got 6 and 5.*HardNegativeObjective\(image_width=6, report_width=5, width=512\)",
    ):
        objective()(pairs(report_width=5), LATE)
    with pytest.raises(ValueError, match=r"widths \(7, 5\).*got \(6, 5\)"):
        objective(image_width=7, report_width=5, width=4)(pairs(report_width=5), LATE)
    with pytest.raises(UserError, match="width=4 need image_width and report_width"):
        objective(width=4)


def test_pairs_are_checked():
    with pytest.raises(ValueError, match="Pool over patches"):
        PairEmbeddings(images=torch.ones(2, 3, 4), reports=torch.ones(2, 4))
    with pytest.raises(ValueError, match="`texts` for 2 studies, but got 3"):
        PairEmbeddings(images=torch.ones(2, 4), reports=torch.ones(2, 4), texts=["a", "b", "c"])


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Weights(alignment=-1), "weights.alignment"),
        (lambda: InBatch(k=0), "negatives.k"),
        (lambda: InBatch(k=3, pool=2), "negatives.pool"),
        (lambda: InBatch(ceiling=2), "negatives.ceiling"),
        (lambda: InfoNCE(temperature=0), "alignment.temperature"),
        (lambda: InfoNCE(negative_weight=-1), "negative_weight"),
        (lambda: Triplet(margin=0), "alignment.margin"),
        (lambda: Hinge(margin=1), "separation.margin"),
    ],
)
def test_bad_options_name_their_key(make, key):
    with pytest.raises(UserError, match=key):
        make()


@pytest.mark.parametrize(
    ("k", "has_images", "is_hardened", "got"),
    [
        (2, True, True, "got 2 per study, images, hardened"),
        (1, False, True, "got 1 per study, no images, hardened"),
        (1, True, False, "got 1 per study, images, not hardened"),
    ],
)
def test_released_alignment_says_what_it_needs(k, has_images, is_hardened, got):
    batch = objective()._embed(pairs(), LATE)
    found = InBatch(k=k)(batch)
    negatives = found if has_images else replace(found, images=None)
    with pytest.raises(UserError, match=rf"{got}.*negatives\.k=1"):
        ReleasedAlignment()(batch, negatives, found.reports if is_hardened else None, torch.ones(2))


def test_logit_scales_begin_at_the_reciprocal_of_the_temperature():
    assert InfoNCE(temperature=0.1).initial_log_scales == pytest.approx((math.log(10),))
    assert ReleasedAlignment(temperature=0.1).initial_log_scales == pytest.approx((math.log(10), math.log(10)))


def test_absolute_separation_and_released_run_in_batch():
    loss = objective(
        alignment=ReleasedAlignment(), hardening=Released(), separation=Absolute(), schedule=Exponential(rate=0.01)
    )
    terms = loss(pairs(), LATE)
    (terms.alignment_loss + terms.separation_loss).backward()
    assert loss.log_scales.grad.abs().min() > 0


def test_default_schedule_is_linear_over_training():
    assert HardNegativeObjective().schedule == Linear()
    assert HardNegativeObjective().separation is None


def test_a_cast_host_leaves_it_in_float32_and_a_move_takes_it_along():
    sizes = {"image_width": 3, "report_width": 2, "width": 4}
    cast = HardNegativeObjective(**sizes).to(torch.bfloat16).double()
    values = [*cast.parameters(), *cast.buffers()]
    assert {value.dtype for value in values} == {torch.float32, torch.int64}
    moved = HardNegativeObjective(**sizes).to("meta", torch.bfloat16)
    values = [*moved.parameters(), *moved.buffers()]
    assert {(value.dtype, value.device.type) for value in values} == {(torch.float32, "meta"), (torch.int64, "meta")}
    alone = HardNegativeObjective(**sizes).to_empty(device="meta", recurse=False)
    assert alone.log_scales.is_meta
    assert not alone.image_head.weight.is_meta
