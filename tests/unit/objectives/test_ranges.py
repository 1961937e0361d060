"""The range of every number that a part of an objective takes: its ends are accepted, what lies beyond is refused by name."""

import math
from functools import partial

import pytest

from hardneg_plugin.data.phantom import PhantomKnowledge
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hardening import Arc, Ascent, Projection, Segment
from hardneg_plugin.grounding import Grounding, Learned
from hardneg_plugin.objectives import (
    Alternating,
    Bank,
    ByImage,
    ByText,
    EditMargin,
    GroundedKnowledgeObjective,
    HardNegativeObjective,
    Hinge,
    InBatch,
    InfoNCE,
    LikelihoodMargin,
    Paired,
    Queue,
    RelationEnhancedObjective,
    ReleasedAlignment,
    Triplet,
    Weights,
)
from hardneg_plugin.objectives.likelihood.negative_images import NegativeImages
from hardneg_plugin.objectives.likelihood.token_weights import ByEmphasis
from hardneg_plugin.objectives.schedule import Constant, Cosine, Exponential, Linear

SIZES = {"image_width": 3, "report_width": 2, "width": 4}
RECLF = partial(RelationEnhancedObjective, **SIZES)
GK_MVLP = partial(
    GroundedKnowledgeObjective,
    knowledge=PhantomKnowledge(),
    grounding=partial(Grounding, width=8, heads=2, regions=partial(Learned, count=2)),
    heads=1,
    **SIZES,
)
OF_ENTITIES = partial(GroundedKnowledgeObjective, knowledge=PhantomKnowledge(), heads=1, **SIZES)

JUST = 1e-9
COUNT = ([1, 2], [0, -1, 1.5, True])
WEIGHT = ([0, 0.5, 10], [-JUST])
ABOVE_ZERO = ([JUST, 1, 10], [0, -1])
HARDNESS = ([0, 1], [-JUST, 1 + JUST])
GUARD = ([0, 2 - JUST], [-JUST, 2])
ROWS = [
    (InfoNCE, "temperature", ([0.01, 1], [0.01 - JUST, 1 + JUST])),
    (ReleasedAlignment, "temperature", ([0.01, 1], [0.01 - JUST, 1 + JUST])),
    (InfoNCE, "negative_weight", WEIGHT),
    (InfoNCE, "hardened_weight", WEIGHT),
    (Triplet, "margin", ([JUST, 2], [0, 2 + JUST])),
    (Hinge, "margin", ([-1, 1 - JUST], [-1 - JUST, 1])),
    *((Weights, name, WEIGHT) for name in ("report", "alignment", "separation", "likelihood")),
    (Linear, "warmup", ([0, 1 - JUST], [-JUST, 1])),
    (partial(Linear, unit="epoch", end=100), "warmup", ([0, 1, 50], [-JUST])),
    (partial(Constant, unit="step"), "warmup", ([0, 1000], [-JUST])),
    *((schedule, "cap", HARDNESS) for schedule in (Constant, Exponential, Linear, Cosine)),
    (Constant, "hardness", HARDNESS),
    (Exponential, "rate", ABOVE_ZERO),
    (Linear, "peak", HARDNESS),
    (partial(Linear, warmup=0.5), "end", ([0.5 + JUST, 3], [0.5, 0.4])),
    *((source, "k", COUNT) for source in (InBatch, Queue, Bank, Paired)),
    *((partial(source, k=2), "pool", ([2, 3], [1, 2.5])) for source in (InBatch, Queue, Bank)),
    *((source, "ceiling", ([-1 + JUST, 1], [-1, 1 + JUST])) for source in (InBatch, Queue, Bank)),
    (Queue, "size", ([1, 65_536], [0, 65_537, 2.5])),
    (Bank, "refresh_every", COUNT),
    *((hardening, "margin", GUARD) for hardening in (Arc, Segment, Projection, Ascent, Alternating)),
    (Ascent, "steps", ([0, 1], [-1, 0.5])),
    (Alternating, "steps", COUNT),
    *((hardening, "step_size", ABOVE_ZERO) for hardening in (Ascent, Alternating)),
    (ByImage, "scale", WEIGHT),
    (ByImage, "limit", ABOVE_ZERO),
    (ByImage, "margin", WEIGHT),
    (ByImage, "k", COUNT),
    (ByText, "scale", WEIGHT),
    (ByText, "k", COUNT),
    (ByEmphasis, "scale", WEIGHT),
    (NegativeImages, "k", COUNT),
    (partial(NegativeImages, "mean_image"), "k", ([1], [2, 0])),
    (LikelihoodMargin, "k", COUNT),
    *((margin, "beta", ABOVE_ZERO) for margin in (LikelihoodMargin, EditMargin)),
    *((margin, "margin", WEIGHT) for margin in (LikelihoodMargin, EditMargin)),
    (EditMargin, "changes", COUNT),
    *((partial(HardNegativeObjective, **SIZES), name, COUNT) for name in SIZES),
    (RECLF, "word_region_width", COUNT),
    (RECLF, "rounds", ([0, 1], [-1, 0.5])),
    (RECLF, "chunk", COUNT),
    (RECLF, "local_weight", WEIGHT),
    (RECLF, "negative_weight", WEIGHT),
    (RECLF, "attention_scale", ABOVE_ZERO),
    (RECLF, "score_scale", ABOVE_ZERO),
    *((GK_MVLP, f"{name}_weight", WEIGHT) for name in ("pair_matching", "entity", "statement")),
    (GK_MVLP, "width", COUNT),
    (partial(GK_MVLP, width=4), "heads", ([1, 2, 4], [0, -1, 3, 1.0])),
    (GK_MVLP, "layers", COUNT),
    (OF_ENTITIES, "entity_width", COUNT),
]


def named(make, option):
    base, given = (make.func, make.keywords) if isinstance(make, partial) else (make, {})
    return f"{base.__name__}.{option} {given.get('unit', '')}".strip()


@pytest.mark.parametrize(("make", "option", "values"), ROWS, ids=[named(make, option) for make, option, _ in ROWS])
def test_ends_are_accepted_and_what_lies_beyond_is_refused_by_name(make, option, values):
    accepted, refused = values
    for value in accepted:
        make(**{option: value})
    for value in [*refused, math.nan, math.inf, -math.inf, "1", [1]]:
        with pytest.raises(UserError) as error:
            make(**{option: value})
        assert option in str(error.value)
