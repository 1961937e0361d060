import math

import pytest
import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.layers import sinusoids
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.errors import UserError

TOKENS = torch.tensor([[0, 3, 1, 6, 2, 0, 0], [0, 5, 0, 0, 0, 0, 0], [0, 1, 1, 4, 3, 6, 0]])


def make(seed: int = 0, **options) -> TransformerDecoder:
    torch.manual_seed(seed)
    return TransformerDecoder(6, 5, **{"width": 16, "heads": 4, "layers": 2, "feedforward_width": 24, **options})


def split_projections(attention: nn.MultiheadAttention) -> dict[str, Tensor]:
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    named = {f"{name}.weight": weight for name, weight in zip(("query", "key", "value"), weights, strict=True)}
    named |= {f"{name}.bias": bias for name, bias in zip(("query", "key", "value"), biases, strict=True)}
    return named | {f"output.{name}": value for name, value in attention.out_proj.state_dict().items()}


def copy_layer(ours: nn.Module, oracle: nn.Module, attentions: dict[str, str], norms: list[nn.Module]) -> None:
    for mine, theirs in attentions.items():
        getattr(ours, mine).load_state_dict(split_projections(getattr(oracle, theirs)))
    for index, norm in enumerate(norms, start=1):
        norm.load_state_dict(getattr(oracle, f"norm{index}").state_dict())
    ours.feedforward[0].load_state_dict(oracle.linear1.state_dict())
    ours.feedforward[3].load_state_dict(oracle.linear2.state_dict())


@torch.no_grad()
def test_it_is_torchs_pre_norm_transformer() -> None:
    decoder = make().eval()
    options = {"batch_first": True, "norm_first": True, "dropout": 0.0}
    encoder_layers = [nn.TransformerEncoderLayer(16, 4, 24, **options).eval() for _ in range(2)]
    decoder_layers = [nn.TransformerDecoderLayer(16, 4, 24, **options).eval() for _ in range(2)]
    for layers in (encoder_layers, decoder_layers):
        for parameter in (parameter for layer in layers for parameter in layer.parameters()):
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    for ours, oracle in zip(decoder.encoder, encoder_layers, strict=True):
        copy_layer(ours, oracle, {"self_attention": "self_attn"}, [ours.self_norm, ours.feedforward_norm])
    for ours, norms, oracle in zip(decoder.decoder, decoder.norms, decoder_layers, strict=True):
        copy_layer(ours, oracle, {"self_attention": "self_attn", "image_attention": "multihead_attn"}, list(norms))

    patches, patch_mask = torch.randn(3, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    inputs = TOKENS[:, :-1]
    image = torch.relu(decoder.project[0](patches))
    for layer in encoder_layers:
        image = layer(image, src_key_padding_mask=~patch_mask)
    image = decoder.encoder_norm(image)
    position = torch.tensor(
        [
            [[math.sin, math.cos][column % 2](row / 10000 ** ((column - column % 2) / 16)) for column in range(16)]
            for row in range(6)
        ]
    )
    x = decoder.embedding.weight[inputs] * 4 + position
    is_padding = inputs == 0
    is_padding[:, 0] = False
    causal = torch.ones(6, 6).triu(1).bool()
    for layer in decoder_layers:
        x = layer(x, image, causal, None, tgt_key_padding_mask=is_padding, memory_key_padding_mask=~patch_mask)
    expected = decoder.decoder_norm(x)

    torch.testing.assert_close(decoder.states(patches, TOKENS, patch_mask=patch_mask), expected, atol=1e-5, rtol=1e-5)
    log_probs = decoder.log_probs(patches, TOKENS, patch_mask=patch_mask)
    torch.testing.assert_close(log_probs, decoder.output(expected).log_softmax(-1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_positions_tell_patches_apart_and_none_do_not() -> None:
    patches = torch.randn(3, 4, 5)
    for max_patches, is_same in ((None, True), (4, False)):
        decoder = make(max_patches=max_patches).eval()
        found, flipped = decoder.states(patches, TOKENS), decoder.states(patches.flip(1), TOKENS)
        assert torch.allclose(found, flipped, atol=1e-5) is is_same
    with pytest.raises(UserError, match=r"at most 4 patches per study \(`max_patches`\), but got 5"):
        decoder.states(torch.randn(3, 5, 5), TOKENS)


def test_matrices_start_xavier_uniform() -> None:
    decoder = TransformerDecoder(100, 40, width=32, heads=4, max_patches=50)
    for name, parameter in decoder.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.9 * bound < parameter.abs().max() <= bound, name


def test_sinusoids_of_odd_width_end_with_a_sine() -> None:
    found = sinusoids(torch.arange(4), 3)
    torch.testing.assert_close(found[:, 2], torch.sin(torch.arange(4) / 10000 ** (2 / 3)))
