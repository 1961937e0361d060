import pytest
import torch
from torch import nn

from hardneg_plugin.backbones.attention import FEW_QUERIES, Attention, BeamCache, for_steps
from hardneg_plugin.errors import UserError


@torch.no_grad()
def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, oracle = Attention(12, 3, 0.1).eval(), nn.MultiheadAttention(12, 3, batch_first=True).eval()
    oracle.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
    oracle.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
    oracle.out_proj.load_state_dict(ours.output.state_dict())
    x, attended = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    mask = torch.rand(2, 5) > 0.4
    mask[:, 0] = True
    expected, _ = oracle(x, attended, attended, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, ours.keys_values(attended), mask[:, None, None]), expected)


@pytest.mark.parametrize("queries", [1, FEW_QUERIES, FEW_QUERIES + 1])
def test_steps_attend_as_whole_sequences_do(queries: int) -> None:
    torch.manual_seed(0)
    attention, x = Attention(12, 3, 0.1).eval(), torch.randn(2, queries, 12)
    attended = attention.keys_values(torch.randn(2, 5, 12))
    mask = torch.rand(2, 1, queries, 5) > 0.4
    mask[..., 0] = True
    expected = attention(x, attended, mask)  # with gradient: the fused attention
    with torch.no_grad():
        torch.testing.assert_close(attention(x, attended, mask), expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(attention(x, for_steps(attended), mask), expected, atol=1e-6, rtol=1e-5)
        keys, values = for_steps(attended)
        assert keys.equal(attended[0])
        assert keys.mT.is_contiguous()
        assert values.equal(attended[1])


def test_attention_weights_are_dropped_in_training_only() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, 2, 0.5), torch.randn(2, 4, 8)
    calls = [attention(x, attention.keys_values(x)) for _ in range(2)]
    assert not calls[0].equal(calls[1])
    attention.eval()
    calls = [attention(x, attention.keys_values(x)) for _ in range(2)]
    assert calls[0].equal(calls[1])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(UserError, match="width 10 and heads 4"):
        Attention(10, 4, 0.1)


def test_every_beam_sees_exactly_its_ancestors() -> None:
    """Random reorderings; each key is a number, and what a beam sees must be what a list that is copied along holds."""
    torch.manual_seed(0)
    studies, beams, steps = 3, 4, 7
    cache = BeamCache(2, studies, beams, steps, torch.device("cpu"))
    histories: list[list[list[float]]] = [[[] for _ in range(beams)] for _ in range(studies)]
    for _ in range(steps):
        fresh = torch.randn(studies, 1, beams, 1)
        cache.advance()
        for layer in range(2):
            keys, values = cache.extend(layer, (fresh + layer, -fresh))
        for study in range(studies):
            for beam in range(beams):
                histories[study][beam] = [*histories[study][beam], fresh[study, 0, beam, 0].item()]
                seen = cache.mask[study, 0, beam]
                assert (-values[study, 0, seen, 0]).tolist() == histories[study][beam]
                assert (keys[study, 0, seen, 0]).tolist() == pytest.approx([h + 1 for h in histories[study][beam]])
        parents = torch.randint(beams, (studies, beams))
        cache.select(parents)
        histories = [[histories[study][parent] for parent in parents[study].tolist()] for study in range(studies)]


def test_a_step_too_many_is_refused() -> None:
    cache = BeamCache(1, 1, 1, 1, torch.device("cpu"))
    cache.advance()
    with pytest.raises(ValueError, match="at most 1 steps"):
        cache.advance()
