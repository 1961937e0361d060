"""Products on packed weights against plain ones, and modules before, within and after the block."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hardneg_plugin.backbones import packed
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.linear import DecodingLinear
from hardneg_plugin.backbones.packed import packed_weights, product
from hardneg_plugin.backbones.r2gen import ConditionalNorms, R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.backbones.transformer import TransformerDecoder

needs_onednn = pytest.mark.skipif(not packed._has_onednn(), reason="this PyTorch has no oneDNN")
SIZES = {"width": 16, "heads": 2, "layers": 2, "feedforward_width": 8}


@needs_onednn
@pytest.mark.parametrize("shape", [(12,), (1, 12), (4, 5, 12), (130, 12), (0, 12), (2, 0, 12)], ids=str)
@torch.no_grad()
def test_a_packed_product_is_the_plain_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(7, 12), torch.randn(7), torch.randn(shape)
    torch.testing.assert_close(product(weight, bias)(x), F.linear(x, weight, bias))
    torch.testing.assert_close(product(weight.t().contiguous().t(), bias)(x), F.linear(x, weight, bias))
    columns = torch.randn(*shape[:-1], 24)[..., ::2]
    torch.testing.assert_close(product(weight, bias)(columns), F.linear(columns, weight, bias))


@needs_onednn
@torch.no_grad()
def test_conditional_norms_are_the_same_on_packed_weights() -> None:
    torch.manual_seed(0)
    norms = ConditionalNorms(3, 8, 10)
    norms.second_bias.normal_()
    norms.affine.normal_()
    memory, x = torch.randn(2, 4, 10), torch.randn(2, 4, 8)
    expected = [norm(x) for norm in norms(memory)]
    with packed_weights(norms):
        found = [norm(x) for norm in norms(memory)]
    for one, other in zip(found, expected, strict=True):
        assert one.shape == (2, 4, 8)
        torch.testing.assert_close(one, other)


@needs_onednn
@torch.no_grad()
def test_within_the_block_every_layer_is_packed_and_afterwards_none() -> None:
    torch.manual_seed(0)
    decoder = R2Gen(9, 5, **SIZES, memory_heads=2)
    layers = [layer for layer in decoder.modules() if isinstance(layer, DecodingLinear)]
    layer, x = layers[0], torch.randn(3, layers[0].in_features)
    with packed_weights(decoder):
        assert all(each._product is not None for each in layers)
        assert len(decoder.norms._second) == 2 * 3 * 2
        before = layer(x)
    assert all(each._product is None for each in layers)
    assert decoder.norms._second is None
    with pytest.raises(KeyError), packed_weights(decoder):
        raise KeyError
    assert all(each._product is None for each in layers)
    layer.weight.mul_(2)
    layer.bias.zero_()
    torch.testing.assert_close(layer(x), x @ layer.weight.t())
    with packed_weights(decoder):  # the weights of now
        torch.testing.assert_close(layer(x), x @ layer.weight.t())
    assert not torch.allclose(before, layer(x))


@torch.no_grad()
def test_where_packed_weights_cannot_be_the_block_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = DecodingLinear(3, 5)
    with torch.enable_grad(), packed_weights(layer):
        assert layer._product is None
        assert layer(torch.rand(2, 3)).requires_grad
    with torch.autocast("cpu", torch.bfloat16), packed_weights(layer):
        assert layer(torch.rand(2, 3)).dtype == torch.bfloat16
    with packed_weights(nn.Sequential(layer, nn.Linear(2, 2, device="meta"))):
        assert layer._product is None
    with packed_weights(layer.to(torch.bfloat16)):
        assert layer._product is None
    monkeypatch.setattr(packed, "_has_onednn", lambda: False)
    with packed_weights(layer.float()):
        assert layer._product is None


@needs_onednn
def test_onednn_that_does_not_answer_right_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_):
        raise NotImplementedError

    for broken in (refuses, lambda *_: torch.zeros_like):
        monkeypatch.setattr(packed, "product", broken)
        assert not packed._has_onednn.__wrapped__()


@needs_onednn
@pytest.mark.parametrize("kind", [TransformerDecoder, R2Gen, R2GenCMN])
def test_a_search_packs_once_unless_it_reads_one_row_at_a_time(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    options = {"memory_heads": 2} if kind is R2Gen else {"memory_size": 7, "topk": 3} if kind is R2GenCMN else {}
    decoder, patches = kind(9, 5, **SIZES, **options), torch.randn(2, 3, 5)
    packings: Counter[int] = Counter()
    made = product

    def counted(weight, bias):
        packings[weight.data_ptr()] += 1
        return made(weight, bias)

    monkeypatch.setattr(packed, "product", counted)
    decoder.generate(patches[:1], beam_size=1, max_length=5)
    assert not packings
    for decoding in (Decoding(max_length=5), Decoding(beam_size=1), Decoding(sample=True, num_return=2)):
        packings.clear()
        on_packed = decoder.decode(patches, decoding) if not decoding.sample else decoder.decode(patches[:1], decoding)
        assert set(packings.values()) == {1}
        if not decoding.sample:
            with monkeypatch.context() as without:
                without.setattr(packed, "_has_onednn", lambda: False)
                plain = decoder.decode(patches, decoding)
            assert on_packed.tokens.equal(plain.tokens)
            torch.testing.assert_close(on_packed.log_probs, plain.log_probs)
