"""What must hold for every encoder-decoder, whatever its memory."""

import itertools

import pytest
import torch
from torch import Tensor

from hardneg_plugin.backbones.decoder import ReportDecoder
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.encoder_decoder import EncoderDecoder
from hardneg_plugin.backbones.layers import attention_mask, causal_mask
from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.backbones.transformer import TransformerDecoder

TOKENS = torch.tensor([[0, 3, 1, 6, 2, 0, 0], [0, 5, 0, 0, 0, 0, 0], [0, 1, 1, 4, 3, 6, 0]])
SIZES = {"width": 16, "heads": 4, "layers": 2, "feedforward_width": 24}
MAKERS = {
    "transformer": lambda **options: TransformerDecoder(6, 5, **SIZES, **options),
    "transformer with patch positions": lambda **options: TransformerDecoder(6, 5, **SIZES, max_patches=9, **options),
    "r2gen": lambda **options: R2Gen(6, 5, **SIZES, memory_slots=3, memory_heads=2, **options),
    "r2gencmn": lambda **options: R2GenCMN(6, 5, **SIZES, memory_size=12, topk=5, **options),
}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS)
def decoder(request: pytest.FixtureRequest) -> EncoderDecoder:
    torch.manual_seed(0)
    made = request.param()
    # away from the starting values, at which norms do nothing and memories answer alike
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.eval()


@torch.no_grad()
def test_cached_steps_are_the_teacher_forced_ones(decoder: EncoderDecoder) -> None:
    patches, patch_mask = torch.randn(2, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    tokens = torch.randint(1, 7, (2, 3, 9))  # three beams of two studies, no token 0 inside
    tokens[..., 0] = 0
    state = decoder.start(patches, max_length=8, beams=3, patch_mask=patch_mask)
    stepped = torch.stack([decoder.step(tokens[..., t], state) for t in range(8)], dim=2)
    for beam in range(3):
        expected = decoder.log_probs(patches, tokens[:, beam], patch_mask=patch_mask)
        torch.testing.assert_close(stepped[:, beam], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("patch_mask", [None, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()], ids=["all", "some"])
@torch.no_grad()
def test_pairs_are_read_as_if_each_were_alone(decoder: EncoderDecoder, patch_mask: Tensor | None) -> None:
    patches = torch.randn(2, 4, 5)
    pairs = [(0, 2), (1, 0), (0, 0), (1, 1), (0, 2)]
    image, report = (torch.tensor(part) for part in zip(*pairs, strict=True))
    expected = torch.cat(
        [
            decoder.log_probs(
                patches[i, None], TOKENS[r, None], patch_mask=None if patch_mask is None else patch_mask[i, None]
            )
            for i, r in pairs
        ]
    )
    decoder.decoder.train()  # dropout, which must not show
    for found in (
        decoder.log_probs_of_pairs(patches, TOKENS, image, report, patch_mask=patch_mask),
        ReportDecoder.log_probs_of_pairs(decoder, patches, TOKENS, image, report, patch_mask=patch_mask),
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert decoder.decoder.training
    assert not decoder.encoder.training


@torch.no_grad()
def test_of_pairs_each_image_and_each_report_is_read_once(
    decoder: EncoderDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    for name in ("_patch_input", "_token_input"):
        part = getattr(decoder, name)
        monkeypatch.setattr(decoder, name, lambda x, shared, part=part: read.append(len(x)) or part(x, shared))
    pairs = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1])
    decoder.log_probs_of_pairs(torch.randn(2, 4, 5), TOKENS, *pairs)
    assert read == [2, 3]


@torch.no_grad()
def test_selected_beams_go_on_as_their_parents(decoder: EncoderDecoder) -> None:
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
def test_padding_and_batch_mates_change_nothing(decoder: EncoderDecoder) -> None:
    patches = torch.randn(3, 4, 5)
    together, text = decoder.states(patches, TOKENS), decoder.text_states(TOKENS)
    for study, length in enumerate((6, 3, 7)):
        row = TOKENS[study : study + 1, :length]
        alone = decoder.states(patches[study : study + 1], row)[0]
        torch.testing.assert_close(together[study, : length - 1], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(text[study, : length - 1], decoder.text_states(row)[0], atol=1e-5, rtol=1e-5)
    assert together.isfinite().all()


@torch.no_grad()
def test_each_word_is_embedded_by_itself(decoder: EncoderDecoder) -> None:
    embedded = decoder.word_embeddings(TOKENS)
    assert embedded.shape == (3, TOKENS.shape[1] - 1, decoder.word_embedding.embedding_dim)
    for study, position in itertools.product(range(3), range(TOKENS.shape[1] - 1)):
        token = TOKENS[study, position + 1]
        assert embedded[study, position].equal(decoder.word_embedding.weight[token])


@torch.no_grad()
def test_no_state_sees_a_later_word(decoder: EncoderDecoder) -> None:
    patches = torch.randn(3, 4, 5)
    changed = TOKENS.clone()
    changed[2, 4] = 5
    before, after = decoder.states(patches, TOKENS), decoder.states(patches, changed)
    torch.testing.assert_close(before[2, :4], after[2, :4], atol=1e-6, rtol=0)
    assert not torch.allclose(before[2, 4], after[2, 4])


@torch.no_grad()
def test_masked_patches_are_as_absent(decoder: EncoderDecoder) -> None:
    patches = torch.randn(3, 4, 5)
    padded = torch.cat([patches, 9 * torch.randn(3, 2, 5)], dim=1)
    mask = torch.tensor([True] * 4 + [False] * 2).expand(3, -1)
    expected = decoder.states(patches, TOKENS)
    torch.testing.assert_close(decoder.states(padded, TOKENS, patch_mask=mask), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(decoder.states(padded, TOKENS), expected, atol=1e-3)
    for beam_size in (1, 3):
        short = decoder.generate(patches, beam_size=beam_size, max_length=6)
        assert decoder.generate(padded, beam_size=beam_size, max_length=6, patch_mask=mask).equal(short)


def test_a_study_without_patches_stays_finite(decoder: EncoderDecoder) -> None:
    mask = torch.tensor([[False] * 4, [True] * 4, [True] * 4])
    decoder.train().log_probs(torch.zeros(3, 4, 5), TOKENS, patch_mask=mask).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in decoder.parameters())


def test_text_states_need_no_image(decoder: EncoderDecoder) -> None:
    text = decoder.text_states(TOKENS)
    assert text.shape == (3, 6, 16)
    states = decoder.states(torch.randn(3, 4, 5), TOKENS)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "project" in name or "encoder" in name or "image" in name:
                parameter.add_(1.0)
    assert decoder.text_states(TOKENS).equal(text)
    assert not torch.allclose(states, text, atol=1e-2)


def test_every_parameter_gets_a_gradient(decoder: EncoderDecoder) -> None:
    log_probs = decoder.train().log_probs(torch.randn(3, 9, 5), TOKENS)
    (-log_probs.gather(-1, TOKENS[:, 1:, None]).mean()).backward()
    assert [name for name, parameter in decoder.named_parameters() if parameter.grad is None] == []


def test_dropout_acts_in_training_only(decoder: EncoderDecoder) -> None:
    patches = torch.randn(3, 4, 5)
    assert decoder.states(patches, TOKENS).equal(decoder.states(patches, TOKENS))
    decoder.train()
    assert not decoder.states(patches, TOKENS).equal(decoder.states(patches, TOKENS))


def test_bfloat16_autocast_is_finite_and_near(decoder: EncoderDecoder) -> None:
    patches = torch.randn(3, 4, 5)
    expected = decoder.log_probs(patches, TOKENS)
    with torch.autocast("cpu", torch.bfloat16):
        found = decoder.log_probs(patches, TOKENS)
        reports = decoder.generate(patches, beam_size=3, max_length=7)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert (found - expected).abs().mean() < 0.05
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3, 6), atol=1e-5, rtol=0)
    assert reports.shape == (3, 7)
    found.sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in decoder.parameters())


def plain_attention_maps(decoder: EncoderDecoder, patches: Tensor, patch_mask: Tensor) -> Tensor:
    """Softmax of scaled products, computed from what enters each attention to the image, one head at a time."""
    maps = []

    def watch(attention, arguments, _):
        x, (keys, _), mask = arguments
        queries = attention.query(x).chunk(attention.heads, dim=-1)
        scores = [q @ keys[:, head].mT / q.shape[-1] ** 0.5 for head, q in enumerate(queries)]
        maps.append(torch.stack([score.masked_fill(~mask[:, 0], -1e9).softmax(-1) for score in scores], dim=1))

    hooks = [layer.image_attention.register_forward_hook(watch) for layer in decoder.decoder]
    decoder.states(patches, TOKENS, patch_mask=patch_mask)
    for hook in hooks:
        hook.remove()
    return torch.stack(maps, dim=1)


@torch.no_grad()
def test_attention_maps(decoder: EncoderDecoder) -> None:
    patches, patch_mask = torch.randn(3, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]]).bool()
    maps = decoder.attention_maps(patches, TOKENS, patch_mask=patch_mask)
    assert maps.shape == (3, 2, 4, 6, 4)  # studies, layers, heads, tokens, patches
    torch.testing.assert_close(maps, plain_attention_maps(decoder, patches, patch_mask), atol=1e-6, rtol=0)
    assert decoder.train().attention_maps(patches, TOKENS, patch_mask=patch_mask).equal(maps)  # without dropout
    assert decoder.training
    decoder.eval()
    assert (maps[~patch_mask[:, None, None, None].expand_as(maps)] == 0).all()
    # they are what the attention itself weighs with: the values, so weighted, are its output
    attention, image = decoder.decoder[0].image_attention, torch.randn(3, 4, 16)
    x, (keys, values), mask = torch.randn(3, 6, 16), attention.keys_values(image), attention_mask(patch_mask)
    weighted = attention.output((attention.weights(x, keys, mask) @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(weighted, attention(x, (keys, values), mask), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoding_returns_the_attention_that_each_word_was_written_with(decoder: EncoderDecoder) -> None:
    patches = torch.randn(2, 4, 5)
    decoded = decoder.train().decode(patches, Decoding(beam_size=3, num_return=2, max_length=5), attention=True)
    assert decoder.training
    assert decoded.attention is not None
    assert decoded.attention.shape == (2, 2, 2, 4, 5, 4)  # studies, reports, layers, heads, tokens, patches
    torch.testing.assert_close(decoded.attention.sum(-1), torch.ones(2, 2, 2, 4, 5), atol=1e-5, rtol=0)
    decoder.eval()
    for study in range(2):
        row = decoded.tokens[study, 0]
        rows = torch.cat([row.new_zeros(1), row])[None]
        alone = decoder.attention_maps(patches[study : study + 1], rows)[0]
        torch.testing.assert_close(decoded.attention[study, 0], alone, atol=1e-5, rtol=0)
    assert decoder.decode(patches, Decoding(max_length=5)).attention is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["r2gen", "r2gencmn"])
def test_compiled_it_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    small = {"width": 8, "heads": 2, "layers": 1, "feedforward_width": 8, "dropout": 0.0, "patch_dropout": 0.0}
    memory = {"r2gen": {"memory_heads": 2}, "r2gencmn": {"memory_size": 12, "topk": 5}}[name]
    decoder = {"r2gen": R2Gen, "r2gencmn": R2GenCMN}[name](6, 5, **small, **memory)
    patches, tokens = torch.randn(3, 4, 5), TOKENS
    plain = decoder.states(patches, tokens)
    plain.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in decoder.named_parameters() if parameter.grad is not None}
    decoder.zero_grad()
    # traced and differentiated as for any backend; generating C++ would take a minute more and test PyTorch
    compiled = torch.compile(decoder.states, backend="aot_eager")(patches, tokens)
    compiled.square().sum().backward()
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-5)
    for key, parameter in decoder.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[key], atol=1e-4, rtol=1e-4, msg=key)


def test_word_mask() -> None:
    mask = causal_mask(torch.tensor([[0, 3, 0]]))
    assert mask.tolist() == [[[[True, False, False], [True, True, False], [True, True, False]]]]
