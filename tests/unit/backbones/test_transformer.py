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
    words = TOKENS[:, :-1]
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
    x = decoder.embedding.weight[words] * 4 + position
    is_padding = words == 0
    is_padding[:, 0] = False
    causal = torch.ones(6, 6).triu(1).bool()
    for layer in decoder_layers:
        x = layer(x, image, causal, None, tgt_key_padding_mask=is_padding, memory_key_padding_mask=~patch_mask)
    expected = decoder.decoder_norm(x)

    torch.testing.assert_close(decoder.states(patches, TOKENS, patch_mask=patch_mask), expected, atol=1e-5, rtol=1e-5)
    log_probs = decoder.log_probs(patches, TOKENS, patch_mask=patch_mask)
    torch.testing.assert_close(log_probs, decoder.output(expected).log_softmax(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_patches", [None, 9])
@torch.no_grad()
def test_cached_steps_are_the_teacher_forced_ones(max_patches: int | None) -> None:
    decoder = make(max_patches=max_patches).eval()
    patches, patch_mask = torch.randn(2, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    tokens = torch.randint(1, 7, (2, 3, 9))  # three beams of two studies, no word 0 inside
    tokens[..., 0] = 0
    state = decoder.start(patches, max_length=8, beams=3, patch_mask=patch_mask)
    stepped = torch.stack([decoder.step(tokens[..., t], state) for t in range(8)], dim=2)
    for beam in range(3):
        expected = decoder.log_probs(patches, tokens[:, beam], patch_mask=patch_mask)
        torch.testing.assert_close(stepped[:, beam], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_selected_beams_go_on_as_their_parents() -> None:
    decoder = make().eval()
    patches = torch.randn(2, 4, 5)
    tokens = torch.randint(1, 7, (2, 3, 7))
    tokens[..., 0] = 0
    state = decoder.start(patches, max_length=6, beams=3)
    history = tokens[..., :0]
    for t in range(6):
        history = torch.cat([history, tokens[..., t : t + 1]], dim=-1)
        stepped = decoder.step(tokens[..., t], state)
        for beam in range(3):
            whole = torch.cat([history[:, beam], history.new_zeros(2, 1)], dim=-1)
            torch.testing.assert_close(stepped[:, beam], decoder.log_probs(patches, whole)[:, -1], atol=1e-5, rtol=0)
        parents = torch.randint(3, (2, 3))
        state.select(parents)
        history = torch.stack([history[study, parents[study]] for study in range(2)])


@torch.no_grad()
def test_padding_and_batch_mates_change_nothing() -> None:
    decoder = make().eval()
    patches = torch.randn(3, 4, 5)
    together, text = decoder.states(patches, TOKENS), decoder.text_states(TOKENS)
    for study, length in enumerate((6, 3, 7)):
        row = TOKENS[study : study + 1, :length]
        alone = decoder.states(patches[study : study + 1], row)[0]
        torch.testing.assert_close(together[study, : length - 1], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(text[study, : length - 1], decoder.text_states(row)[0], atol=1e-5, rtol=1e-5)
    assert together.isfinite().all()


@torch.no_grad()
def test_no_state_sees_a_later_word() -> None:
    decoder = make().eval()
    patches = torch.randn(3, 4, 5)
    changed = TOKENS.clone()
    changed[2, 4] = 5
    before, after = decoder.states(patches, TOKENS), decoder.states(patches, changed)
    assert before[2, :4].equal(after[2, :4])
    assert not torch.allclose(before[2, 4], after[2, 4])


@torch.no_grad()
def test_masked_patches_are_as_absent() -> None:
    decoder = make(max_patches=6).eval()
    patches = torch.randn(3, 4, 5)
    padded = torch.cat([patches, 9 * torch.randn(3, 2, 5)], dim=1)
    mask = torch.tensor([True] * 4 + [False] * 2).expand(3, -1)
    expected = decoder.states(patches, TOKENS)
    torch.testing.assert_close(decoder.states(padded, TOKENS, patch_mask=mask), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(decoder.states(padded, TOKENS), expected, atol=1e-3)


def test_a_study_without_patches_stays_finite() -> None:
    decoder = make()
    mask = torch.tensor([[False] * 4, [True] * 4, [True] * 4])
    decoder.log_probs(torch.zeros(3, 4, 5), TOKENS, patch_mask=mask).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in decoder.parameters())


@torch.no_grad()
def test_positions_tell_patches_apart_and_none_do_not() -> None:
    patches = torch.randn(3, 4, 5)
    for max_patches, is_same in ((None, True), (4, False)):
        decoder = make(max_patches=max_patches).eval()
        found, flipped = decoder.states(patches, TOKENS), decoder.states(patches.flip(1), TOKENS)
        assert torch.allclose(found, flipped, atol=1e-5) is is_same
    with pytest.raises(UserError, match=r"at most 4 patches per study \(`max_patches`\), but got 5"):
        decoder.states(torch.randn(3, 5, 5), TOKENS)


def test_text_states_need_no_image() -> None:
    decoder = make().eval()
    text = decoder.text_states(TOKENS)
    assert text.shape == (3, 6, 16)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "project" in name or "encoder" in name or "image" in name:
                parameter.add_(1.0)
    assert decoder.text_states(TOKENS).equal(text)
    assert not torch.allclose(decoder.states(torch.randn(3, 4, 5), TOKENS), text, atol=1e-2)


@pytest.mark.parametrize("max_patches", [None, 4])
def test_every_parameter_gets_a_gradient(max_patches: int | None) -> None:
    decoder = make(max_patches=max_patches)
    log_probs = decoder.log_probs(torch.randn(3, 4, 5), TOKENS)
    (-log_probs.gather(-1, TOKENS[:, 1:, None]).mean()).backward()
    assert [name for name, parameter in decoder.named_parameters() if parameter.grad is None] == []


def test_matrices_start_xavier_uniform() -> None:
    decoder = TransformerDecoder(100, 40, width=32, heads=4, max_patches=50)
    for name, parameter in decoder.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(6 / sum(parameter.shape))
            assert 0.9 * bound < parameter.abs().max() <= bound, name


def test_bfloat16_autocast_is_finite_and_near() -> None:
    decoder = make().eval()
    patches = torch.randn(3, 4, 5)
    expected = decoder.log_probs(patches, TOKENS)
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder.log_probs(patches, TOKENS)
        reports = decoder.generate(patches, beam_size=3, max_length=7)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3, 6), atol=1e-5, rtol=0)
    assert reports.shape == (3, 7)
    found.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in decoder.parameters())


def test_sinusoids_of_odd_width_end_with_a_sine() -> None:
    found = sinusoids(torch.arange(4), 3)
    torch.testing.assert_close(found[:, 2], torch.sin(torch.arange(4) / 10000 ** (2 / 3)))
