"""What an alignment knows of each study, against calls of the model's own functions for each study by itself."""

from functools import partial
from typing import get_args

import numpy as np
import pytest
import torch

from hardneg_plugin import HardNegativeObjective
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.phantom import PhantomKnowledge, PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.evaluation.inspection import inspect_split
from hardneg_plugin.grounding import Boxes, Cells, Grounding, Patches
from hardneg_plugin.knowledge import PRESENT
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator, ReportFeature
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.objectives import GroundedKnowledgeObjective, RelationEnhancedObjective

STUDIES = PhantomStudies(train=5, val=1, test=1, size=64, boxes=True).split("train")
TOKENIZER = WordTokenizer.from_reports(STUDIES.reports, min_count=2)  # some words are rare
KNOWLEDGE = PhantomKnowledge()
GROUPS = groups_of(STUDIES.reports, STUDIES.patients, STUDIES.labels)
STATED = {
    study: dict(zip(KNOWLEDGE.prompts, KNOWLEDGE.facts(report), strict=True))
    for study, report in zip(STUDIES.ids, STUDIES.reports, strict=True)
}
LONGEST = 24


def sample(index):
    """Every second study has but one view."""
    views = 1 if index % 2 else 2
    return {**STUDIES[index], **{name: STUDIES[index][name][:views] for name in ("images", "boxes")}}


def batches(size):
    collate = StudyCollator(TOKENIZER, LONGEST)
    rows = range(len(STUDIES))
    return [collate([sample(i) for i in rows[start : start + size]]) for start in range(0, len(STUDIES), size)]


REFERENCES = {batch["ids"][0]: batch["references"][0] for batch in batches(1)}


def generator(kind=HardNegativeReportGenerator, **more):
    torch.manual_seed(0)
    return kind(
        visual=VisualExtractor("resnet10t", options={"channels": [8, 8, 16, 16], "stem_width": 8}),
        backbone=partial(TransformerDecoder, width=32, heads=2, layers=1),
        tokenizer=TOKENIZER,
        optimizer=torch.optim.AdamW,
        **more,
    )


def relating(feature="word_embeddings", **options):
    objective = partial(RelationEnhancedObjective, width=8, word_region_width=4, **options)
    return generator(hard_negatives=objective, report_feature=feature)


def grounded(regions=None, **options):
    return generator(
        hard_negatives=partial(
            GroundedKnowledgeObjective, width=8, knowledge=KNOWLEDGE, **{"entity_width": 8, **options}
        ),
        grounding=partial(Grounding, knowledge=KNOWLEDGE, width=8, heads=2, regions=regions or Cells(2, 2)),
    )


def inspect(model, stated=STATED):
    decoding = Decoding(max_length=4, beam_size=1)
    settings = {"decoding": decoding, "groups": GROUPS, "hardness": 0.5, "stated": stated}
    return list(inspect_split(model, batches(3), references=REFERENCES, **settings).values())


def close(found, own):
    """Whether bytes are those of maps (N, views, rows, columns), whose largest is 255."""
    return np.abs(found - (255 * own / own.amax((1, 2, 3), keepdim=True)).numpy()).max() <= 0.51


@pytest.mark.parametrize("feature", get_args(ReportFeature))
@torch.no_grad()
def test_readings_are_those_of_each_study_by_itself(feature):
    model = relating(feature)
    found = inspect(model)
    model.eval()
    for each, batch in zip(found, batches(1), strict=True):
        seen = model.encode_images(batch)
        states = model.decoder.states(seen.patches, batch["tokens"], patch_mask=seen.patch_mask)
        words, regions = model.hard_negatives.parts(model.embed(batch, {"visual": seen, "states": states}))
        weights = model.hard_negatives.scores.word_importance(words, regions)[0]
        looked = model.hard_negatives.scores.attention(words, regions)[0].unflatten(-1, (-1, *seen.grid))
        count = len(each.reading.words)
        assert count == int((batch["tokens"] != 0).sum())
        assert each.reading.words == batch["references"][0].split()[:count]  # rare ones by their own name
        assert each.reading.importance == pytest.approx(weights[:count].tolist(), abs=1e-5)
        assert sum(each.reading.importance) + float(weights[count:].sum()) == pytest.approx(1, abs=1e-5)
        assert each.reading.attention.shape[1] == batch["images"].shape[1]
        assert close(each.reading.attention, looked[:count])
        assert each.entities is None
    assert max(len(each.reading.words) for each in found) == LONGEST - 1  # cut
    assert any("<unk>" in batch["cut_references"][0] for batch in batches(1))
    assert len({weight for each in found for weight in each.reading.importance}) > 20


def test_words_that_are_not_weighed_look_somewhere_all_the_same():
    (first, *_) = inspect(relating(weigh_words=False))
    assert first.reading.importance is None
    assert len(first.reading.attention) == len(first.reading.words)


@pytest.mark.parametrize("regions", [Cells(2, 2), Boxes(8)], ids=["cells", "boxes"])
@torch.no_grad()
def test_entities_are_those_that_are_likely_or_stated_the_most_likely_first(regions):
    model = grounded(regions)
    found = inspect(model)
    model.eval()
    verdicts = set()
    for each, batch, report in zip(found, batches(1), STUDIES.reports, strict=True):
        seen = model.encode_images(batch)
        likely = model.hard_negatives.entity(seen.entities)[0, :, 0].sigmoid().tolist()
        maps = model.visual.grounding.attention(Patches(seen.patches, seen.patch_mask, seen.grid, batch["boxes"]))[0]
        maps = maps.unflatten(-1, (-1, *seen.grid))
        facts = KNOWLEDGE.facts(report)
        rows = [row for row, fact in enumerate(facts) if likely[row] > 0.5 or fact == PRESENT]
        rows.sort(key=lambda row: -likely[row])
        assert 0 < len(rows) < len(facts)
        assert [entity.phrase for entity in each.entities] == [KNOWLEDGE.prompts[row].phrase for row in rows]
        assert [entity.probability for entity in each.entities] == pytest.approx(
            [likely[row] for row in rows], abs=1e-5
        )
        assert [entity.fact for entity in each.entities] == [facts[row] for row in rows]
        assert close(np.stack([entity.attention for entity in each.entities]), maps[rows])
        assert {entity.attention.shape[0] for entity in each.entities} == {batch["images"].shape[1]}
        assert each.reading is None
        verdicts |= {entity.verdict for entity in each.entities}
    assert {"found and stated", "found, not stated", "stated, not found"} <= verdicts


def test_what_reports_state_may_not_be_known():
    found = inspect(grounded(), stated={})
    assert {entity.verdict for each in found for entity in each.entities} == {"found"}
    some = {STUDIES.ids[1]: {KNOWLEDGE.prompts[3]: PRESENT}}  # of one study, and of one prompt of it
    told = {entity.phrase: entity for entity in inspect(grounded(), stated=some)[1].entities}
    assert "stated" in told.pop(KNOWLEDGE.prompts[3].phrase).verdict
    assert {entity.verdict for entity in told.values()} <= {"found"}


@pytest.mark.parametrize(
    "make",
    [
        partial(generator, ReportGenerator),
        partial(generator, hard_negatives=partial(HardNegativeObjective, width=8)),
        partial(grounded, entity_weight=0.0),
    ],
    ids=["host", "hard_negatives", "no_entity_loss"],
)
def test_other_models_know_nothing_of_it(make):
    assert {(each.reading, each.entities) for each in inspect(make())} == {(None, None)}
