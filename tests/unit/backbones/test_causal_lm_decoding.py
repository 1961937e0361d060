"""The reports of a causal language model against searches by hand over its teacher-forced log-probabilities."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hardneg_plugin.backbones.causal_lm import CausalLMDecoder
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.errors import UserError

sys.path.append(str(Path(__file__).parent))
from tiny_language_models import CONFIGS, PATCH_MASK, log_prob_of, make, save


def with_padding_rows(folder: Path, seed: int) -> CausalLMDecoder:
    """Tokens 1 to 4, of which 2 is the end's own row and never written, and two padding rows that the model finds likely."""
    decoder = make(config=None, name_or_path=str(save(folder, rows=6)), vocab_size=4, seed=seed).eval()
    torch.manual_seed(seed)
    head = decoder.model.get_output_embeddings().weight
    with torch.no_grad():
        head.copy_(torch.randn_like(head))
    return decoder


def next_tokens(decoder: CausalLMDecoder, study: Tensor, ids: list[int], size: int) -> list[float]:
    """Log-probabilities of tokens 0 to V after `ids`; -inf where a sequence of `size` tokens would come twice."""
    values = decoder.log_probs(study[None], torch.tensor([[0, *ids, 0]]))[0, -1].tolist()
    seen = {tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)} if size else set()
    return [
        -torch.inf if (size and (*ids[len(ids) - size + 1 :], token) in seen) or value < -1e30 else value
        for token, value in enumerate(values)
    ]


def plain_beam_search(decoder: CausalLMDecoder, study: Tensor, decoding: Decoding) -> list[tuple[list[int], float]]:
    """Without cache: a beam that ends among the best is recorded, and the best open ones go on."""
    recorded, beams = [], [(0.0, [])]
    for position in range(decoding.max_length):
        candidates = [
            (total + value, [*ids, token])
            for total, ids in beams
            for token, value in enumerate(next_tokens(decoder, study, ids, decoding.no_repeat_ngram_size))
            if value > -torch.inf
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        for total, ids in candidates[: decoding.beam_size]:
            if ids[-1] == 0 or position == decoding.max_length - 1:
                recorded.append((ids, total))
        beams = [(total, ids) for total, ids in candidates if ids[-1] != 0][: decoding.beam_size]
    recorded.sort(key=lambda record: -record[1] / len(record[0]) ** decoding.length_penalty)
    return [(ids + [0] * (decoding.max_length - len(ids)), total) for ids, total in recorded[: decoding.num_return]]


@pytest.mark.parametrize("padded", [False, True], ids=["own", "pretrained"])
@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("penalty", [0.0, 1.0, -1.0])
@torch.no_grad()
def test_search_is_the_plain_one(penalty: float, size: int, padded: bool, tmp_path: Path) -> None:
    lengths = set()
    for seed, beam_size in itertools.product(range(2), (1, 2, 3)):
        decoder = with_padding_rows(tmp_path, seed) if padded else make("gpt2", vocab_size=4, seed=seed).eval()
        decoding = Decoding(
            beam_size=beam_size, num_return=beam_size, max_length=5, length_penalty=penalty, no_repeat_ngram_size=size
        )
        patches = 3 * torch.randn(2, 4, 5)
        found = decoder.decode(patches, decoding)
        for study, reports, log_probs in zip(patches, found.tokens.tolist(), found.log_probs.tolist(), strict=True):
            expected = plain_beam_search(decoder, study, decoding)
            assert reports[: len(expected)] == [ids for ids, _ in expected], (seed, beam_size)
            assert log_probs[: len(expected)] == pytest.approx([total for _, total in expected], abs=1e-4)
            lengths.update(report.index(0) if 0 in report else 5 for report in reports)
    assert len(lengths) > 1


@pytest.mark.parametrize("padded", [False, True], ids=["own", "pretrained"])
@pytest.mark.parametrize("penalty", [0.0, 2.0, 6.0, -1.0])
@torch.no_grad()
def test_a_beam_wider_than_all_reports_returns_each_once_and_marks_the_rest(
    penalty: float, padded: bool, tmp_path: Path
) -> None:
    decoder = with_padding_rows(tmp_path, 0) if padded else make(vocab_size=2).eval()
    tokens, patches = ((1, 3, 4) if padded else (1, 2)), torch.randn(2, 4, 5)
    reports = [[*ids, 0] if len(ids) < 3 else [*ids] for n in range(4) for ids in itertools.product(tokens, repeat=n)]
    count = len(reports) + 4
    found = decoder.decode(patches, Decoding(beam_size=count, num_return=count, max_length=3, length_penalty=penalty))
    for study in range(2):
        totals = {tuple(report): log_prob_of(decoder, patches[study], report) for report in reports}
        order = sorted(totals, key=lambda report: -totals[report] / len(report) ** penalty)
        assert found.tokens[study].tolist() == [[*ids, 0, 0, 0][:3] for ids in order] + [[0] * 3] * 4
        assert found.log_probs[study].tolist() == pytest.approx([totals[ids] for ids in order] + [-torch.inf] * 4)


@pytest.mark.parametrize("beam_size", [1, 3])
@pytest.mark.filterwarnings(
    "ignore:Passing `no_repeat_ngram_size` with `inputs_embeds`"
)  # only the report counts here, too
@torch.no_grad()
def test_search_is_generate_on_the_same_embeddings(beam_size: int) -> None:
    for family, penalty, size in itertools.product(CONFIGS, (0.0, 1.5), (0, 2)):
        decoder, patches = make(family, "mlp").eval(), torch.randn(3, 4, 5)
        prefix, mask = decoder._prefix(patches, PATCH_MASK)
        rows = decoder.model.generate(
            inputs_embeds=prefix,
            attention_mask=mask.long(),
            max_new_tokens=7,
            num_beams=beam_size,
            num_return_sequences=beam_size,
            do_sample=False,
            no_repeat_ngram_size=size,
            **({"early_stopping": "never", "length_penalty": penalty} if beam_size > 1 else {}),
        )
        decoding = Decoding(
            beam_size=beam_size, num_return=beam_size, max_length=7, length_penalty=penalty, no_repeat_ngram_size=size
        )
        found = decoder.decode(patches, decoding, patch_mask=PATCH_MASK).tokens.flatten(0, 1)
        expected = torch.where(rows == 6, 0, rows + 1)
        assert found[:, : rows.shape[1]].equal(expected), (family, penalty, size)
        assert not found[:, rows.shape[1] :].any()


@torch.no_grad()
def test_tokens_are_sampled_as_often_as_they_are_likely(tmp_path: Path) -> None:
    decoder, patches = with_padding_rows(tmp_path, 1), torch.randn(1, 4, 5)
    log_probs = torch.tensor(next_tokens(decoder, patches[0], [], 0))
    likeliest = log_probs.argsort(descending=True)
    for options, kept in (
        ({}, likeliest[:4]),
        ({"temperature": 0.5}, likeliest[:4]),
        ({"top_k": 2}, likeliest[:2]),
        ({"top_p": float(log_probs[likeliest[:2]].exp().sum()) - 1e-3}, likeliest[:2]),
        ({"top_k": 3, "top_p": 1e-6}, likeliest[:1]),
    ):
        decoding = Decoding(sample=True, num_return=4000, max_length=1, **options)
        torch.manual_seed(0)
        found = decoder.decode(patches, decoding)
        weights = torch.zeros(5)
        weights[kept] = (log_probs[kept] / options.get("temperature", 1.0)).exp()
        shares = found.tokens.flatten().bincount(minlength=5) / 4000
        torch.testing.assert_close(shares, weights / weights.sum(), atol=0.03, rtol=0)
        # those of the model, whatever was sampled from
        torch.testing.assert_close(found.log_probs[0], log_probs[found.tokens[0, :, 0]], atol=1e-5, rtol=1e-5)
        torch.manual_seed(0)
        assert decoder.decode(patches, decoding).tokens.equal(found.tokens)
        torch.manual_seed(1)
        assert kept.numel() == 1 or not decoder.decode(patches, decoding).tokens.equal(found.tokens)


@pytest.mark.parametrize("options", [{}, {"beam_size": 1}, {"sample": True, "num_return": 20}], ids=str)
@torch.no_grad()
def test_a_report_with_every_token_ends(options: dict) -> None:
    decoder = make(vocab_size=2).eval()
    found = decoder.decode(torch.randn(4, 4, 5), Decoding(max_length=6, no_repeat_ngram_size=1, **options))
    reports = found.tokens.flatten(0, 1).tolist()
    assert all(report[:3] in ([0, 0, 0], [1, 0, 0], [2, 0, 0], [1, 2, 0], [2, 1, 0]) for report in reports)
    assert not found.tokens[..., 3:].any()
    assert found.log_probs.isfinite().all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@torch.no_grad()
def test_the_last_token_needs_no_position(family: str) -> None:
    name = {"llama": "max_position_embeddings", "gpt2": "n_positions"}[family]
    decoder = make(family, config={**CONFIGS[family], name: 8}).eval()  # start, four patches, begin, two tokens
    decoder.model.get_output_embeddings().weight[6] = 0.0  # the end is not likelier than others
    patches = torch.randn(2, 4, 5)
    found = decoder.decode(patches, Decoding(beam_size=2, max_length=3))
    for study in range(2):
        expected = log_prob_of(decoder, patches[study], found.tokens[study, 0].tolist())
        assert float(found.log_probs[study, 0]) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match=r"at most 8 positions.*got 9: lower data\.max_length and decoding\.max_length"):
        decoder.decode(patches, Decoding(max_length=4))
