"""The grounded-knowledge module: what each kind of regions gives, what must not change it, and the formula by hand."""

from functools import partial

import pytest
import torch

from hardneg_plugin.data.phantom import PhantomKnowledge
from hardneg_plugin.errors import UserError
from hardneg_plugin.grounding import Boxes, Cells, Grounding, Learned, Patches

KNOWLEDGE = PhantomKnowledge()
PROMPTS = len(KNOWLEDGE.prompts)
REGIONS = {
    "cells": Cells,
    "odd cells": partial(Cells, 2, 5),
    "boxes": partial(Boxes, 4),
    "learned": lambda: partial(Learned, count=5),
}


def patches(studies=3, views=2, grid=(3, 3), width=12, boxes=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    count = views * grid[0] * grid[1]
    mask = torch.ones(studies, count, dtype=torch.bool)
    mask[1, count // views :] = False  # one view only
    features = torch.randn(studies, count, width, generator=random)
    if boxes:
        corners = torch.rand(studies, views, boxes, 2, 2, generator=random).sort(-2).values
        boxes = corners.flatten(-2)
        boxes[0, 0, 0] = torch.nan
        boxes[1, 1:] = torch.nan
    return Patches(features, mask, grid, boxes)


def grounding(kind, **options):
    torch.manual_seed(0)
    return Grounding(12, knowledge=KNOWLEDGE, **{"width": 8, "heads": 2, "regions": REGIONS[kind](), **options})


def given(kind, **options):
    return patches(boxes=4 if kind == "boxes" else None, **options)


@pytest.mark.parametrize("kind", REGIONS)
def test_weights_of_regions_are_of_one_view_and_of_what_is_there(kind):
    module, seen = grounding(kind), given(kind)
    weights, kinds = module.regions(seen)
    assert weights.shape == (3, len(kinds), 18)
    assert kinds.max() == module.regions.kinds - 1
    totals = weights.sum(-1)
    assert ((totals - 1).abs() < 1e-5).logical_or(totals == 0).all()
    assert weights[1, :, 9:].abs().sum() == 0
    if kind != "learned":
        assert ((weights[..., :9].sum(-1) == 0) | (weights[..., 9:].sum(-1) == 0)).all()


@pytest.mark.parametrize("kind", REGIONS)
def test_attention_is_over_the_patches_that_are_there(kind):
    module, seen = grounding(kind), given(kind)
    maps = module.attention(seen)
    assert maps.shape == (3, PROMPTS, 18)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, PROMPTS))
    assert maps[1, :, 9:].abs().sum() == 0


@pytest.mark.parametrize("filling", [0.0, 1e9, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", REGIONS)
def test_batch_mates_and_missing_patches_change_nothing(kind, filling):
    module, seen = grounding(kind), given(kind)
    expected = module(seen)
    assert expected.isfinite().all()
    filled = seen._replace(features=seen.features.masked_fill(~seen.mask[..., None], filling))
    torch.testing.assert_close(module(filled), expected)
    for study in range(3):
        alone = Patches(*(part if part is seen.grid or part is None else part[study : study + 1] for part in filled))
        torch.testing.assert_close(module(alone)[0], expected[study])


@pytest.mark.parametrize("kind", REGIONS)
def test_every_parameter_gets_a_gradient(kind):
    module = grounding(kind)
    module(given(kind)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_one_head_by_hand():
    module, seen = grounding("cells", heads=1), given("cells")
    weights, kinds = module.regions(seen)
    regions = module.region_norm(module.project(weights @ seen.features) + module.kind.weight[kinds])
    phrases = [prompt.phrase.split() for prompt in KNOWLEDGE.prompts]
    vocabulary = sorted({word for phrase in phrases for word in phrase})
    queries = torch.stack(
        [
            torch.stack([module.embedding.weight[1 + vocabulary.index(word)] for word in phrase]).mean(0)
            for phrase in phrases
        ]
    )
    w_q, w_k, w_v = module.look.in_proj_weight.chunk(3)
    b_q, b_k, b_v = module.look.in_proj_bias.chunk(3)
    for study in range(3):
        there = weights[study].sum(-1) > 0
        q = module.query_norm(queries) @ w_q.T + b_q
        k, v = (regions[study][there] @ w.T + b for w, b in ((w_k, b_k), (w_v, b_v)))
        seen_of = module.look.out_proj((q @ k.T / 8**0.5).softmax(-1) @ v)
        found = queries + seen_of
        torch.testing.assert_close(module(seen)[study], module.norm(found + module.think(found)))


def test_boxes_of_a_study_without_any_are_its_views():
    module, seen = grounding("boxes"), given("boxes")
    without = seen._replace(boxes=torch.full_like(seen.boxes, torch.nan))
    torch.testing.assert_close(module(seen._replace(boxes=None)), module(without))
    weights, kinds = module.regions(without)
    assert (weights.sum(-1) > 0).equal(
        (kinds == 4).expand(3, -1) & torch.tensor([[1] * 10, [1] * 5 + [0] * 5, [1] * 10]).bool()
    )


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (patches()._replace(grid=None), "learned"),
        (patches()._replace(grid=(4, 4)), "whole views of 4 x 4"),
        (patches(boxes=3), r"\(3, 2, 4, 4\)"),
    ],
    ids=["no grid", "not whole views", "other boxes"],
)
def test_what_cannot_be_grounded_is_told(seen, said):
    with pytest.raises(UserError, match=said):
        grounding("boxes")(seen)


@pytest.mark.parametrize("options", [{"width": 6, "heads": 4}, {"width": 0}, {"heads": 0}], ids=str)
def test_widths_that_do_not_fit_are_told(options):
    with pytest.raises(UserError, match="multiple of heads"):
        grounding("cells", **options)


def test_cells_below_one_are_told():
    with pytest.raises(UserError, match=">= 1, but got"):
        Cells(0, 3)
