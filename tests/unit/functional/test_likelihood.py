"""Weights of tokens and margins of likelihoods against plain loops."""

import math

import pytest
import torch

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.likelihood import (
    TokenLosses,
    from_first_difference,
    likelihood_margin,
    mean_token_loss,
    token_losses,
    weights_by_emphasis,
    weights_by_image,
    weights_by_text,
)


def drawn(*shape, seed=0):
    return 4 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
VALID = torch.tensor([[True, True], [True, False], [False, False]])


def test_the_weighted_mean_is_the_plain_sum_and_ignores_what_is_masked():
    losses, weights = drawn(3, 5, seed=1), 1 + drawn(3, 5, seed=2)
    losses[~MASK] = torch.inf
    top = sum(float(weights[i, t] * losses[i, t]) for i in range(3) for t in range(5) if MASK[i, t])
    below = sum(float(weights[i, t]) for i in range(3) for t in range(5) if MASK[i, t])
    assert mean_token_loss(losses, MASK, weights).item() == pytest.approx(top / below)
    assert mean_token_loss(losses, MASK).item() == pytest.approx(losses[MASK].mean().item())


def test_the_gradient_of_the_weighted_mean_reaches_tokens_that_count_only():
    losses = drawn(3, 5, seed=1).requires_grad_()
    weights = 1 + drawn(3, 5, seed=2)
    mean_token_loss(losses, MASK, weights).backward()
    torch.testing.assert_close(losses.grad, (weights * MASK) / weights[MASK].sum())


def test_reports_sum_over_tokens_that_count():
    losses = drawn(3, 5).where(MASK, torch.nan)
    expected = [sum(float(losses[i, t]) for t in range(5) if MASK[i, t]) for i in range(3)]
    torch.testing.assert_close(TokenLosses(losses, MASK).of_reports, torch.tensor(expected, dtype=torch.float64))


def test_losses_from_the_first_difference_are_the_plain_loop():
    own = TokenLosses(drawn(3, 5, seed=1), MASK, torch.tensor([[3, 4, 5, 0, 0], [3, 0, 0, 0, 0], [3, 4, 5, 6, 7]]))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    rows = [[3, 4, 8, 9, 5, 0], [3, 4, 0, 0, 0, 0], [3, 4, 5, 6, 7, 0]]
    other = TokenLosses(drawn(3, 6, seed=2).where(mask, torch.inf), mask, torch.tensor(rows))
    for found, read in zip(from_first_difference(own, other), (own, other), strict=True):
        for i in range(3):
            start = 0
            while MASK[i, start] and mask[i, start] and own.tokens[i, start] == other.tokens[i, start]:
                start += 1
            kept = [float(read.losses[i, t]) for t in range(start, read.mask.shape[1]) if read.mask[i, t]]
            assert found[i].item() == pytest.approx(sum(kept))
    with pytest.raises(ValueError, match="tokens"):
        from_first_difference(own, TokenLosses(other.losses, mask))


@pytest.mark.parametrize("relative", [False, True])
def test_weights_by_image_are_the_plain_loop(relative):
    own, others = drawn(3, 5, seed=1), drawn(3, 2, 5, seed=2)
    differences = {}
    for i in range(3):
        for t in range(5):
            found = [abs(float(own[i, t] - others[i, k, t])) for k in range(2) if VALID[i, k]]
            if MASK[i, t] and found:
                differences[i, t] = sum(found) / len(found)
    over = sum(differences.values()) / len(differences) if relative else 1.0
    expected = torch.ones(3, 5, dtype=torch.float64)
    for (i, t), difference in differences.items():
        expected[i, t] = 1 + 2.5 * min(difference / over, 1.2)
    got = weights_by_image(own, others, VALID, MASK, scale=2.5, limit=1.2, relative=relative)
    torch.testing.assert_close(got, expected)


def test_relative_weights_do_not_shrink_with_the_differences():
    own, others = drawn(3, 5, seed=1), drawn(3, 2, 5, seed=2)
    nearer = own[:, None] + 0.01 * (others - own[:, None])
    whole, small = (weights_by_image(own, x, VALID, MASK, relative=True) for x in (others, nearer))
    torch.testing.assert_close(whole, small)


def test_images_that_change_nothing_leave_weights_of_one():
    own = drawn(3, 5)
    for relative in (False, True):
        weights = weights_by_image(own, own[:, None].expand(-1, 2, -1), VALID, MASK, relative=relative)
        torch.testing.assert_close(weights, torch.ones_like(own))


def test_weights_by_text_are_the_plain_loop():
    tokens = torch.randint(0, 6, (3, 5), generator=torch.Generator().manual_seed(3))
    index = torch.tensor([[1, 2], [2, 0], [0, 1]])
    expected = torch.ones(3, 5)
    for i in range(3):
        reports = [{int(tokens[j, t]) for t in range(5) if MASK[j, t]} for k, j in enumerate(index[i]) if VALID[i, k]]
        for t in range(5):
            if reports:
                expected[i, t] = 1 + 6 * sum(int(tokens[i, t]) not in words for words in reports) / len(reports)
    torch.testing.assert_close(weights_by_text(tokens, MASK, index, VALID), expected)


def test_weights_by_emphasis_are_the_plain_loop():
    emphasis = drawn(3, 5) / 4
    expected = [[1 + 2.5 * float(one) for one in row] for row in emphasis]
    torch.testing.assert_close(weights_by_emphasis(emphasis, scale=2.5), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("form", ["softplus", "hinge", "info_nce"])
def test_margins_are_the_plain_loop(form):
    own, others = 10 * drawn(3, seed=1), 10 * drawn(3, 2, seed=2)
    expected = []
    for i in range(3):
        ahead = [0.3 * float(others[i, k] - own[i]) for k in range(2) if VALID[i, k]]
        if form == "info_nce":
            expected.append(math.log(1 + sum(math.exp(0.5 - a) for a in ahead)))
        elif form == "hinge":
            expected.append(sum(max(0.0, 0.5 - a) for a in ahead) / max(1, len(ahead)))
        else:
            expected.append(sum(math.log(1 + math.exp(0.5 - a)) for a in ahead) / max(1, len(ahead)))
    got = likelihood_margin(own, others, VALID, form=form, beta=0.3, margin=0.5)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("form", ["softplus", "hinge", "info_nce"])
def test_a_margin_raises_the_own_likelihood_and_lowers_the_others(form):
    own, others = torch.full((3,), 5.0, requires_grad=True), torch.full((3, 2), 4.0, requires_grad=True)
    likelihood_margin(own, others, VALID, form=form).sum().backward()
    assert own.grad[2] == 0
    assert (own.grad[:2] > 0).all()  # of a loss: its descent makes the report likelier
    assert (others.grad[VALID] < 0).all()
    assert (others.grad[~VALID] == 0).all()


@pytest.mark.parametrize("form", ["softplus", "hinge", "info_nce"])
def test_a_loss_that_is_not_finite_counts_as_no_negative(form):
    own = torch.tensor([10.0, torch.inf, 10.0], requires_grad=True)
    others = torch.tensor([[9.0, torch.inf], [9.0, 9.0], [torch.nan, 9.0]], requires_grad=True)
    margins = likelihood_margin(own, others, torch.ones(3, 2, dtype=torch.bool), form=form)
    alone = likelihood_margin(torch.tensor([10.0]), torch.tensor([[9.0]]), torch.tensor([[True]]), form=form)
    assert torch.equal(margins, torch.cat([alone, torch.zeros(1), alone]))
    margins.sum().backward()
    assert own.grad.isfinite().all()
    assert others.grad.isfinite().all()


def test_losses_of_tokens_know_their_tokens():
    tokens = torch.tensor([[0, 4, 3, 0], [0, 2, 0, 0]])
    mask = torch.tensor([[True, True, True, True], [True, True, True, False]])
    read = token_losses(torch.randn(2, 3, 5).log_softmax(2), tokens, mask)
    assert read.tokens.tolist() == [[4, 3, 0], [2, 0, 0]]
    assert read.mask.tolist() == [[True, True, True], [True, True, False]]


def test_a_single_token_is_the_mean_of_its_batch():
    one = torch.ones(1, 1, dtype=torch.bool)
    weights = weights_by_image(torch.tensor([[1.0]]), torch.tensor([[[1.5]]]), one, one, scale=2.0, relative=True)
    assert weights.tolist() == [[3.0]]


@pytest.mark.parametrize("wrong", [{"form": "dpo"}, {"beta": 0.0}, {"margin": -1.0}])
def test_wrong_settings_are_told(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        likelihood_margin(torch.ones(1), torch.ones(1, 1), torch.ones(1, 1).bool(), **wrong)
