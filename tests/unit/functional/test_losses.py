"""The alignment losses against plain loops, and values that can be worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.functional.losses import absolute_separation, info_nce, released_alignment, separation, triplet


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def plain_info_nce(anchors, candidates, scale, is_match, hard, weight):
    losses = []
    for i in range(len(anchors)):
        own = math.exp(scale * float(anchors[i] @ candidates[i]))
        total = own
        for j in range(len(candidates)):
            if j != i and not is_match[i][j]:
                total += math.exp(scale * float(anchors[i] @ candidates[j]))
        for k in range(hard.shape[1]):
            total += float(weight[i, k]) * math.exp(scale * float(anchors[i] @ hard[i, k]))
        losses.append(-math.log(own / total))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("candidates", [5, 9])
def test_info_nce_is_the_plain_sum(candidates):
    a, c, hard = unit(5, 8, seed=1), unit(candidates, 8, seed=2), unit(5, 3, 8, seed=3)
    is_match = torch.rand(5, candidates, generator=torch.Generator().manual_seed(4)) < 0.3
    weight = torch.tensor([[0.0, 0.5, 2.0]]).expand(5, 3).double()
    got = info_nce(a, c, logit_scale=7.0, is_match=is_match, hard=hard, hard_weight=weight)
    torch.testing.assert_close(got, plain_info_nce(a, c, 7.0, is_match.tolist(), hard, weight))


def test_info_nce_keeps_the_own_pair_though_it_matches_itself():
    a, c = unit(4, 8, seed=1), unit(4, 8, seed=2)
    torch.testing.assert_close(
        info_nce(a, c, logit_scale=5.0, is_match=torch.eye(4, dtype=torch.bool)), info_nce(a, c, logit_scale=5.0)
    )


def test_info_nce_where_every_pair_matches_is_zero_with_a_zero_gradient():
    a = unit(4, 8, seed=1).requires_grad_()
    hard = unit(4, 2, 8, seed=3).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    loss = info_nce(
        a,
        unit(4, 8, seed=2),
        logit_scale=scale,
        is_match=torch.ones(4, 4, dtype=torch.bool),
        hard=hard,
        hard_weight=torch.zeros(4, 2),
    )
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(4, dtype=torch.float64))
    for leaf in (a, hard, scale):
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_info_nce_of_one_study_with_a_negative_equal_to_the_positive_is_log_2():
    one = unit(1, 8)
    assert info_nce(one, one, logit_scale=14.0, hard=one[:, None]).item() == pytest.approx(math.log(2))


def test_info_nce_gradient():
    a, c, hard = (unit(*shape, seed=seed).requires_grad_() for seed, shape in enumerate([(3, 4), (3, 4), (3, 2, 4)]))
    weight = torch.tensor([[1.0, 0.5]] * 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *x: info_nce(x[0], x[1], logit_scale=3.0, hard=x[2], hard_weight=weight), (a, c, hard)
    )


def test_triplet_and_separations_are_the_plain_means_over_valid_negatives():
    z, u, hard = unit(6, 8, seed=1), unit(6, 8, seed=2), unit(6, 3, 8, seed=3)
    valid = torch.rand(6, 3, generator=torch.Generator().manual_seed(4)) < 0.6
    valid[0] = False

    def plain(term):
        rows = [[term(i, k) for k in range(3) if valid[i, k]] for i in range(6)]
        return torch.tensor([sum(row) / len(row) if row else 0.0 for row in rows], dtype=torch.float64)

    torch.testing.assert_close(
        triplet(z, u, hard, margin=0.3, valid=valid),
        plain(lambda i, k: max(0.0, 0.3 - float(z[i] @ u[i]) + float(z[i] @ hard[i, k]))),
    )
    torch.testing.assert_close(
        separation(z, hard, margin=0.1, valid=valid), plain(lambda i, k: max(0.0, float(z[i] @ hard[i, k]) - 0.1))
    )
    torch.testing.assert_close(
        absolute_separation(z, hard, valid=valid), plain(lambda i, k: abs(float(z[i] @ hard[i, k])))
    )
    everything = torch.ones_like(valid)
    torch.testing.assert_close(triplet(z, u, hard, margin=0.3), triplet(z, u, hard, margin=0.3, valid=everything))


def test_released_alignment_leaves_studies_out_as_if_they_had_not_come():
    z, u, z2, n, hardened = (unit(5, 4, seed=seed) for seed in range(5))
    counts = torch.tensor([True, False, True, True, False])
    given = [side[counts] for side in (z, u, z2, n, hardened)]
    few = released_alignment(*given, pair_scale=3.0, hardened_scale=2.0)
    loss = released_alignment(z, u, z2, n, hardened, pair_scale=3.0, hardened_scale=2.0, counts=counts)
    assert torch.allclose(loss[counts], few)
    assert (loss[~counts] == 0).all()
