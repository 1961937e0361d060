"""Batched search against a plain one, per study and uncached, written from the rules."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.decoder import DecoderState, IncrementalDecoder
from hardneg_plugin.backbones.transformer import TransformerDecoder

NextWord = Callable[[list[int]], Tensor]
"""From the words so far to the log-probabilities (V + 1,) of the next."""


def plain_beam_search(next_word: NextWord, beam_size: int, max_length: int) -> list[int]:
    """The rules, one study and one candidate at a time, without caches and without stopping early."""
    recorded: list[tuple[Tensor, list[int]]] = []
    beams: list[tuple[Tensor, list[int]]] = [(torch.tensor(0.0), [])]
    for position in range(max_length):
        candidates = [
            (total + log_prob, [*words, word])
            for total, words in beams
            for word, log_prob in enumerate(next_word(words))
        ]
        candidates.sort(key=lambda candidate: -candidate[0].item())
        beams = []
        for total, words in candidates[:beam_size]:
            if words[-1] == 0 or position == max_length - 1:
                recorded.append((total, words))
            beams.append((total - 1000 if words[-1] == 0 else total, words))
    best = recorded[0]
    for candidate in recorded:
        if candidate[0] > best[0]:
            best = candidate
    words = best[1]
    return words + [0] * (max_length - len(words))


class Recurrent(IncrementalDecoder):
    """A decoder whose only state is a recurrent memory; what comes next depends on every earlier word and the image."""

    def __init__(self, vocab_size: int, *, end: float, sharpness: float) -> None:
        super().__init__()
        self.vocab_size, self.width = vocab_size, 6
        self.words = nn.Embedding(vocab_size + 1, 6)
        self.memory = nn.Linear(6, 6)
        self.output = nn.Linear(6, vocab_size + 1)
        with torch.no_grad():
            self.output.weight.mul_(sharpness)
            self.output.bias[0] += end

    def classify(self, states: Tensor) -> Tensor:
        return self.output(states).log_softmax(-1)

    def start(self, patches, *, max_length, beams=1, patch_mask=None):
        return Memory(patches.sum(1)[:, None].expand(-1, beams, -1))

    def step(self, words: Tensor, state: DecoderState) -> Tensor:
        assert isinstance(state, Memory)
        state.memory = torch.tanh(self.memory(state.memory) + self.words(words))
        return self.classify(state.memory)

    def states(self, patches, tokens, *, patch_mask=None):
        raise NotImplementedError

    def text_states(self, tokens):
        raise NotImplementedError

    def attention_maps(self, patches, tokens, *, patch_mask=None):
        raise NotImplementedError


class Memory(DecoderState):
    def __init__(self, memory: Tensor) -> None:
        self.memory = memory

    def select(self, parents: Tensor) -> None:
        self.memory = self.memory.gather(1, parents[..., None].expand_as(self.memory))


def recurrent_next_word(decoder: Recurrent, patches: Tensor) -> NextWord:
    def next_word(words: list[int]) -> Tensor:
        memory = patches.sum(0)
        for word in [0, *words]:
            memory = torch.tanh(decoder.memory(memory) + decoder.words.weight[word])
        return decoder.output(memory).log_softmax(-1)

    return next_word


def transformer_next_word(decoder: TransformerDecoder, patches: Tensor) -> NextWord:
    def next_word(words: list[int]) -> Tensor:
        return decoder.log_probs(patches[None], torch.tensor([[0, *words, 0]]))[0, -1]

    return next_word


ENDS = {"ends at once": 9.0, "ends some time": 0.5, "never ends": -50.0}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("beam_size", [1, 2, 3, 4, 5])
@torch.no_grad()
def test_many_random_decoders_decode_as_the_plain_search(beam_size: int, end: float) -> None:
    lengths = set()
    for seed, (vocab_size, max_length) in enumerate(itertools.product([1, 2, 3, 4, 9], [1, 2, 3, 5, 7])):
        torch.manual_seed(seed)
        decoder = Recurrent(vocab_size, end=end, sharpness=2.0)
        patches = torch.randn(3, 2, 6)
        found = decoder.generate(patches, beam_size=beam_size, max_length=max_length)
        expected = [plain_beam_search(recurrent_next_word(decoder, study), beam_size, max_length) for study in patches]
        assert found.tolist() == expected, (seed, vocab_size, max_length)
        assert found.dtype == torch.long
        lengths.update((found > 0).sum(1).tolist())
        if beam_size == 1:
            assert torch.equal(decoder.generate(patches, beam_size=1, max_length=max_length), found)
    assert {9.0: lengths == {0}, -50.0: lengths == {1, 2, 3, 5, 7}, 0.5: len(lengths) > 2}[end]


@pytest.mark.parametrize("beam_size", [2, 5])
@torch.no_grad()
def test_ended_beams_come_back_where_open_ones_fall_by_more_than_1000(beam_size: int) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        decoder = Recurrent(4, end=0.0, sharpness=900.0)
        patches = torch.randn(3, 2, 6)
        found = decoder.generate(patches, beam_size=beam_size, max_length=5)
        expected = [plain_beam_search(recurrent_next_word(decoder, study), beam_size, 5) for study in patches]
        assert found.tolist() == expected, seed


def small_transformer(seed: int, vocab_size: int, *, end: float = 0.0, **options) -> TransformerDecoder:
    torch.manual_seed(seed)
    options = {"width": 8, "heads": 2, "layers": 2, "feedforward_width": 8, **options}
    decoder = TransformerDecoder(vocab_size, 5, **options).eval()
    with torch.no_grad():
        decoder.output.weight.mul_(3.0)
        decoder.output.bias[0] += end
    return decoder


@pytest.mark.parametrize("beam_size", [1, 2, 3, 5])
@torch.no_grad()
def test_the_cached_transformer_decodes_as_the_plain_search(beam_size: int) -> None:
    ended = 0
    for seed, (vocab_size, end) in enumerate(itertools.product([2, 3, 7, 12], [9.0, 0.0, 1.0, -50.0])):
        decoder = small_transformer(seed, vocab_size, end=end)
        patches = torch.randn(4, 3, 5)
        found = decoder.generate(patches, beam_size=beam_size, max_length=6)
        expected = [plain_beam_search(transformer_next_word(decoder, study), beam_size, 6) for study in patches]
        assert found.tolist() == expected, (seed, vocab_size, end)
        assert torch.cat([decoder.generate(p[None], beam_size=beam_size, max_length=6) for p in patches]).equal(found)
        ended += (found[:, 0] > 0).logical_and(found[:, -1] == 0).sum().item()
    assert ended > 3  # reports that end by themselves, in the middle


def test_a_wider_beam_finds_a_likelier_report() -> None:
    def log_prob(decoder: TransformerDecoder, patches: Tensor, tokens: Tensor) -> float:
        rows = torch.cat([tokens.new_zeros(1, 1), tokens], dim=1)
        log_probs = decoder.log_probs(patches, rows)[0]
        last = int((tokens[0] > 0).sum()) + 1  # the end counts
        return log_probs[range(tokens.shape[1]), tokens[0]][:last].sum().item()

    gains = []
    for seed in range(12):
        decoder = small_transformer(seed, 6)
        patches = torch.randn(1, 3, 5)
        reports = [decoder.generate(patches, beam_size=size, max_length=5) for size in (1, 4)]
        gains.append(log_prob(decoder, patches, reports[1]) - log_prob(decoder, patches, reports[0]))
    assert sum(gains) > 0.5


class Scripted(Recurrent):
    """Log-probabilities by step and study alone, counting the steps."""

    def __init__(self, *scripts: list[list[float]]) -> None:
        super().__init__(len(scripts[0][0]) - 1, end=0.0, sharpness=1.0)
        self.scripts = torch.tensor(scripts)
        self.steps = 0

    def step(self, words: Tensor, state: DecoderState) -> Tensor:
        self.steps += 1
        return self.scripts[:, None, self.steps - 1].expand(*words.shape, -1)


def test_of_equal_sums_the_first_recorded_wins_whatever_the_batch_mates() -> None:
    tied = [[-1.0, -1.0], [-9.0, 0.0], [0.0, -9.0]]  # -1 for the end at once, and for two words
    longer = [[-9.0, -0.5], [-9.0, -0.5], [0.0, -9.0]]
    found = Scripted(tied, longer).generate(torch.zeros(2, 1, 6), beam_size=2, max_length=3)
    assert found.tolist() == [[0, 0, 0], [1, 1, 0]]


def test_search_stops_when_nothing_better_can_come() -> None:
    decoder = Scripted([[-0.1, -5.0, -6.0]] * 9)
    decoder.generate(torch.zeros(2, 1, 6), beam_size=3, max_length=9)
    assert decoder.steps == 1
    decoder = Scripted([[-5.0, -0.1, -6.0]] * 9)
    decoder.generate(torch.zeros(2, 1, 6), beam_size=3, max_length=9)
    assert decoder.steps == 9
    decoder = Scripted([[-5.0, -0.1, -6.0], [-0.1, -5.0, -6.0]] * 4)
    decoder.generate(torch.zeros(2, 1, 6), beam_size=1, max_length=8)
    assert decoder.steps == 2


@pytest.mark.parametrize("beam_size", [1, 3])
def test_masked_patches_are_as_absent(beam_size: int) -> None:
    for seed in range(8):
        decoder = small_transformer(seed, 6)
        patches = torch.randn(3, 4, 5)
        padded = torch.cat([patches, 9 * torch.randn(3, 2, 5)], dim=1)
        mask = torch.tensor([True] * 4 + [False] * 2).expand(3, -1)
        expected = decoder.generate(patches, beam_size=beam_size, max_length=6)
        found = decoder.generate(padded, beam_size=beam_size, max_length=6, patch_mask=mask)
        assert found.equal(expected)


@pytest.mark.parametrize(("beam_size", "max_length"), [(0, 5), (-1, 5), (1, 0), (3, 0)])
def test_sizes_below_one_are_refused(beam_size: int, max_length: int) -> None:
    with pytest.raises(ValueError, match="at least 1, but got"):
        small_transformer(0, 4).generate(torch.randn(1, 2, 5), beam_size=beam_size, max_length=max_length)


def test_generate_leaves_no_trace() -> None:
    decoder = small_transformer(0, 6, dropout=0.5).train()
    decoder.encoder.eval()  # a frozen part stays frozen
    modes = [module.training for module in decoder.modules()]
    patches = torch.randn(2, 3, 5, requires_grad=True)
    first, second = (decoder.generate(patches, max_length=9) for _ in range(2))
    assert first.equal(second)  # no dropout
    assert [module.training for module in decoder.modules()] == modes
    assert set(modes) == {True, False}
    with pytest.raises(ValueError, match="max_length"):
        decoder.generate(patches, max_length=0)
    assert [module.training for module in decoder.modules()] == modes
    assert torch.is_grad_enabled()
