"""The report encoder: who sees whom, what pads, and what is refused."""

import pytest
import torch

from hardneg_plugin.backbones.text import TextEncoder
from hardneg_plugin.errors import UserError

WORDS = 9


def encoder(**more):
    torch.manual_seed(0)
    return TextEncoder(WORDS, **{"width": 16, "heads": 2, "layers": 2, "feedforward_width": 32, **more}).eval()


def rows(*reports, length=None):
    """Token rows `[0, tokens..., 0, padding 0...]`."""
    length = length or max(map(len, reports)) + 2
    return torch.tensor([[0, *report, *[0] * (length - 1 - len(report))] for report in reports])


def test_states_are_of_all_tokens_and_the_end():
    assert encoder()(rows([1, 2, 3], [4])).shape == (2, 4, 16)


@pytest.mark.parametrize("is_training", [False, True])  # two ways through attention
def test_neither_padding_nor_batch_mates_change_a_report(is_training):
    model = encoder().train(is_training)
    with torch.set_grad_enabled(is_training):
        alone = model(rows([1, 2, 3]))[0]
        padded = model(rows([1, 2, 3], length=12))[0, :4]
        beside = model(rows([5, 6, 7, 8, 9, 1, 2], [1, 2, 3], []))[1, :4]
        empty = model(rows([]))[0], model(rows([5, 6, 7], []))[1, :1]
    torch.testing.assert_close(padded, alone)
    torch.testing.assert_close(beside, alone)
    torch.testing.assert_close(*empty)


def test_every_word_sees_those_before_it_and_after_it_and_their_order():
    model = encoder()
    states = model(rows([1, 2, 3]))[0]
    for changed, at in (([1, 2, 4], 0), ([5, 2, 3], 2), ([5, 2, 3], 3)):
        assert not torch.allclose(model(rows(changed))[0, at], states[at])
    assert not torch.allclose(model(rows([3, 2, 1]))[0].mean(0), states.mean(0))


def test_the_end_is_a_word_where_it_was_not_cut_off():
    model = encoder()
    whole, cut = model(torch.tensor([[0, 1, 2, 3, 0]])), model(torch.tensor([[0, 1, 2, 3]]))
    assert cut.shape == (1, 3, 16)
    assert not torch.allclose(whole[0, :3], cut[0])


def test_every_parameter_gets_a_gradient():
    model = encoder(dropout=0.1).train()
    model(rows([1, 2, 3], [4])).square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert model.embedding.weight.grad[1:5].abs().sum(1).min() > 0


def test_dropout_is_of_training_only():
    model, tokens = encoder(dropout=0.5), rows([1, 2, 3])
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"heads": 3}, {"heads": 0}, {"width": 0}, {"feedforward_width": 0}])
def test_numbers_out_of_their_range_are_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(UserError, match=rf"model\.text: .*{name}={value}"):
        encoder(**wrong)
