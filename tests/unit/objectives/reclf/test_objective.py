"""RECLF's objective: scores of all pairs against plain loops, and what must not change them."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin import PairEmbeddings
from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.losses import info_nce_of_logits
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.functional.word_region import importance, reason, word_region_attention, word_region_vectors
from hardneg_plugin.objectives import InBatch, Paired, Queue, RelationEnhancedObjective
from hardneg_plugin.objectives.batch import HardNegatives
from hardneg_plugin.objectives.local_features import LocalFeatures, PartHeads
from hardneg_plugin.objectives.reclf.relations import WordRegionScorer
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress

LATE = TrainingProgress(step=50, epoch=5, fraction=0.5)
ABLATIONS = [{}, {"rounds": 0}, {"weigh_words": False}, {"rounds": 0, "weigh_words": False}]


def pairs(studies=5, regions=4, words=6, image_width=7, report_width=5, seed=0, **fields):
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, requires_grad=True)

    lengths = torch.randint(1, words + 1, (studies,), generator=random)
    views = torch.randint(1, regions + 1, (studies,), generator=random)
    return PairEmbeddings(
        images=draw(studies, image_width),
        reports=draw(studies, report_width),
        regions=draw(studies, regions, image_width),
        region_mask=torch.arange(regions) < views[:, None],
        words=draw(studies, words, report_width),
        word_mask=torch.arange(words) < lengths[:, None],
        **{"study_ids": list(range(studies)), **fields},
    )


def objective(**options):
    torch.manual_seed(0)
    arguments = {
        "image_width": 7,
        "report_width": 5,
        "width": 6,
        "word_region_width": 8,
        "schedule": Constant(warmup=0.0),
    }
    made = RelationEnhancedObjective(**{**arguments, **options})
    # as after training: at the start words have no neighbours
    torch.nn.init.normal_(made.parts.phrases.weight, std=0.3)
    return made


def score_of(scores: WordRegionScorer, words, regions):
    """Of one report and one image, whose words and regions are all there, from the formulas."""
    attention = word_region_attention(words, regions, scale=scores.attention_scale)
    local = word_region_vectors(words, attention @ regions, scores.local.weight)
    there = torch.ones(len(words), dtype=torch.bool)
    read = []
    if scores.semantic is not None:
        nodes = torch.cat([word_region_vectors(words.mean(0), regions.mean(0), scores.whole.weight)[None], local])
        for one in scores.semantic.rounds:
            nodes = reason(
                nodes, torch.ones(len(nodes), dtype=torch.bool), one.query.weight, one.key.weight, one.value.weight
            )
        read.append(nodes[0])
    if scores.importance is not None:
        read.append((importance(scores.importance.score(local)[:, 0], there)[:, None] * local).sum(0))
    read = read or [local.mean(0)]
    return [reader(value) for reader, value in zip(scores.readers, read, strict=True)]


def one_score(loss, words, report, regions, image):
    """The read-outs `(R,)` of one report and one image of batches."""
    there = words.features[report][words.mask[report]], regions.features[image][regions.mask[image]]
    return torch.cat(score_of(loss.scores, *there))


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_loss_is_the_global_one_and_contrasts_of_scores_of_each_pair_by_itself(options):
    options = {**options, "centred": False}  # each call would move the centre
    loss, batch = objective(chunk=2, **options), pairs(labels=["a", "b", "a", "c", "d"])
    found = loss(batch, LATE)
    words, regions = loss.parts(batch)
    scores = torch.stack(
        [torch.stack([one_score(loss, words, r, regions, i) for i in range(5)]) for r in range(5)]
    )  # (reports, images, R)
    plain = objective(**options)
    plain.load_state_dict(loss.state_dict())
    plain.local_weight = 0.0
    expected = plain(batch, LATE).alignment_loss
    embedded = loss._embed(batch, LATE)
    negatives = loss.negatives(embedded)
    for logits in (10.0 * scores).unbind(-1):
        for side in (logits.T, logits):
            total = 0.0
            for i in range(5):
                kept = [j for j in range(5) if j == i or not embedded.is_match[i, j]]
                columns = [side[i, j] for j in kept]
                if negatives.valid[i, 0]:
                    columns.append(side[i, negatives.index[i, 0]])
                total = total + torch.stack(columns).logsumexp(0) - side[i, i]
            expected = expected + total / 5 / 2
    torch.testing.assert_close(found.alignment_loss, expected)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_paired_studies_are_columns_of_scores_of_their_own_pairs(options):
    options = {**options, "centred": False, "negatives": Paired(k=2)}
    mined = pairs(10, regions=3, words=4, seed=1, study_ids=[0, *range(11, 20)])
    loss, batch = objective(**options), pairs(negatives=mined)  # the first paired study is the first study itself
    found = loss(batch, LATE)
    plain = objective(**options)
    plain.load_state_dict(loss.state_dict())
    plain.local_weight = 0.0
    expected = plain(batch, LATE).alignment_loss
    (words, regions), (their_words, their_regions) = loss.parts(batch), loss.parts(mined)
    for i in range(5):
        paired = [2 * i + k for k in range(2) if (i, k) != (0, 0)]
        of_image = [one_score(loss, words, r, regions, i) for r in range(5)]
        of_image += [one_score(loss, their_words, j, regions, i) for j in paired]
        of_report = [one_score(loss, words, i, regions, j) for j in range(5)]
        of_report += [one_score(loss, words, i, their_regions, j) for j in paired]
        for side in (of_image, of_report):
            columns = 10.0 * torch.stack(side)
            expected = expected + (columns.logsumexp(0) - columns[i]).sum() / 5 / 2
    torch.testing.assert_close(found.alignment_loss, expected)
    found.alignment_loss.backward()
    for grad in (mined.words.grad, mined.regions.grad):
        assert grad[0].eq(0).all()
        assert grad[1:].abs().sum() > 0


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_parameter_and_feature_gets_a_gradient(options):
    loss, batch = objective(**options), pairs()
    loss(batch, LATE).alignment_loss.backward()
    for name, parameter in loss.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or (name.startswith("scores.readers") and name.endswith("bias")), name
    for features in (batch.regions, batch.words):
        assert features.grad.isfinite().all()
    assert (batch.words.grad.abs().sum(-1) > 0).equal(batch.word_mask)
    assert (batch.regions.grad.abs().sum(-1) > 0).equal(batch.region_mask)


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("filling", [0.0, 1e9, float("nan"), float("inf")])
def test_what_is_under_the_masks_changes_nothing(options, filling):
    loss, batch = objective(**options), pairs()
    expected = loss(batch, LATE).alignment_loss
    filled = {
        "words": F.pad(batch.words.detach(), (0, 0, 0, 2)).masked_fill(
            ~F.pad(batch.word_mask, (0, 2))[..., None], filling
        ),
        "word_mask": F.pad(batch.word_mask, (0, 2)),
        "regions": batch.regions.detach().masked_fill(~batch.region_mask[..., None], filling),
    }
    again = objective(**options)(PairEmbeddings(**{**vars(batch), **filled}), LATE).alignment_loss
    torch.testing.assert_close(again, expected)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_chunks_change_neither_scores_nor_gradients(options, chunk):
    one, other = objective(chunk=100, **options), objective(chunk=chunk, **options)
    batches = pairs(), pairs()
    for loss, batch in zip((one, other), batches, strict=True):
        loss(batch, LATE).alignment_loss.backward()
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    torch.testing.assert_close(batches[0].words.grad, batches[1].words.grad)


@pytest.mark.parametrize("sizes", [(2, 3), (1, 1, 3)], ids=str)
@pytest.mark.parametrize("make", [lambda: InBatch(k=2), lambda: Queue(size=4, k=2)], ids=["in_batch", "queue"])
def test_ranks_together_have_the_losses_of_one_process(monkeypatch, sizes, make):
    """Rank by rank, without processes: what is gathered is what the heads make of all studies."""
    loss, whole = objective(centred=False, negatives=make(), chunk=2), pairs(texts=["a", "b", "a", "c", "d"])
    loss(whole, LATE)  # fills the queue
    embedded = loss._embed(whole, LATE)
    negatives = copy.deepcopy(loss.negatives)(embedded)
    expected = torch.stack(loss._contrasts(whole, embedded, negatives))
    words, regions = loss.parts(whole)
    for rank in range(len(sizes)):
        shards = Shards(rank, sizes)
        here = shards.local
        monkeypatch.setattr(LocalFeatures, "gathered", lambda own, _: words if own.mask.shape[1] == 6 else regions)
        own = {
            name: value[here] if isinstance(value, torch.Tensor | MatchKeys) else value
            for name, value in vars(whole).items()
        }
        found = HardNegatives(
            negatives.reports[here], negatives.images[here], negatives.valid[here], negatives.places[here]
        )
        contrasts = loss._contrasts(PairEmbeddings(**own), replace(embedded, shards=shards), found)
        torch.testing.assert_close(torch.stack(contrasts), expected[:, here])


def test_paired_studies_are_columns_only_where_they_are_the_negatives():
    mined = pairs(10, regions=3, words=4, seed=1, study_ids=list(range(10, 20)))
    for make in (InBatch, lambda: Queue(size=4)):
        with_paired, without = (
            objective(centred=False, negatives=make())(pairs(negatives=paired), LATE).alignment_loss
            for paired in (mined, None)
        )
        torch.testing.assert_close(with_paired, without)


def test_a_pair_is_scored_by_itself():
    loss, batch = objective(), pairs()
    words, regions = loss.parts(batch)
    all_of_them = loss.scores.all_pairs(words, regions, chunk=2)
    few = type(words)(*(part[1:3] for part in words)), type(regions)(*(part[2:3] for part in regions))
    torch.testing.assert_close(loss.scores.all_pairs(*few, chunk=2), all_of_them[:, 1:3, 2:3])


@pytest.mark.parametrize("options", [*ABLATIONS, {"local_weight": 0.5}, {"local_weight": 0.0}], ids=str)
def test_the_score_of_a_pair_is_the_sum_of_its_logits_in_all_contrasts(options):
    loss, batch = objective(chunk=2, **options), pairs()
    words, regions = loss.parts(batch)
    images, reports = loss.project(batch)
    few = type(words)(*(part[:3] for part in words))
    found = loss.pair_scores(images, regions, reports[:3], few)
    for report in range(3):
        for image in range(5):
            local = one_score(loss, words, report, regions, image).sum()
            whole = loss.log_scales[0].exp() * reports[report] @ images[image]
            expected = whole + loss.local_weight * 10.0 * local
            torch.testing.assert_close(found[report, image], expected, atol=1e-4, rtol=1e-5)


def test_matches_are_no_negatives():
    loss, batch = objective(), pairs(labels=["same"] * 5)
    terms = loss(batch, LATE)
    assert terms.alignment_loss.item() == pytest.approx(0, abs=1e-6)
    terms.alignment_loss.backward()
    assert all(parameter.grad is not None for parameter in loss.parameters())


def test_a_study_without_words_or_regions_is_finite():
    batch = pairs()
    batch.word_mask[0] = False
    batch.region_mask[1] = False
    loss = objective()
    terms = loss(batch, LATE)
    terms.alignment_loss.backward()
    assert terms.alignment_loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


def test_importance_and_attention_can_be_looked_at():
    loss, batch = objective(), pairs()
    words, regions = loss.parts(batch)
    attention, weights = loss.scores.attention(words, regions), loss.scores.word_importance(words, regions)
    assert attention.shape == (5, 6, 4)
    torch.testing.assert_close(attention.sum(-1), torch.ones(5, 6))
    torch.testing.assert_close(weights.sum(-1), torch.ones(5))
    assert (weights > 0).equal(batch.word_mask)
    assert objective(weigh_words=False).scores.word_importance(words, regions) is None


def test_a_word_is_read_with_two_on_either_side_and_no_more():
    loss, batch = objective(), pairs(words=9)
    mask = torch.ones(5, 9, dtype=torch.bool)
    read = loss.parts.of_words(batch.words, mask).features
    for word in range(9):
        (touched,) = torch.autograd.grad(read[0, word].sum(), batch.words, retain_graph=True)
        near = [abs(other - word) <= 2 for other in range(9)]
        assert (touched[0].abs().sum(-1) > 0).tolist() == near
        assert touched[1:].eq(0).all()
    mapped = loss.parts.words(batch.words)
    kernel = loss.parts.phrases.weight
    for word in range(9):
        phrase = [(at, word + at - 2) for at in range(5) if 0 <= word + at - 2 < 9]
        around = sum(kernel[:, :, at] @ mapped[0, other] for at, other in phrase)
        torch.testing.assert_close(read[0, word], mapped[0, word] + around)


def test_at_the_start_a_word_is_read_by_itself():
    parts, batch = PartHeads(7, 5, 6), pairs()
    expected = parts.words(batch.words) * batch.word_mask[..., None]
    torch.testing.assert_close(parts.of_words(batch.words, batch.word_mask).features, expected)


@pytest.mark.parametrize("missing", ["regions", "words"])
def test_a_host_that_gives_no_parts_is_told(missing):
    batch = PairEmbeddings(**{**vars(pairs()), missing: None, f"{missing.removesuffix('s')}_mask": None})
    with pytest.raises(ValueError, match=r"regions=\(B, P, D\), words=\(B, W, D\)"):
        objective()(batch, LATE)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"chunk": 0}, "chunk >= 1"),
        ({"rounds": -1}, "rounds >= 0"),
        ({"word_region_width": 0}, "word_region_width >= 1"),
        ({"negative_weight": -1.0}, "negative_weight >= 0"),
        ({"score_scale": 0.0}, "score_scale > 0"),
    ],
)
def test_numbers_out_of_their_range(option, message):
    with pytest.raises(UserError, match=message):
        objective(**option)


def test_logits_of_products_give_info_nce():
    logits = torch.randn(3, 4)
    hard = torch.randn(3, 2)
    expected = [
        torch.cat([logits[i], hard[i] + torch.tensor([0.5, 2.0]).log()]).logsumexp(0) - logits[i, i + 1]
        for i in range(3)
    ]
    found = info_nce_of_logits(logits, first=1, hard=hard, hard_weight=torch.tensor([[0.5, 2.0]]).expand(3, 2))
    torch.testing.assert_close(found, torch.stack(expected))
