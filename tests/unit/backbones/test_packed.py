"""Products on packed weights against plain ones, and modules before, within and after the block."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hardneg_plugin.backbones import packed
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.linear import DecodingLinear
from hardneg_plugin.backbones.packed import bfloat16_product, float32_product, packed_weights
from hardneg_plugin.backbones.r2gen import ConditionalNorms, R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.errors import UserError

needs_onednn = pytest.mark.skipif(not packed._can_compute(None), reason="this PyTorch has no oneDNN")
needs_bfloat16 = pytest.mark.skipif(not packed._can_compute("bfloat16"), reason="no bfloat16 products here")
SHAPES = [(12,), (1, 12), (4, 5, 12), (130, 12), (0, 12), (2, 0, 12)]
SIZES = {"width": 16, "heads": 2, "layers": 2, "feedforward_width": 8}


@needs_onednn
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_a_packed_product_is_the_plain_one(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(7, 12), torch.randn(7), torch.randn(shape)
    torch.testing.assert_close(float32_product(weight, bias)(x), F.linear(x, weight, bias))
    torch.testing.assert_close(float32_product(weight.t().contiguous().t(), bias)(x), F.linear(x, weight, bias))
    columns = torch.randn(*shape[:-1], 24)[..., ::2]
    torch.testing.assert_close(float32_product(weight, bias)(columns), F.linear(columns, weight, bias))


@needs_bfloat16
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_a_bfloat16_product_is_that_of_rounded_numbers(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight, bias, x = torch.randn(7, 12), torch.randn(7), torch.randn(shape)
    exact = F.linear(x.bfloat16().double(), weight.bfloat16().double())
    found = bfloat16_product(weight, bias)(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close((found - bias).double(), exact, rtol=2**-8, atol=1e-5)  # the result is rounded, too


@needs_bfloat16
@pytest.mark.parametrize("kind", [TransformerDecoder, R2Gen, R2GenCMN])
def test_a_search_in_bfloat16_is_near_and_a_report_is_that_of_its_study_alone(
    kind: type,
) -> None:
    torch.manual_seed(0)
    options = {"memory_heads": 2} if kind is R2Gen else {"memory_size": 7, "topk": 3} if kind is R2GenCMN else {}
    decoder, patches = kind(9, 5, **SIZES, **options), torch.randn(6, 3, 5)
    found = decoder.decode(patches, Decoding(max_length=5, precision="bfloat16"))
    with torch.no_grad():
        exact = decoder.eval().log_probs(patches, F.pad(found.tokens[:, 0], (1, 0)))
    of_words = exact.gather(2, found.tokens[:, 0, :, None])[..., 0]
    is_read = (found.tokens[:, 0].cumprod(1) > 0).roll(1, dims=1)  # the end is the last to count
    is_read[:, 0] = True
    sums = (of_words * is_read).sum(1, keepdim=True)
    torch.testing.assert_close(found.log_probs, sums, atol=0.2, rtol=0)
    assert not found.log_probs.equal(sums)
    for study in range(6):
        alone = decoder.decode(patches[study : study + 1], Decoding(max_length=5, precision="bfloat16"))
        assert alone.tokens.equal(found.tokens[study : study + 1])
        torch.testing.assert_close(alone.log_probs, found.log_probs[study : study + 1])
    greedy = [Decoding(beam_size=1, max_length=5, precision=each) for each in ("bfloat16", None)]
    one, other = (decoder.decode(patches[:1], decoding).log_probs for decoding in greedy)
    assert not one.equal(other)  # a single row is no exception


@torch.no_grad()
def test_a_precision_that_is_not_possible_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = DecodingLinear(3, 5)
    cases = [
        (layer.to("meta"), "but the model is not on a CPU; or leave it at null"),
        (DecodingLinear(3, 5).double(), "but its weights are not float32"),
    ]
    for module, words in cases:
        with pytest.raises(UserError, match=words), packed_weights(module, "bfloat16"):
            pass
    layer = DecodingLinear(3, 5)
    with pytest.raises(UserError, match="gradients are on"), torch.enable_grad(), packed_weights(layer, "bfloat16"):
        pass
    with (
        pytest.raises(UserError, match="autocast is on"),
        torch.autocast("cpu", torch.bfloat16),
        packed_weights(layer, "bfloat16"),
    ):
        pass
    monkeypatch.setattr(packed, "_can_compute", lambda precision: False)
    with pytest.raises(UserError, match="this PyTorch, or this CPU, has none"), packed_weights(layer, "bfloat16"):
        pass


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
    monkeypatch.setattr(packed, "_can_compute", lambda precision: False)
    with packed_weights(layer.float()):
        assert layer._product is None


@needs_onednn
def test_onednn_that_does_not_answer_right_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_):
        raise NotImplementedError

    for broken in (refuses, lambda *_: torch.zeros_like):
        for precision in packed.PRODUCTS:
            monkeypatch.setattr(packed, "PRODUCTS", {precision: broken})
            assert not packed._can_compute.__wrapped__(precision)


@needs_onednn
@pytest.mark.parametrize("kind", [TransformerDecoder, R2Gen, R2GenCMN])
def test_a_search_packs_once_unless_it_reads_one_row_at_a_time(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    options = {"memory_heads": 2} if kind is R2Gen else {"memory_size": 7, "topk": 3} if kind is R2GenCMN else {}
    decoder, patches = kind(9, 5, **SIZES, **options), torch.randn(2, 3, 5)
    packings: Counter[int] = Counter()

    def counted(weight, bias):
        packings[weight.data_ptr()] += 1
        return float32_product(weight, bias)

    monkeypatch.setattr(packed, "PRODUCTS", {None: counted})
    decoder.generate(patches[:1], beam_size=1, max_length=5)
    assert not packings
    for decoding in (Decoding(max_length=5), Decoding(beam_size=1), Decoding(sample=True, num_return=2)):
        packings.clear()
        on_packed = decoder.decode(patches, decoding) if not decoding.sample else decoder.decode(patches[:1], decoding)
        assert set(packings.values()) == {1}
        if not decoding.sample:
            with monkeypatch.context() as without:
                without.setattr(packed, "_can_compute", lambda precision: False)
                plain = decoder.decode(patches, decoding)
            assert on_packed.tokens.equal(plain.tokens)
            torch.testing.assert_close(on_packed.log_probs, plain.log_probs)
