"""GK-MVLP's objective: its terms against plain loops, and what must not change them."""

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin import PairEmbeddings
from hardneg_plugin.data.phantom import PhantomKnowledge
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.entity_losses import draw_negatives, entity_loss, statement_loss
from hardneg_plugin.grounding import Cells, Grounding, Learned, Patches
from hardneg_plugin.objectives import GroundedKnowledgeObjective, HardNegativeObjective, Triplet
from hardneg_plugin.objectives.local_features import LocalFeatures
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress

LATE = TrainingProgress(step=50, epoch=5, fraction=0.5)
KNOWLEDGE = PhantomKnowledge()
PROMPTS = len(KNOWLEDGE.prompts)
OWN = partial(Grounding, width=8, heads=2, regions=partial(Learned, count=3))
ABLATIONS = [
    {},
    {"pair_matching_weight": 0.0},
    {"entity_weight": 0.0},
    {"statement_weight": 0.0},
    {"pair_matching_weight": 0.0, "entity_weight": 0.0, "statement_weight": 0.0},
    {"grounding": None, "entity_width": 9},
    {"layers": 2, "alignment": Triplet()},
]

STATEMENTS = torch.randn(2, PROMPTS, 5, generator=torch.Generator().manual_seed(7))


def pairs(studies=5, seed=0, **fields):
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, requires_grad=True)

    words = torch.randint(1, 7, (studies,), generator=random)
    regions = torch.randint(1, 5, (studies,), generator=random)
    given = {
        "images": draw(studies, 7),
        "reports": draw(studies, 5),
        "regions": draw(studies, 4, 7),
        "region_mask": torch.arange(4) < regions[:, None],
        "words": draw(studies, 6, 5),
        "word_mask": torch.arange(6) < words[:, None],
        "entities": draw(studies, PROMPTS, 9),
        "facts": torch.randint(-1, 2, (studies, PROMPTS), generator=random),
        "study_ids": list(range(studies)),
    }
    return PairEmbeddings(**{**given, **fields})


def objective(**options):
    torch.manual_seed(0)
    arguments = {
        "image_width": 7,
        "report_width": 5,
        "width": 8,
        "heads": 2,
        "knowledge": KNOWLEDGE,
        "grounding": OWN,
        "centred": False,
        "schedule": Constant(warmup=0.0),
    }
    made = GroundedKnowledgeObjective(**{**arguments, **options})
    if made.parts is not None:
        # as after training: at the start words have no neighbours
        torch.nn.init.normal_(made.parts.phrases.weight, std=0.3)
    return made


def pair_matching_by_hand(loss, batch):
    """Pair by pair, without padding."""
    embedded = loss._embed(batch, LATE)
    words, regions = loss.parts(batch)
    scale = loss._scales_of_this_step()[0]
    noise = torch.empty(2, 5, 5).exponential_(generator=torch.Generator().manual_seed(LATE.step))

    def score(report, image):
        pick = [
            LocalFeatures(part.features[[i]][:, part.mask[i]], part.mask[[i]][:, part.mask[i]], part.whole[[i]])
            for part, i in ((words, report), (regions, image))
        ]
        return loss.pair_matching.encoder(*pick)[0]

    to_report, _ = draw_negatives(scale * embedded.images @ embedded.reports.T, embedded.is_match, noise[0])
    to_image, _ = draw_negatives(scale * embedded.reports @ embedded.images.T, embedded.is_match, noise[1])
    total = 0.0
    for i in range(5):
        total = total - score(i, i).sigmoid().log()
        total = total - (1 - score(int(to_report[i]), i).sigmoid()).log()
        total = total - (1 - score(i, int(to_image[i])).sigmoid()).log()
        assert not embedded.is_match[i, to_report[i]]
        assert not embedded.is_match[i, to_image[i]]
    return total / 15


def test_the_loss_is_the_sum_of_its_terms():
    weights = {"pair_matching_weight": 0.5, "entity_weight": 2.0, "statement_weight": 3.0}
    loss, batch = objective(**weights), pairs(labels=["a", "b", "a", "c", "d"])
    plain = HardNegativeObjective(image_width=7, report_width=5, width=8, centred=False, schedule=Constant(warmup=0.0))
    state = {name: value for name, value in loss.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(state)
    found = loss.grounding(Patches(batch.regions, batch.region_mask, None))
    entities = entity_loss(loss.entity(found)[..., 0], batch.facts).mean()
    images, _ = loss.project(batch)
    statements = F.normalize(loss.report_head(STATEMENTS), dim=-1)
    stated = statement_loss(images, statements, batch.facts, loss.is_swap, logit_scale=loss._scales_of_this_step()[0])
    expected = (
        plain(batch, LATE).alignment_loss
        + 0.5 * pair_matching_by_hand(loss, batch)
        + 2.0 * entities
        + 3.0 * stated.mean()
    )
    output = loss(batch, LATE, STATEMENTS)
    torch.testing.assert_close(output.alignment_loss, expected)
    torch.testing.assert_close(output.logs["entity_loss"], entities)
    torch.testing.assert_close(output.logs["statement_loss"], stated.mean())


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
@pytest.mark.parametrize("progress", [LATE, TrainingProgress(step=0, epoch=0, fraction=0.0)], ids=["late", "warm-up"])
def test_every_parameter_gets_a_gradient(options, progress):
    loss = objective(**{"schedule": Constant(warmup=0.1), **options})
    loss(pairs(), progress, STATEMENTS).alignment_loss.backward()
    for name, parameter in loss.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        learns = parameter.grad.abs().sum() > 0
        assert learns == (progress == LATE) or name.endswith("in_proj_bias"), name


@pytest.mark.parametrize(
    "fields",
    [
        {"studies": 1},
        {"texts": ["same"] * 5},
        {"facts": torch.full((5, PROMPTS), -1)},
        {"word_mask": torch.zeros(5, 6, dtype=torch.bool), "region_mask": torch.zeros(5, 4, dtype=torch.bool)},
    ],
    ids=["one study", "all match", "nothing known", "no words, no regions"],
)
def test_what_cannot_be_contrasted_is_left_out_with_a_gradient(fields):
    loss, batch = objective(), pairs(**fields)
    value = loss(batch, LATE, STATEMENTS).alignment_loss
    value.backward()
    assert value.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


@pytest.mark.parametrize("filling", [0.0, 1e9, float("nan"), float("inf")])
def test_what_is_under_the_masks_changes_nothing(filling):
    loss, batch = objective(), pairs()
    expected = loss(batch, LATE, STATEMENTS).alignment_loss
    filled = replace(
        batch,
        words=F.pad(batch.words, (0, 0, 0, 2)).masked_fill(~F.pad(batch.word_mask, (0, 2))[..., None], filling),
        word_mask=F.pad(batch.word_mask, (0, 2)),
        regions=batch.regions.masked_fill(~batch.region_mask[..., None], filling),
    )
    torch.testing.assert_close(loss(filled, LATE, STATEMENTS).alignment_loss, expected)


def test_the_global_generator_stays_where_it_was():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    loss = GroundedKnowledgeObjective(
        image_width=7, report_width=5, width=8, heads=2, knowledge=KNOWLEDGE, grounding=OWN
    )
    assert torch.equal(torch.get_rng_state(), before)
    loss(pairs(), LATE, STATEMENTS)
    assert torch.equal(torch.get_rng_state(), before)


def test_statements_are_those_of_the_prompts_denials_first():
    texts = objective().statement_texts
    assert texts[:2] == ["there is no cardiomegaly", "there is no pleural effusion"]
    assert texts[PROMPTS] == "there is cardiomegaly"
    assert len(texts) == 2 * PROMPTS
    assert list(objective(statement_weight=0.0).statement_texts) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"facts": None}, "facts="),
        ({"facts": torch.zeros(5, 3)}, r"\(5, 3\)"),
        ({"regions": None, "region_mask": None}, "regions="),
        ({"words": None, "word_mask": None}, "words="),
    ],
    ids=["no facts", "other facts", "no regions", "no words"],
)
def test_what_the_host_does_not_give_is_told(fields, said):
    with pytest.raises(ValueError, match=said):
        objective()(replace(pairs(), **fields), LATE, STATEMENTS)


@pytest.mark.parametrize("statements", [None, STATEMENTS[:, 1:]], ids=["none", "of other prompts"])
def test_a_host_that_was_to_give_statements_is_told(statements):
    with pytest.raises(
        ValueError, match=r"features \(2, \d+, D_r\) of the objective's statement_texts.*embed_statements"
    ):
        objective()(pairs(), LATE, statements)


@pytest.mark.parametrize(
    ("weight", "fields", "statements"),
    [
        ("pair_matching_weight", {"words": None, "word_mask": None}, STATEMENTS),
        ("entity_weight", {"entities": None}, STATEMENTS),
        ("statement_weight", {}, None),
    ],
)
def test_a_term_that_is_left_out_asks_nothing_of_the_host(weight, fields, statements):
    loss = objective(**{weight: 0.0})
    output = loss(replace(pairs(), **fields), LATE, statements)
    assert output.alignment_loss.isfinite()
    assert f"{weight.removesuffix('_weight')}_loss" not in output.logs
    assert len([name for name in output.logs if name.endswith("_loss")]) == 3  # the global one, and two terms


def test_a_host_that_was_to_give_entities_is_told():
    with pytest.raises(ValueError, match="entities="):
        objective(grounding=None, entity_width=9)(replace(pairs(), entities=None), LATE, STATEMENTS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pair_matching_weight": -1.0}, "pair_matching_weight >= 0"),
        ({"heads": 3}, "heads that divide"),
        ({"layers": 0}, "layers >= 1"),
        ({"entity_width": 9}, "either grounding"),
        ({"grounding": None}, "either grounding"),
    ],
    ids=str,
)
def test_settings_that_contradict_are_told(options, said):
    with pytest.raises(UserError, match=said):
        objective(**options)


def test_cells_need_a_grid():
    loss = objective(grounding=partial(Grounding, width=8, heads=2, regions=Cells(2, 2)))
    assert loss(replace(pairs(), grid=(2, 2)), LATE, STATEMENTS).alignment_loss.isfinite()
    with pytest.raises(UserError, match="learned"):
        loss(pairs(), LATE, STATEMENTS)
