"""Batched search against a plain one, per study and uncached, written from the rules."""

import itertools
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardneg_plugin.backbones.decoding import DecoderState, Decoding
from hardneg_plugin.backbones.encoder_decoder import EncoderDecoder
from hardneg_plugin.errors import UserError

sys.path.append(str(Path(__file__).parent))
from plain_search import KINDS, NextToken, Recurrent, next_token_of, plain_beam_search, recurrent_next_token, small

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
        expected = [plain_beam_search(recurrent_next_token(decoder, study), beam_size, max_length) for study in patches]
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
        expected = [plain_beam_search(recurrent_next_token(decoder, study), beam_size, 5) for study in patches]
        assert found.tolist() == expected, seed


def small_transformer(seed: int, vocab_size: int, **options) -> EncoderDecoder:
    return small("transformer", seed, vocab_size, **options)


@pytest.mark.slow  # the plain search runs the decoder anew for every token
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_cached_decoders_decode_as_the_plain_search(kind: str) -> None:
    """Uncached and teacher-forced on the other side; 36 random models, each with five widths of the beam."""
    ended = Counter()
    for seed, (vocab_size, end, max_length) in enumerate(
        itertools.product([3, 6, 11], [30.0, 2.0, 4.0, -50.0], [1, 2, 6])
    ):
        decoder = small(kind, seed, vocab_size, end=end)
        patches = torch.randn(2, 3, 5)
        next_words = [next_token_of(decoder, study) for study in patches]
        for beam_size in (1, 2, 3, 4, 5):
            case = (beam_size, seed, vocab_size, end, max_length)
            found = decoder.generate(patches, beam_size=beam_size, max_length=max_length)
            assert found.tolist() == [plain_beam_search(each, beam_size, max_length) for each in next_words], case
            alone = [decoder.generate(study[None], beam_size=beam_size, max_length=max_length) for study in patches]
            assert torch.cat(alone).equal(found), case
            ended[beam_size] += (found[:, 0] > 0).logical_and(found[:, -1] == 0).sum().item()
    assert all(ended[beam_size] >= 2 for beam_size in (1, 2, 3, 4, 5))  # reports that end by themselves, in the middle


def test_a_wider_beam_finds_a_likelier_report() -> None:
    def log_prob(decoder: EncoderDecoder, patches: Tensor, tokens: Tensor) -> float:
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

    def step(self, tokens: Tensor, state: DecoderState) -> Tensor:
        self.steps += 1
        return self.scripts[:, None, self.steps - 1].expand(*tokens.shape, -1)


def test_of_equal_sums_the_first_recorded_wins_whatever_the_batch_mates() -> None:
    tied = [[-1.0, -1.0], [-9.0, 0.0], [0.0, -9.0]]  # -1 for the end at once, and for two tokens
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


@torch.no_grad()
def test_a_probability_that_is_reached_exactly_is_enough() -> None:
    decoding = Decoding(sample=True, num_return=200, max_length=1, top_p=0.5)
    found = Scripted([[-0.7, -0.7]]).decode(torch.zeros(1, 1, 6), decoding)
    assert found.tokens.unique().numel() == 1


@pytest.mark.parametrize(
    ("penalty", "end", "steps", "tokens"),
    [
        # sum times length: the open report, of -0.5, can still become -1.0 with its end
        (-1.0, -1.25, 4, [1, 0, 0, 0]),
        (-1.0, -1.0, 1, [0, 0, 0, 0]),  # of equal ones the first stays
        (-1.0, -0.9, 1, [0, 0, 0, 0]),
        # sum by length: at best -0.5 / 4
        (1.0, -0.13, 4, [1, 1, 1, 1]),
        (1.0, -0.12, 1, [0, 0, 0, 0]),
    ],
)
@torch.no_grad()
def test_with_a_length_penalty_the_search_goes_on_while_something_better_can_come(
    penalty: float, end: float, steps: int, tokens: list[int]
) -> None:
    later = [0.0, -9.0] if penalty < 0 else [-9.0, 0.0]
    decoder = Scripted([[end, -0.5], later, later, later])
    found = decoder.decode(torch.zeros(1, 1, 6), Decoding(beam_size=2, max_length=4, length_penalty=penalty))
    assert found.tokens[0, 0].tolist() == tokens
    assert decoder.steps <= steps
    if steps == 1:
        assert decoder.steps == 1


@pytest.mark.parametrize("options", [{}, {"beam_size": 1}, {"sample": True, "top_k": 1}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_patches_that_are_not_there_change_nothing(kind: str, options: dict) -> None:
    decoder, patches = small(kind, 1, 6), torch.randn(2, 4, 5)
    is_there = torch.tensor([[True] * 3 + [False]] * 2)
    decoding = Decoding(max_length=6, **options)
    masked = decoder.decode(patches, decoding, patch_mask=is_there)
    alone = decoder.decode(patches[:, :3], decoding)
    assert masked.tokens.equal(alone.tokens)
    torch.testing.assert_close(masked.log_probs, alone.log_probs)
    assert not torch.allclose(masked.log_probs, decoder.decode(patches, decoding).log_probs)


def every_report(decoder: Recurrent, patches: Tensor, max_length: int) -> list[tuple[float, list[int]]]:
    """All reports up to a length with their summed log-probabilities, one token at a time."""
    next_token, whole, open_reports = recurrent_next_token(decoder, patches), [], [(0.0, [])]
    for position in range(max_length):
        longer = [
            (total + log_prob.item(), [*ids, token])
            for total, ids in open_reports
            for token, log_prob in enumerate(next_token(ids))
        ]
        is_last = position == max_length - 1
        whole += [report for report in longer if report[1][-1] == 0 or is_last]
        open_reports = [report for report in longer if report[1][-1] != 0]
    return whole


def padded(ids: list[int], length: int) -> list[int]:
    return ids + [0] * (length - len(ids))


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0])
@torch.no_grad()
def test_a_beam_wide_enough_returns_the_best_of_all_reports_in_order(penalty: float) -> None:
    winners = set()
    for seed in range(6):
        torch.manual_seed(seed)
        decoder, patches = Recurrent(2, end=0.5, sharpness=3.0), torch.randn(2, 2, 6)
        decoding = Decoding(beam_size=20, num_return=4, max_length=4, length_penalty=penalty)
        found = decoder.decode(patches, decoding)
        for study in range(2):
            reports = every_report(decoder, patches[study], 4)
            reports.sort(key=lambda report: -report[0] / len(report[1]) ** penalty)
            assert found.tokens[study].tolist() == [padded(ids, 4) for _, ids in reports[:4]]
            assert found.log_probs[study].tolist() == pytest.approx([total for total, _ in reports[:4]], abs=1e-5)
            winners.add(len(reports[0][1]))
    assert len(winners) > 1


@torch.no_grad()
def test_where_there_are_fewer_reports_than_asked_for_the_rest_is_empty() -> None:
    decoder = Scripted([[-0.5, -1.0]])
    found = decoder.decode(torch.zeros(1, 1, 6), Decoding(beam_size=4, num_return=3, max_length=1))
    assert found.tokens.tolist() == [[[0], [1], [0]]]
    assert found.log_probs.tolist() == [[-0.5, -1.0, -torch.inf]]
    decoder = Scripted([[-0.5, -1.0]])
    all_beams = decoder.decode(torch.zeros(1, 1, 6), Decoding(beam_size=4, num_return=4, max_length=1))
    assert all_beams.tokens.tolist() == [[[0], [1], [0], [0]]]


@pytest.mark.parametrize("options", [{}, {"beam_size": 1}, {"sample": True, "num_return": 3}], ids=str)
@pytest.mark.parametrize("size", [1, 2, 3])
@torch.no_grad()
def test_no_sequence_of_tokens_comes_twice(size: int, options: dict) -> None:
    repeats_without = 0
    for seed in range(8):
        decoder, patches = small("transformer", seed, 3, end=-50.0), torch.randn(3, 2, 5)
        for no_repeat in (0, size):
            decoding = Decoding(max_length=12, no_repeat_ngram_size=no_repeat, **options)
            for ids in decoder.decode(patches, decoding).tokens.flatten(0, 1).tolist():
                ids = ids[: ids.index(0)] if 0 in ids else ids
                sequences = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
                if no_repeat:
                    assert len(set(sequences)) == len(sequences), ids
                repeats_without += not no_repeat and len(set(sequences)) < len(sequences)
    assert repeats_without > 10


@torch.no_grad()
def test_without_repeats_the_search_is_that_over_what_is_left() -> None:
    for seed in range(10):
        torch.manual_seed(seed)
        decoder, patches = Recurrent(3, end=0.0, sharpness=2.0), torch.randn(2, 2, 6)
        found = decoder.decode(patches, Decoding(beam_size=2, max_length=6, no_repeat_ngram_size=2))
        for study in range(2):
            next_token = recurrent_next_token(decoder, patches[study])

            def left(ids: list[int], next_token: NextToken = next_token) -> Tensor:
                log_probs = next_token(ids).clone()
                seen = set(itertools.pairwise(ids))
                for token in range(1, 4):
                    if ids and (ids[-1], token) in seen:
                        log_probs[token] = -torch.inf
                return log_probs

            assert found.tokens[study, 0].tolist() == plain_beam_search(left, 2, 6)


@torch.no_grad()
def test_tokens_are_sampled_as_often_as_they_are_likely() -> None:
    torch.manual_seed(0)
    script = [[-2.0, -1.0, -0.7, -3.0]]
    for options, kept in (
        ({}, [0, 1, 2, 3]),
        ({"temperature": 0.5}, [0, 1, 2, 3]),
        ({"top_k": 2}, [1, 2]),
        ({"top_p": 0.85}, [0, 1, 2]),  # .46 + .34 are less than .85, and one more is needed
        ({"top_p": 1e-6}, [2]),
        ({"top_p": 1.0}, [0, 1, 2, 3]),
        ({"top_k": 3, "top_p": 0.5}, [1, 2]),
        ({"top_k": 2, "top_p": 0.55}, [2]),  # .57 of what top_k leaves, .47 of all
        ({"top_k": 9}, [0, 1, 2, 3]),
    ):
        decoding = Decoding(sample=True, num_return=20000, max_length=1, **options)
        found = Scripted(script).decode(torch.zeros(1, 1, 6), decoding)
        weights = torch.zeros(4)
        weights[kept] = (torch.tensor(script[0])[kept] / options.get("temperature", 1.0)).exp()
        shares = torch.bincount(found.tokens.flatten(), minlength=4) / 20000
        torch.testing.assert_close(shares, weights / weights.sum(), atol=0.015, rtol=0)
        assert (shares > 0).tolist() == (weights > 0).tolist()
        # what is returned is the model's log-probability, whatever was sampled from
        assert found.log_probs[0, 0].item() == pytest.approx(script[0][found.tokens[0, 0, 0]])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_sampled_reports_are_the_models_own(kind: str) -> None:
    decoder, patches = small(kind, 0, 6, end=3.0), torch.randn(3, 3, 5)
    torch.manual_seed(1)
    found = decoder.decode(patches, Decoding(sample=True, num_return=4, max_length=7))
    torch.manual_seed(1)
    assert found.tokens.equal(decoder.decode(patches, Decoding(sample=True, num_return=4, max_length=7)).tokens)
    lengths = (found.tokens > 0).sum(-1)
    assert lengths.unique().numel() > 1
    for study, report in itertools.product(range(3), range(4)):
        ids = found.tokens[study, report]
        log_probs = decoder.log_probs(patches[study][None], torch.cat([ids.new_zeros(1), ids])[None])[0]
        total = log_probs[range(7), ids][: lengths[study, report] + 1].sum()
        assert found.log_probs[study, report].item() == pytest.approx(total.item(), abs=1e-4)
    certain = decoder.decode(patches, Decoding(sample=True, top_k=1, max_length=7)).tokens[:, 0]
    assert certain.equal(decoder.generate(patches, beam_size=1, max_length=7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "decoding.beam_size: expected a positive integer, but got 0"),
        ({"max_length": 0}, "decoding.max_length: expected a positive integer, but got 0"),
        ({"num_return": 0}, "decoding.num_return: expected a positive integer, but got 0"),
        ({"no_repeat_ngram_size": -1}, "decoding.no_repeat_ngram_size: expected an integer >= 0"),
        ({"length_penalty": float("nan")}, "decoding.length_penalty: expected a number"),
        ({"length_penalty": float("inf")}, "decoding.length_penalty: expected a number"),
        ({"sample": True, "temperature": 0.0}, "decoding.temperature: expected a number > 0"),
        ({"sample": True, "top_k": 0}, "decoding.top_k: expected a positive integer or None"),
        ({"sample": True, "top_p": 0.0}, r"decoding.top_p: expected a number in \(0, 1\] or None"),
        ({"sample": True, "top_p": 1.5}, r"decoding.top_p: expected a number in \(0, 1\] or None"),
        ({"num_return": 4}, "num_return: expected at most decoding.beam_size=3 in a search, but got 4"),
        ({"precision": "float16"}, "decoding.precision: expected bfloat16 or None, but got 'float16'"),
        ({"top_k": 5}, "apply to sampling only: set decoding.sample=true"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Decoding(**options)


def test_the_defaults_are_those_of_the_released_models() -> None:
    released = {"beam_size": 3, "max_length": 60, "num_return": 1, "length_penalty": 0.0, "no_repeat_ngram_size": 0}
    sampling = {"sample": False, "temperature": 1.0, "top_k": None, "top_p": None}
    assert vars(Decoding()) == {**released, **sampling, "precision": None}


def test_generate_leaves_no_trace() -> None:
    decoder = small_transformer(0, 6, dropout=0.5).train()
    decoder.encoder.eval()  # a frozen part stays frozen
    modes = [module.training for module in decoder.modules()]
    patches = torch.randn(2, 3, 5, requires_grad=True)
    first, second = (decoder.generate(patches, max_length=9) for _ in range(2))
    assert first.equal(second)  # no dropout
    assert [module.training for module in decoder.modules()] == modes
    assert set(modes) == {True, False}
    with pytest.raises(RuntimeError, match="shape"):
        decoder.generate(patches[..., :2], max_length=9)
    assert [module.training for module in decoder.modules()] == modes
    assert torch.is_grad_enabled()
