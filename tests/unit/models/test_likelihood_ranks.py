"""Ranks by likelihood among peers, against a decoder whose likelihoods are known and against plain loops."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.record_scores import measured_scores
from hardneg_plugin.models.likelihood_ranks import LikelihoodRanks
from hardneg_plugin.models.report_generator import ReportGenerator

STUDIES = PhantomStudies(train=24, val=1, test=1, size=32).split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=1)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ReportGenerator(
        visual=VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
        backbone=partial(TransformerDecoder, width=32, heads=2, layers=1),
        tokenizer=TOKENIZER,
        optimizer=partial(torch.optim.AdamW, lr=1e-3),
        rank_by_likelihood=["val", "test"],
    ).eval()


def batches(size):
    collate = StudyCollator(TOKENIZER, 40)
    return [collate([STUDIES[i] for i in range(start, min(start + size, 24))]) for start in range(0, 24, size)]


def filled(model, size=5):
    ranks = LikelihoodRanks()
    for batch in batches(size):
        with torch.no_grad():
            ranks.keep(batch, model.encode_images(batch))
    return ranks


def test_ranks_are_those_of_a_plain_loop(model):
    found = filled(model).compute(model.decoder, torch.device("cpu"))
    (batch,) = batches(24)
    by_id = {study: row for row, study in enumerate(batch["ids"])}
    peers = Peers.of(batch["references"], batch["patients"], batch["labels"]).index

    @torch.no_grad()
    def loss(image, report):
        visual = model.encode_images({name: batch[name][[image]] for name in ("images", "view_mask")})
        tokens = batch["tokens"][[report]]
        log_probs = model.decoder.log_probs(visual.context, tokens)
        return -sum(float(log_probs[0, t, tokens[0, t + 1]]) for t in range(int(batch["token_mask"][report].sum()) - 1))

    assert found.keys() == by_id.keys()
    for study, row in list(by_id.items())[:6]:
        own = loss(row, row)
        others = [peer for peer in peers[row] if peer >= 0]
        assert found[study] == {
            "likelihood_rank": 1 + sum(loss(row, peer) <= own + 1e-3 for peer in others),
            "likelihood_r2i_rank": 1 + sum(loss(peer, row) <= own + 1e-3 for peer in others),
        }


def test_batches_and_repeated_studies_change_nothing(model):
    once = filled(model, 5).compute(model.decoder, torch.device("cpu"))
    ranks = filled(model, 24)
    with torch.no_grad():
        ranks.keep(batches(5)[0], model.encode_images(batches(5)[0]))
    assert ranks.compute(model.decoder, torch.device("cpu")) == once
    assert ranks.compute(model.decoder, torch.device("cpu")) == {}  # forgotten


class Knowing(torch.nn.Module):
    """Likelihoods by what the first patch says of the report's length: perfect, reversed, or the same for all images."""

    vocab_size = TOKENIZER.vocab_size

    def __init__(self, sign):
        super().__init__()
        self.sign = sign

    def log_probs_of_pairs(self, patches, tokens, image, report, *, patch_mask=None):
        patches, tokens = patches[image], tokens[report]
        distance = (patches[:, 0, 0] - tokens.sum(1)).abs()
        values = torch.full((len(tokens), tokens.shape[1] - 1, TOKENIZER.vocab_size + 1), 0.0)
        return values - (self.sign * distance)[:, None, None] / tokens.shape[1]


@pytest.mark.parametrize("memory", [0, 4 * 10**6, 10**12], ids=["one study a pass", "a few", "all"])
def test_ranks_do_not_depend_on_how_many_studies_share_a_pass(memory, model, monkeypatch):
    passes = []
    monkeypatch.setattr("hardneg_plugin.models.likelihood_ranks.MEMORY", memory)
    read = model.decoder.log_probs_of_pairs
    model.decoder.log_probs_of_pairs = lambda *args, **kwargs: passes.append(len(args[2])) or read(*args, **kwargs)
    shown = []
    found = filled(model).compute(
        model.decoder, torch.device("cpu"), track=lambda steps: shown.append(len(steps)) or iter(steps)
    )
    assert shown == [len(passes)]
    assert sum(passes) == 24 * 31
    assert {0: len(passes) == 24, 4 * 10**6: 1 < len(passes) < 24, 10**12: len(passes) == 1}[memory]
    monkeypatch.undo()
    assert found == filled(model).compute(model.decoder, torch.device("cpu"))


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 1.0), (-1.0, 16.0), (0.0, 16.0)])
def test_a_decoder_that_knows_its_images_ranks_them_first_and_one_that_does_not_ranks_them_last(sign, expected, model):
    ranks = LikelihoodRanks()
    (batch,) = batches(24)
    visual = model.encode_images(batch)
    told = batch["tokens"].sum(1).float()[:, None, None].expand(-1, visual.context.shape[1], visual.context.shape[2])
    ranks.keep(batch, visual._replace(patches=told, patch_mask=None))
    found = ranks.compute(Knowing(sign), torch.device("cpu"))
    images = [one["likelihood_r2i_rank"] for one in found.values()]
    sums = batch["tokens"].sum(1).tolist()
    alone = [sums.count(value) == 1 for value in sums]  # of equal sums each ranks behind the other
    assert [rank for rank, is_alone in zip(images, alone, strict=True) if is_alone] == [expected] * sum(alone)
    assert sum(alone) > 12
    scores = measured_scores(list(found.values())).values
    assert scores["likelihood_r2i_R@1"] == pytest.approx(sum(rank == 1 for rank in images) / 24)


@pytest.mark.filterwarnings("ignore:The model wrote one report")  # untrained
@pytest.mark.parametrize("split", ["val", "test"])
def test_they_are_scores_of_the_splits_that_are_named(split, model):
    for batch in batches(8):
        model.trainer = SimpleNamespace(sanity_checking=False, global_step=100, progress_bar_callback=None)
        model._evaluate(batch, split)
    logged = {}
    model.log = lambda name, value, **kwargs: logged.setdefault(name, float(value))
    model._log_scores(split)
    found = filled(model).compute(model.decoder, torch.device("cpu"))
    for name, rank in (("likelihood_R@1", "likelihood_rank"), ("likelihood_r2i_R@1", "likelihood_r2i_rank")):
        assert logged[f"{split}/{name}"] == pytest.approx(sum(one[rank] == 1 for one in found.values()) / 24)
    record = model.scores_of(split).records()[0]
    assert record["measured"]["likelihood_rank"] == found[record["id"]]["likelihood_rank"]
