"""Terms that read reports again, with token losses that are made up: losses, weights and logs, study by study."""

import math

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.objectives import ByImage, ByText, EditMargin, EmbeddedBatch, LikelihoodMargin
from hardneg_plugin.objectives.batch import HardNegatives
from hardneg_plugin.objectives.likelihood import terms
from hardneg_plugin.objectives.likelihood.negative_images import MEAN_IMAGE, NegativeImages
from hardneg_plugin.objectives.likelihood.terms import NO_TERMS, likelihood_terms
from hardneg_plugin.objectives.likelihood.token_weights import ByEmphasis
from hardneg_plugin.objectives.schedule import TrainingProgress

STUDIES, LENGTH = 5, 6
HERE = range(STUDIES)
MASK = torch.arange(LENGTH) < torch.tensor([6, 3, 1, 4, 2])[:, None]
TEXTS = ["a", "b", "a", "c", "d"]
"""The first and the third study match; of the last nothing counts where it is unusable."""


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(unusable=(), paired=None, step=3):
    usable = torch.tensor([i not in unusable for i in HERE])
    images, reports = F.normalize(drawn(2, STUDIES, 4, seed=1) - 0.5, dim=-1).where(usable[:, None], 0)
    keys = MatchKeys.of(STUDIES, study_ids=list(HERE), texts=TEXTS)
    shards = Shards(0, (STUDIES,))
    return EmbeddedBatch(images, reports, keys, shards, TrainingProgress(step), paired, usable)


def losses_with(order, towards=0.0):
    """Of every report with the image of every study, as a table; less far from the own ones the farther `towards` goes."""
    own = 3 * drawn(STUDIES, LENGTH, seed=2)
    table = own[:, None] + 2 * drawn(STUDIES, STUDIES + 1, LENGTH, seed=3) - 0.8
    other = table[torch.arange(STUDIES), order]
    return other + (own - other) * towards


def own_losses(bad=None):
    losses = 3 * drawn(STUDIES, LENGTH, seed=2)
    if bad is not None:
        losses[bad, 0] = torch.nan
    # what does not count may be anything
    return TokenLosses(losses.masked_fill(~MASK, torch.nan), MASK, (10 * drawn(STUDIES, LENGTH, seed=4)).long())


def reader(calls=None, bad=None):
    def read(order=None, towards=None):
        if calls is not None:
            calls.append((order, towards))
        if order is None:
            return own_losses(bad)
        way = 0.0 if towards is None else towards[:, None]
        return TokenLosses(losses_with(order, way).masked_fill(~MASK, torch.nan), MASK)

    return read


def report_losses(losses):
    return [sum(float(losses[i, t]) for t in range(LENGTH) if MASK[i, t]) for i in HERE]


def nearest(batch, k):
    """Rows of each study's nearest reports that do not match; fewer than k where there are no more."""
    similarity = batch.reports @ batch.reports.T
    here = [i for i in HERE if batch.usable[i]]
    others = {i: [j for j in here if TEXTS[j] != TEXTS[i]] if i in here else [] for i in HERE}
    return [sorted(others[i], key=lambda j, i=i: -float(similarity[i, j]))[:k] for i in HERE]


@pytest.mark.parametrize("unusable", [(), (3,)])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_negative_images_are_those_of_the_nearest_reports(k, unusable):
    batch = batch_of(unusable)
    index, valid = NegativeImages(k=k)(batch)
    assert index.shape == valid.shape == (STUDIES, k)
    assert [index[i][valid[i]].tolist() for i in HERE] == nearest(batch, k)


def test_the_mean_image_is_every_usable_studys():
    index, valid = NegativeImages("mean_image")(batch_of((2,)))
    assert index.tolist() == [[MEAN_IMAGE]] * STUDIES
    assert valid.tolist() == [[i != 2] for i in HERE]


def test_paired_images_come_after_those_of_the_batch():
    valid = drawn(STUDIES, 3, seed=7) > 0.3
    unit = F.normalize(drawn(STUDIES, 3, 4, seed=8), dim=-1)
    batch = batch_of(paired=HardNegatives(unit, unit, valid))
    index, is_there = NegativeImages("paired", k=2)(batch)
    assert index.tolist() == [[STUDIES + 3 * i, STUDIES + 3 * i + 1] for i in HERE]
    assert torch.equal(is_there, valid[:, :2])
    assert NegativeImages("paired", k=3)(batch)[0].shape == (STUDIES, 3)
    with pytest.raises(UserError, match=r"with 4 paired studies per study, but got 3.*negatives\.k >= 4"):
        NegativeImages("paired", k=4)(batch)
    with pytest.raises(UserError, match=r"with 1 paired studies per study, but got 0"):
        NegativeImages("paired")(batch_of())


def test_random_images_follow_from_the_step_and_leave_the_global_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draws = []
    for step in (1, 1, 2):
        draws.append(NegativeImages("random", k=3)(batch_of(step=step))[0])
        torch.testing.assert_close(torch.get_rng_state(), before)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_random_images_are_uniform_over_those_that_do_not_match():
    count = torch.zeros(STUDIES, STUDIES)
    for step in range(300):
        index, _ = NegativeImages("random")(batch_of(step=step))
        count[torch.arange(STUDIES), index[:, 0]] += 1
    for i in HERE:
        others = [j for j in HERE if TEXTS[j] != TEXTS[i]]
        assert count[i].nonzero().flatten().tolist() == others
        assert count[i, others].min() > 0.6 * 300 / len(others)


@pytest.mark.parametrize("unusable", [(), (3,)])
@pytest.mark.parametrize("side", ["image", "report", "both"])
@pytest.mark.parametrize("k", [1, 2])
def test_the_margin_and_its_logs_are_plain_loops(side, k, unusable):
    batch, own = batch_of(unusable), own_losses()
    losses, logs = LikelihoodMargin(side=side, k=k, beta=0.4, margin=0.3)(batch, own, reader())
    of_reports = report_losses(own.losses)
    ahead, expected = [], []
    for i, others in enumerate(nearest(batch, k)):
        sides = {"image": [], "report": []}
        for j in others:
            other = report_losses(losses_with(torch.full((STUDIES,), j)))[i]
            ahead.append(other - of_reports[i])
            sides["image"].append(math.log1p(math.exp(0.3 - 0.4 * (other - of_reports[i]))))
            sides["report"].append(math.log1p(math.exp(0.3 - 0.4 * (other - of_reports[j]))))
        means = {name: sum(values) / max(len(values), 1) for name, values in sides.items()}
        expected.append(sum(means.values()) / 2 if side == "both" else means[side])
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert {name: float(value) for name, value in logs.items()} == pytest.approx(
        {
            "likelihood_ahead": sum(ahead) / len(ahead),
            "margin_violated": sum(0.4 * one < 0.3 for one in ahead) / len(ahead),
        },
        rel=1e-5,
    )
    assert 0 < logs["margin_violated"] < 1


@pytest.mark.parametrize("side", ["image", "report", "both"])
@pytest.mark.parametrize("k", [2, 4])
def test_a_report_whose_loss_is_not_finite_is_no_negative_and_has_none(side, k):
    batch, bad = batch_of(), 3
    own = own_losses(bad)
    losses, logs = LikelihoodMargin(side=side, k=k, form="hinge", margin=5.0)(batch, own, reader(bad=bad))
    of_reports = report_losses(own.losses)
    for i, others in enumerate(nearest(batch, k)):
        sides = {"image": [], "report": []}
        for j in others:
            other = report_losses(losses_with(torch.full((STUDIES,), j)))[i]
            for name, one in (("image", i), ("report", j)):
                if one != bad:
                    sides[name].append(max(0.0, 5.0 - 0.1 * (other - of_reports[one])))
        means = {name: sum(values) / max(len(values), 1) for name, values in sides.items()}
        expected = sum(means.values()) / 2 if side == "both" else means[side]
        assert losses[i].item() == pytest.approx(expected, rel=1e-5)
    assert all(value.isfinite() for value in logs.values())


@pytest.mark.parametrize("margin", [LikelihoodMargin(), EditMargin()])
def test_a_margin_that_is_just_kept_is_not_violated(margin):
    own = own_losses()._replace(losses=torch.ones(STUDIES, LENGTH))
    other = own._replace(tokens=own.tokens + 20)
    read = lambda *args, **kwargs: other  # noqa: E731
    logs = (margin(own, read, 0.5) if isinstance(margin, EditMargin) else margin(batch_of(), own, read))[1]
    assert [float(value) for name, value in logs.items() if name.endswith(("_ahead", "_violated"))] == [0.0, 0.0]


def edits(has_copy=(True, True, False, True, True), bad=None):
    """Copies that differ from the second token on, and one place longer."""
    tokens = own_losses().tokens
    edited = torch.cat([tokens, tokens[:, :1]], dim=1)
    edited[:, 1:] += 20
    losses = 2.0 * drawn(STUDIES, LENGTH + 1, seed=5)
    if bad is not None:
        losses[bad, 2] = torch.inf
    mask = (torch.arange(LENGTH + 1) < MASK.sum(1, keepdim=True) + 1) & torch.tensor(has_copy)[:, None]
    return TokenLosses(losses, mask, edited)


@pytest.mark.parametrize("bad", [None, 0])
@pytest.mark.parametrize(
    "has_copy", [(True, True, False, True, True), (False, False, True, False, False), (False,) * 5]
)
def test_the_margin_over_edits_and_its_logs_are_plain_loops(has_copy, bad):
    own, copies, asked = own_losses(), edits(has_copy, bad), []

    def read(*, changes):
        asked.append(changes)
        return copies

    losses, logs = EditMargin(beta=0.7, margin=0.5)(own, read, 0.5)
    ahead, expected = [], []
    for i in HERE:
        if not has_copy[i] or i == bad:
            expected.append(0.0)
            continue
        rest = sum(float(copies.losses[i, t]) for t in range(1, LENGTH + 1) if copies.mask[i, t])
        ahead.append(rest - sum(float(own.losses[i, t]) for t in range(1, LENGTH) if MASK[i, t]))
        expected.append(math.log1p(math.exp(0.5 - 0.7 * ahead[-1])))
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)
    assert asked == [2]
    count = max(len(ahead), 1)
    assert {name: float(value) for name, value in logs.items()} == pytest.approx(
        {
            "edit_changes": 2.0,
            "edits_found": len(ahead) / STUDIES,
            "edit_ahead": sum(ahead) / count,
            "edit_violated": sum(0.7 * one < 0.5 for one in ahead) / count,
        },
        rel=1e-5,
    )


@pytest.mark.parametrize("unusable", [(), (3,)])
@pytest.mark.parametrize("hardness", [0.0, 0.6])
@pytest.mark.parametrize("hardened", [False, True])
def test_weights_by_image_and_their_logs_are_plain_loops(hardened, hardness, unusable):
    batch, own, calls = batch_of(unusable), own_losses(), []
    strategy = ByImage(scale=1.5, limit=0.8, k=2, hardened=hardened, margin=0.25)
    weights, logs = strategy(batch, own, reader(calls), hardness)
    moves = hardened and hardness > 0
    assert len(calls) == (4 if moves else 2)
    of_reports, expected = report_losses(own.losses), torch.ones(STUDIES, LENGTH)
    tokens, likelier, moved = [], [], []
    # the mean token loss is over both columns of a study, whether or not the second is a negative
    index, _ = NegativeImages(k=2)(batch)
    for i, others in enumerate(nearest(batch, 2)):
        columns = []
        for j in index[i].tolist():
            order = torch.full((STUDIES,), j)
            plain, hard = losses_with(order), losses_with(order, hardness)
            fits = moves and report_losses(hard)[i] >= of_reports[i] + 0.25
            columns.append((hard if fits else plain)[i])
            if j in others:
                moved.append(hardness if fits else 0.0)
                likelier.append(report_losses(hard if fits else plain)[i] < of_reports[i])
        for t in range(LENGTH):
            if MASK[i, t]:
                tokens.append(sum(float(column[t]) for column in columns) / 2)
                there = [abs(float(column[t] - own.losses[i, t])) for column in columns[: len(others)]]
                expected[i, t] += 1.5 * min(sum(there) / max(len(there), 1), 0.8)
    torch.testing.assert_close(weights.where(MASK, 1.0), expected)
    assert {name: float(value) for name, value in logs.items()} == pytest.approx(
        {
            "negative_image_loss": sum(tokens) / len(tokens),
            "negative_image_likelier": sum(likelier) / len(likelier),
            "moved_towards_own": sum(moved) / len(moved),
        },
        rel=1e-5,
    )
    assert 0 < logs["negative_image_likelier"] < 1
    assert moves == (logs["moved_towards_own"] > 0)


@pytest.mark.parametrize("limit", [0.9, 100.0])
def test_relative_weights_are_of_differences_in_multiples_of_their_mean(limit):
    batch, own = batch_of((3,)), own_losses()
    weights, _ = ByImage(scale=1.5, limit=limit, relative=True)(batch, own, reader(), 0.5)
    differences = {}
    for i, others in enumerate(nearest(batch, 1)):
        for j in others:
            other = losses_with(torch.full((STUDIES,), j))
            differences |= {(i, t): abs(float(other[i, t] - own.losses[i, t])) for t in range(LENGTH) if MASK[i, t]}
    mean = sum(differences.values()) / len(differences)
    for i in HERE:
        for t in range(int(MASK[i].sum())):
            expected = 1 + 1.5 * min(differences.get((i, t), 0.0) / mean, limit)
            assert weights[i, t].item() == pytest.approx(expected, rel=1e-5)


def test_without_any_negative_weights_are_one_and_logs_are_zero():
    batch = batch_of((0, 1, 2, 3))
    weights, logs = ByImage()(batch, own_losses(), reader(), 0.5)
    assert torch.equal(weights.where(MASK, 1.0), torch.ones(STUDIES, LENGTH))
    assert logs["negative_image_likelier"] == logs["moved_towards_own"] == 0
    _, logs = LikelihoodMargin()(batch, own_losses(), reader())
    assert logs["likelihood_ahead"] == logs["margin_violated"] == 0


def test_weights_by_text_are_of_the_reports_that_the_strategy_chooses():
    batch, own = batch_of(), own_losses()
    weights, logs = ByText(scale=2.0, k=2)(batch, own, reader(), 0.5)
    for i, others in enumerate(nearest(batch, 2)):
        for t in range(LENGTH):
            lacking = [own.tokens[i, t] not in own.tokens[j][MASK[j]] for j in others]
            assert weights[i, t].item() == pytest.approx(1 + 2 * sum(lacking) / len(lacking))
    assert logs == {}
    with pytest.raises(UserError, match=r"TokenLosses\(tokens=\(B, T\)\)"):
        ByText()(batch, own._replace(tokens=None), reader(), 0.5)


@pytest.mark.parametrize("unusable", [(), (3,)])
def test_the_terms_of_a_batch_together(unusable):
    batch, own = batch_of(unusable), own_losses()
    emphasised = own._replace(emphasis=drawn(STUDIES, LENGTH, seed=9))

    def read(order=None, towards=None, *, changes=None):
        return edits() if changes else emphasised if order is None else reader()(order, towards)

    by, margin, of_edits = ByEmphasis(scale=3.0), LikelihoodMargin(), EditMargin()
    found = likelihood_terms(by, margin, of_edits, batch, read, 0.5)
    places = [(i, t) for i in HERE for t in range(LENGTH) if MASK[i, t]]
    weights = [1 + 3 * float(emphasised.emphasis[i, t]) for i, t in places]
    values = [float(own.losses[i, t]) for i, t in places]
    weighed = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert found.report_loss.item() == pytest.approx(weighed, rel=1e-5)
    assert found.logs["token_loss"].item() == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert found.logs["token_weight"].item() == pytest.approx(sum(weights) / len(weights), rel=1e-5)
    kept = [i for i in HERE if i not in unusable]
    both = margin(batch, own, read)[0] + of_edits(own, read, 0.5)[0]
    assert found.margin_loss.item() == pytest.approx(float(both[kept].mean()), rel=1e-5)
    assert {"likelihood_ahead", "edit_ahead"} < set(found.logs)
    alone = likelihood_terms(None, margin, None, batch, read, 0.5)
    assert alone.report_loss is None
    assert alone.margin_loss.item() == pytest.approx(float(margin(batch, own, read)[0][kept].mean()), rel=1e-5)
    assert likelihood_terms(by, None, None, batch, read, 0.5).margin_loss is None
    assert likelihood_terms(None, None, None, batch, None, 0.5) == NO_TERMS


@pytest.mark.parametrize("which", range(3))
def test_a_host_that_cannot_read_again_is_told(which):
    weights, margin, edited = (
        term if place == which else None for place, term in enumerate((ByText(), LikelihoodMargin(), EditMargin()))
    )
    with pytest.raises(UserError, match=r"define token_losses\(self, batch, outputs, image_order, towards\)"):
        likelihood_terms(weights, margin, edited, batch_of(), None, 0.5)


def test_a_batch_in_which_no_token_counts_has_weights_and_losses_of_zero():
    nothing = TokenLosses(torch.full((STUDIES, LENGTH), torch.nan), torch.zeros_like(MASK))._replace(
        emphasis=drawn(STUDIES, LENGTH)
    )
    found = likelihood_terms(ByEmphasis(), None, None, batch_of(), lambda: nothing, 0.5)
    assert found.report_loss == found.logs["token_loss"] == found.logs["token_weight"] == 0


def test_weights_of_the_tokens_that_count_are_shared_by_the_ranks(monkeypatch):
    own, seen = own_losses()._replace(emphasis=drawn(STUDIES, LENGTH, seed=9)), []
    alone = likelihood_terms(ByEmphasis(scale=3.0), None, None, batch_of(), lambda: own, 0.5).report_loss
    monkeypatch.setattr(terms, "share_of_ranks", lambda total: seen.append(float(total)) or (lambda: 0.25))
    shared = likelihood_terms(ByEmphasis(scale=3.0), None, None, batch_of(), lambda: own, 0.5).report_loss
    expected = sum(1 + 3 * float(own.emphasis[i, t]) for i in HERE for t in range(LENGTH) if MASK[i, t])
    assert seen == pytest.approx([expected])
    assert shared.item() == pytest.approx(0.25 * alone.item())


def test_of_a_single_token_the_weight_is_its_own():
    only = torch.zeros_like(MASK)
    only[2, 0] = True
    own = own_losses()._replace(mask=only, emphasis=torch.full((STUDIES, LENGTH), 0.5))
    logs = likelihood_terms(ByEmphasis(scale=3.0), None, None, batch_of(), lambda: own, 0.5).logs
    assert logs["token_weight"].item() == pytest.approx(2.5)
    assert logs["token_loss"].item() == pytest.approx(float(own.losses[2, 0]))
