"""A split as a frozen model sees it, and where the model looks: shapes, sums, padding, and the formulas in loops."""

from functools import partial

import pytest
import torch
from torch.nn.functional import normalize

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.text import TextEncoder
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomKnowledge, PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream import pair_scorer as pair_scorer_module
from hardneg_plugin.evaluation.downstream.finding_maps import entity_names, finding_maps
from hardneg_plugin.evaluation.downstream.frozen_features import FrozenFeatures, encode, text_features
from hardneg_plugin.evaluation.downstream.pair_scorer import PairScorer
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.grounding import Cells, Grounding, Patches
from hardneg_plugin.knowledge import ChestXray
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.image_report_encoder import ImageReportEncoder
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives import GroundedKnowledgeObjective, RelationEnhancedObjective
from hardneg_plugin.objectives.embeddings import PairEmbeddings

STUDIES = PhantomStudies(train=10, val=1, test=1, size=96).split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=1)
KNOWLEDGE = PhantomKnowledge()
FINDINGS = len(entity_names(KNOWLEDGE))
PATCHES = 9  # of a view

OBJECTIVES = {
    "cosine": {"hard_negatives": partial(HardNegativeObjective, width=8)},
    "words": {"hard_negatives": partial(RelationEnhancedObjective, width=8, word_region_width=8)},
    "words alike": {
        "hard_negatives": partial(RelationEnhancedObjective, width=8, word_region_width=8, weigh_words=False)
    },
    "grounded": {
        "hard_negatives": partial(GroundedKnowledgeObjective, width=8, knowledge=KNOWLEDGE, entity_width=8),
        "grounding": partial(Grounding, knowledge=KNOWLEDGE, width=8, heads=2, regions=Cells(3, 3)),
    },
}


def parts():
    torch.manual_seed(0)
    return {
        "visual": VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
        "tokenizer": TOKENIZER,
        "optimizer": partial(torch.optim.AdamW, lr=1e-3),
    }


def encoder(kind="cosine"):
    text = partial(TextEncoder, width=16, heads=2, layers=1, feedforward_width=16)
    model = ImageReportEncoder(**parts(), text=text, **OBJECTIVES[kind])
    if kind != "grounded":  # as after training: what is centred is no longer zero
        model.hard_negatives.image_head.centre.normal_()
    return model.eval()


def host():
    return ReportGenerator(**parts(), backbone=partial(TransformerDecoder, width=32, heads=2, layers=1)).eval()


def samples(count=6):
    """Studies of two views, and two of one."""
    made = [dict(STUDIES[i]) for i in range(count)]
    for alone in (1, 4):
        made[alone]["images"] = made[alone]["images"][:1]
    return made


def batches(studies, size, max_length=40):
    collate = StudyCollator(TOKENIZER, max_length, KNOWLEDGE)
    return [collate(studies[start : start + size]) for start in range(0, len(studies), size)]


def test_studies_of_fewer_views_are_filled_up_with_what_is_masked():
    model, studies = encoder(), samples()
    encoded = encode(model, batches(studies, 1), device="cpu", maps_of=KNOWLEDGE)
    assert encoded.ids == [study["id"] for study in studies]
    assert encoded.references == [one for batch in batches(studies, 1) for one in batch["references"]]
    assert (encoded.grid, encoded.patches.shape) == ((3, 3), (6, 2 * PATCHES, 16))
    views = torch.tensor([len(study["images"]) for study in studies])
    assert torch.equal(encoded.patch_mask, torch.arange(2 * PATCHES) < PATCHES * views[:, None])
    assert encoded.patches[~encoded.patch_mask].eq(0).all()
    assert encoded.maps[~encoded.patch_mask].eq(0).all()
    with torch.no_grad():
        for row, study in enumerate(studies):
            features = model.visual(study["images"][None])
            torch.testing.assert_close(encoded.pooled[row], features.pooled[0])
            torch.testing.assert_close(encoded.patches[row][encoded.patch_mask[row]], features.patches[0])
            torch.testing.assert_close(
                encoded.first_view[row], model.visual(study["images"][None, :1]).patches[0].T.reshape(16, 3, 3)
            )


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_batch_mates_change_nothing(kind):
    model, studies = encoder(kind), samples()
    one, many = (encode(model, batches(studies, size), device="cpu", maps_of=KNOWLEDGE) for size in (1, 4))
    for name in ("pooled", "patches", "patch_mask", "images", "reports", "maps"):
        torch.testing.assert_close(getattr(one, name), getattr(many, name), msg=name)


@pytest.mark.parametrize("kind", ["words", "words alike"])
def test_pairs_are_scored_by_themselves_whatever_is_beside_them(kind, monkeypatch):
    monkeypatch.setattr(pair_scorer_module, "IMAGES", 4)
    model, studies = encoder(kind), samples()
    pair_scorer = PairScorer.of(model)
    split = encode(model, batches(studies, 4), device="cpu", pair_scorer=pair_scorer)
    seen_by = []
    scores = pair_scorer.scores(*split.pair_sides, track=lambda steps: seen_by.append(list(steps)) or steps)
    assert scores.shape == (6, 6)
    assert seen_by == [[0, 4]]
    for row, column in ((0, 0), (1, 3), (4, 2), (5, 5)):
        image, report = (
            encode(model, batches([studies[i]], 1), device="cpu", pair_scorer=pair_scorer) for i in (row, column)
        )
        alone = pair_scorer.scores(image.pair_sides[0], report.pair_sides[1])
        torch.testing.assert_close(alone, scores[row, column][None, None], atol=1e-4, rtol=1e-5)
    assert scores.std() > 1e-3


def test_sentences_are_scored_as_reports_are():
    model, studies = encoder("words"), samples()[:3]
    pair_scorer = PairScorer.of(model)
    images, reports = encode(
        model, batches(studies, 3, max_length=200), device="cpu", pair_scorer=pair_scorer
    ).pair_sides
    texts = [study["report"] for study in studies]
    every = pair_scorer.scores(images, reports)
    found = pair_scorer.scores_of_sentences(images, [(texts[:2], texts[2:]), (texts[2:], texts[1:2])])
    expected = torch.stack([every[:, :2].mean(1) - every[:, 2], every[:, 2] - every[:, 1]], dim=1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


def test_only_a_model_that_compares_words_with_regions_scores_pairs():
    assert PairScorer.of(encoder()) is None
    assert PairScorer.of(host()) is None
    with pytest.raises(ValueError, match="encoded with a `pair_scorer`"):
        encode(encoder("words"), batches(samples()[:2], 2), device="cpu").pair_sides  # noqa: B018


def test_the_embeddings_are_those_of_recall_and_the_mode_is_kept():
    model, (batch,) = encoder().train(), batches(samples(), 6)
    encoded = encode(model, [batch], device="cpu", patches=False)
    assert model.training
    assert (encoded.maps, encoded.patches.shape, encoded.patch_mask.shape) == (None, (6, 0, 0), (6, 0))
    model.eval()
    images, reports = model.embed_pairs(batch, model.encode_images(batch).pooled)
    torch.testing.assert_close((encoded.images, encoded.reports), (images, reports))
    assert not encoded.images.requires_grad
    of_host = encode(host(), [batch], device="cpu")
    assert (of_host.images, of_host.reports) == (None, None)


def test_patches_know_their_place():
    encoded = encode(encoder(), batches(samples(), 6), device="cpu")
    rows, columns = encoded.grid
    expected = [
        [row / max(1, rows - 1), column / max(1, columns - 1), view]
        for view in range(2)
        for row in range(rows)
        for column in range(columns)
    ]
    for study in range(6):
        torch.testing.assert_close(encoded.located_patches[study, :, -3:], torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(encoded.located_patches[..., :-3], encoded.patches)


def test_a_split_without_studies_is_refused():
    with pytest.raises(UserError, match="Expected studies in each split"):
        encode(encoder(), [], device="cpu")


def test_texts_are_the_mean_of_their_words():
    texts = ["is there a nodule?", "on which side is the pneumothorax?"]
    plugged = HardNegativeReportGenerator(
        **parts(),
        backbone=partial(TransformerDecoder, width=32, heads=2, layers=1),
        hard_negatives=partial(HardNegativeObjective, width=8),
        report_feature="text_only",
        decoding=Decoding(max_length=8),
    )
    bare = host()
    for model, encode_reports in (
        (encoder(), lambda model: model.text),
        (plugged.eval(), lambda model: model.decoder.text_states),
        (bare, lambda model: model.decoder.word_embeddings),
    ):
        features = text_features(model, texts)
        for row, text in enumerate(texts):
            tokens = torch.tensor([TOKENIZER.encode(text)])
            torch.testing.assert_close(features[row], encode_reports(model)(tokens)[0].mean(0).detach())


def maps_of(kind):
    model = encoder(kind)
    (batch,) = batches(samples(), 6)
    with torch.no_grad():
        return model, batch, finding_maps(model, batch, model.encode_images(batch), KNOWLEDGE)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_maps_are_of_every_finding_and_patch_and_zero_where_a_view_is_missing(kind):
    _, _, maps = maps_of(kind)
    assert maps.shape == (6, FINDINGS, 2 * PATCHES)
    assert maps[1, :, PATCHES:].eq(0).all()
    assert maps[4, :, PATCHES:].eq(0).all()
    if kind == "cosine":
        assert maps.abs().max() <= 1 + 1e-5
        assert maps.min() < 0
    else:
        torch.testing.assert_close(maps.sum(-1), torch.ones(6, FINDINGS))
        assert maps.min() >= 0
    assert not torch.allclose(maps[0, 0], maps[0, 1])
    assert not torch.allclose(maps[0, 0], maps[2, 0])


@torch.no_grad()
def test_a_map_of_cosines_is_that_of_each_patch_with_the_sentences():
    model, batch, maps = maps_of("cosine")
    patches, sentences = model.encode_images(batch).patches, list(KNOWLEDGE.wordings().values())
    for finding in (0, 5):
        stated = normalize(model.embed_texts(sentences[finding][0]).mean(0), dim=0)
        for row, patch in ((0, 3), (1, 2), (2, 11)):
            embedded = normalize(model.hard_negatives.image_head(patches[row, patch]), dim=0)
            torch.testing.assert_close(maps[row, finding, patch], embedded @ stated)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["words", "words alike"])
def test_a_map_of_words_is_where_they_look_by_their_importance(kind):
    model, batch, maps = maps_of(kind)
    features, objective = model.encode_images(batch), model.hard_negatives
    for finding, row in ((0, 0), (5, 1)):
        there = features.patch_mask[row]
        looks = []
        for sentence in list(KNOWLEDGE.wordings().values())[finding][0]:
            tokens, _ = model.tokenize([sentence])
            words = model.encode_reports(tokens)
            of_words, of_regions = objective.parts(
                PairEmbeddings(
                    images=features.pooled[row : row + 1],
                    reports=words.mean(1),
                    regions=features.patches[row : row + 1, there],
                    words=words,
                )
            )
            looked = objective.scores.attention(of_words, of_regions)[0]
            weights = objective.scores.word_importance(of_words, of_regions)
            weights = torch.full(words.shape[1:2], 1 / words.shape[1]) if weights is None else weights[0]
            looks.append(weights @ looked)
        assert len(looks) > 1
        torch.testing.assert_close(maps[row, finding, there], torch.stack(looks).mean(0))


@torch.no_grad()
def test_a_grounded_model_is_asked_by_the_names_of_findings():
    model, batch, maps = maps_of("grounded")
    seen = model.visual.extractor(batch["images"], batch["view_mask"])
    attention = model.visual.grounding.attention(Patches(seen.patches, seen.patch_mask, seen.grid, None))
    prompts = [(prompt.entity, prompt.position) for prompt in KNOWLEDGE.prompts]
    for finding, name in enumerate(entity_names(KNOWLEDGE)):
        assert torch.equal(maps[:, finding], attention[:, prompts.index((name, None))])

    class Turned(PhantomKnowledge):
        prompts = PhantomKnowledge().prompts[::-1]

    turned = finding_maps(model, batch, model.encode_images(batch), Turned())
    torch.testing.assert_close(turned, maps.flip(1))
    with pytest.raises(UserError, match=r"the data ask for 'airspace disease'.*trained to look for cardiomegaly"):
        finding_maps(model, batch, model.encode_images(batch), _Chest())


class _Chest(ChestXray):
    """Names that the phantom has not, first."""

    prompts = tuple(prompt for prompt in ChestXray().prompts if prompt.entity == "airspace disease")


def test_a_bare_host_does_not_say_where_it_looks():
    (batch,) = batches(samples(), 6)
    model = host()
    with pytest.raises(UserError, match="bare host: train with model=hard_negatives or model=pretrain"):
        finding_maps(model, batch, model.encode_images(batch), KNOWLEDGE)


def test_words_of_a_pair_count_once_however_long_the_batch():
    model = encoder()
    tokens, mask = model.tokenize(["a nodule", "there is a small left pleural effusion"])
    alone = model.tokenize(["a nodule"])
    torch.testing.assert_close(
        masked_mean(model.encode_reports(tokens), mask[:, 1:])[0],
        masked_mean(model.encode_reports(alone[0]), alone[1][:, 1:])[0],
    )


def test_patches_of_a_view_that_is_not_square_keep_their_places():
    patches = torch.arange(2 * 12.0).view(1, 12, 2)  # two views of 2 rows of 3 columns
    features = FrozenFeatures(
        ["a"], ["clear ."], pooled=patches.mean(1), patches=patches, patch_mask=torch.ones(1, 12).bool(), grid=(2, 3)
    )
    for row in range(2):
        for column in range(3):
            patch = patches[0, 3 * row + column]
            assert torch.equal(features.first_view[0, :, row, column], patch)
            expected = [*patch.tolist(), row, column / 2, 0]
            assert features.located_patches[0, 3 * row + column].tolist() == expected
            assert features.located_patches[0, 6 + 3 * row + column, 2:].tolist() == [row, column / 2, 1]
