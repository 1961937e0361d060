"""Searches whose studies end at very different times against a plain one, per study and uncached."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardneg_plugin.backbones.attention import BeamCache
from hardneg_plugin.backbones.decoding import Decoded, Decoding
from hardneg_plugin.backbones.encoder_decoder import EncoderDecoder, EncoderDecoderState
from hardneg_plugin.backbones.leaving import Shrinking, kept_studies

sys.path.append(str(Path(__file__).parent))
from plain_search import KINDS, Memory, Recurrent, next_token_of, plain_beam_search, recurrent_next_token, small


class ShrinkingMemory(Memory):
    def keep(self, studies: Tensor) -> None:
        self.memory = self.memory[studies]


class Leaver(Recurrent):
    """A recurrent decoder whose studies leave; `rows` counts the studies of each step."""

    def start(self, patches, *, max_length, beams=1, patch_mask=None):
        self.rows: list[int] = []
        return ShrinkingMemory(super().start(patches, max_length=max_length, beams=beams).memory)

    def step(self, tokens, state):
        self.rows.append(len(tokens))
        return super().step(tokens, state)


def length_of(report: list[int]) -> int:
    return sum(token > 0 for token in report)


@pytest.mark.parametrize("beam_size", [1, 2, 3, 5])
@torch.no_grad()
def test_every_study_gets_the_report_of_the_plain_search(beam_size: int) -> None:
    lengths, smallest = set(), set()
    for seed, (vocab_size, end) in enumerate(itertools.product([2, 5, 9], [0.5, 1.5])):
        torch.manual_seed(seed)
        decoder = Leaver(vocab_size, end=end, sharpness=3.0)
        patches = 6 * torch.randn(9, 2, 6)
        found = decoder.decode(patches, Decoding(beam_size=beam_size, max_length=12))
        next_words = [recurrent_next_token(decoder, study) for study in patches]
        assert found.tokens[:, 0].tolist() == [plain_beam_search(each, beam_size, 12) for each in next_words], seed
        for tokens, log_prob, next_word in zip(
            found.tokens[:, 0].tolist(), found.log_probs[:, 0], next_words, strict=True
        ):
            taken = tokens[: length_of(tokens) + 1]  # the end counts
            total = sum(next_word(taken[:position])[token] for position, token in enumerate(taken))
            torch.testing.assert_close(log_prob, total, atol=1e-5, rtol=0)
        lengths.update((found.tokens > 0).sum(2).flatten().tolist())
        assert decoder.rows == sorted(decoder.rows, reverse=True)
        smallest.add(decoder.rows[-1])
    assert len(lengths) > 2
    assert min(smallest) <= 3


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": 1},
        {"beam_size": 1, "no_repeat_ngram_size": 2},
        {"beam_size": 4, "num_return": 3},
        {"beam_size": 3, "num_return": 2, "length_penalty": 1.0},
        {"beam_size": 3, "no_repeat_ngram_size": 1},
    ],
    ids=str,
)
@torch.no_grad()
def test_leaving_changes_nothing(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    left = 0
    for seed in range(6):
        torch.manual_seed(seed)
        decoder = Leaver(5, end=1.0, sharpness=3.0)
        patches, decoding = 2 * torch.randn(9, 2, 6), Decoding(max_length=9, **options)
        found = decoder.decode(patches, decoding)
        left += len(set(decoder.rows)) - 1
        monkeypatch.setattr("hardneg_plugin.backbones.leaving.FEW_ENOUGH", 0.0)
        together = decoder.decode(patches, decoding)
        assert set(decoder.rows) == {9}
        monkeypatch.undo()
        same(found, together)
        alone = [decoder.decode(study[None], decoding) for study in patches]
        same(found, Decoded(torch.cat([each.tokens for each in alone]), torch.cat([each.log_probs for each in alone])))
    assert left > 2


def same(found: Decoded, expected: Decoded) -> None:
    assert found.tokens.equal(expected.tokens)
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-5, rtol=0)


ENDS = {
    "transformer": [(2, 1.5), (2, 3.0), (0, 5.0)],
    "r2gen": [(0, 0.0), (1, 3.0), (2, 5.0)],
    "r2gencmn": [(1, 0.0), (1, 1.5), (1, 3.0), (2, 5.0)],
}
"""Seeds, and what is added to the end, of decoders whose reports differ in length."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beam_size", [1, 3])
@torch.no_grad()
def test_the_caches_of_those_that_stay_go_on(kind: str, beam_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    keep = BeamCache.keep
    monkeypatch.setattr(BeamCache, "keep", lambda self, studies: (kept.append(len(studies)), keep(self, studies)))
    lengths = set()
    for seed, end in ENDS[kind]:
        decoder: EncoderDecoder = small(kind, seed, 6, end=end)
        patches = 3 * torch.randn(8, 3, 5)
        is_there = torch.arange(3) <= torch.randint(3, (8, 1))  # one to three patches
        found = decoder.decode(patches, Decoding(beam_size=beam_size, max_length=9), patch_mask=is_there)
        for study, tokens, log_prob, there in zip(patches, found.tokens, found.log_probs, is_there, strict=True):
            next_word = next_token_of(decoder, study[there])
            expected = plain_beam_search(next_word, beam_size, 9)
            assert tokens[0].tolist() == expected, seed
            taken = expected[: length_of(expected) + 1]
            total = sum(next_word(taken[:position])[token] for position, token in enumerate(taken))
            torch.testing.assert_close(log_prob[0], total, atol=1e-4, rtol=0)
            lengths.add(length_of(expected))
    assert len(kept) >= 3
    assert len(lengths) >= 2


@torch.no_grad()
def test_samples_are_drawn_for_all_studies_to_the_end() -> None:
    torch.manual_seed(0)
    decoder = Leaver(5, end=1.0, sharpness=3.0)
    found = decoder.decode(2 * torch.randn(9, 2, 6), Decoding(sample=True, max_length=9))
    assert set(decoder.rows) == {9}
    assert len(set((found.tokens > 0).sum(2).flatten().tolist())) > 2


@pytest.mark.parametrize(
    ("is_open", "expected"), [("1111", None), ("1101", [0, 1, 3]), ("0010", [2]), ("0000", []), ("11110", None)]
)
def test_studies_leave_once_three_quarters_are_open(is_open: str, expected: list[int] | None) -> None:
    state = ShrinkingMemory(torch.arange(len(is_open)))
    kept = kept_studies(torch.tensor([each == "1" for each in is_open]), state)
    assert (kept if kept is None else kept.tolist()) == expected
    assert state.memory.tolist() == (expected or list(range(len(is_open))))  # nothing moves for nobody


def test_a_state_that_cannot_shrink_keeps_all_until_none_is_open() -> None:
    state = Memory(torch.zeros(2))
    assert not isinstance(state, Shrinking)
    assert issubclass(EncoderDecoderState, Shrinking)
    assert kept_studies(torch.tensor([False, True]), state) is None
    assert kept_studies(torch.tensor([False, False]), state).tolist() == []
