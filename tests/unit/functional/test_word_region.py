"""Word-region attention, vectors, reasoning and importance against plain loops over scalars."""

import math

import pytest
import torch

from hardneg_plugin.functional.word_region import importance, reason, word_region_attention, word_region_vectors


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(values):
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def product(matrix, vector):
    return [sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix]


def test_each_word_looks_where_the_cosine_is_high():
    words, regions = draw(3, 5), draw(4, 5, seed=1)
    mask = torch.tensor([True, True, False, True])
    found = word_region_attention(words, regions, scale=4.0, region_mask=mask)
    there = [0, 1, 3]
    for w in range(3):
        expected = softmax([4 * cosine(words[w].tolist(), regions[p].tolist()) for p in there])
        assert found[w][there].tolist() == pytest.approx(expected)
        assert found[w][2] == 0
    whole = word_region_attention(words, regions[there], scale=4.0)
    torch.testing.assert_close(found[:, there], whole)


def test_an_image_without_regions_is_looked_at_nowhere_and_has_a_finite_gradient():
    words, regions = draw(2, 5).requires_grad_(), draw(3, 5).requires_grad_()
    found = word_region_attention(words, regions, scale=4.0, region_mask=torch.zeros(3, dtype=torch.bool))
    assert found.abs().sum() == 0
    found.sum().backward()
    assert words.grad.isfinite().all()
    assert regions.grad.isfinite().all()


def test_word_region_vectors_are_unit_images_of_squared_differences():
    words, contexts, weight = draw(3, 5), draw(3, 5, seed=1), draw(4, 5, seed=2)
    found = word_region_vectors(words, contexts, weight)
    for w in range(3):
        squares = [(c - t) ** 2 for c, t in zip(contexts[w].tolist(), words[w].tolist(), strict=True)]
        image = product(weight.tolist(), squares)
        length = math.sqrt(sum(value * value for value in image))
        assert found[w].tolist() == pytest.approx([value / length for value in image])


def test_a_round_of_reasoning():
    nodes, query, key, value = draw(4, 3), *(draw(3, 3, seed=seed) for seed in (1, 2, 3))
    mask = torch.tensor([True, True, False, True])
    found = reason(nodes, mask, query, key, value)
    there = [0, 1, 3]
    for i in range(4):
        asked = product(query.tolist(), nodes[i].tolist())
        edges = softmax(
            [sum(a * b for a, b in zip(asked, product(key.tolist(), nodes[j].tolist()), strict=True)) for j in there]
        )
        mixed = [sum(edge * nodes[j][d].item() for edge, j in zip(edges, there, strict=True)) for d in range(3)]
        assert found[i].tolist() == pytest.approx([max(0.0, x) for x in product(value.tolist(), mixed)])


@pytest.mark.parametrize("learners", [1, 2])
def test_those_that_learn_learn_the_same_whether_or_not_the_others_do(learners):
    nodes, weights = draw(3, 4, 3).requires_grad_(), [draw(3, 3, seed=seed).requires_grad_() for seed in (1, 2, 3)]
    mask = torch.tensor([True, True, False, True])
    few = reason(nodes, mask, *weights, learners=learners)
    all_of_them = reason(nodes, mask, *weights)[:, :learners]
    torch.testing.assert_close(few, all_of_them)
    sought = [nodes, *weights]
    expected = torch.autograd.grad(all_of_them.square().sum(), sought)
    torch.testing.assert_close(torch.autograd.grad(few.square().sum(), sought), expected)


def test_importance_sums_to_one_over_the_words_that_are_there():
    scores = draw(2, 4)
    mask = torch.tensor([[True, True, True, False], [False] * 4])
    found = importance(scores, mask)
    odds = [1 / (1 + math.exp(-score)) for score in scores[0, :3].tolist()]
    assert found[0].tolist() == pytest.approx([*(o / sum(odds) for o in odds), 0])
    assert found[1].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("what", ["words and images", "their studies"])
def test_leading_dimensions_broadcast(what):
    words, regions, mask = draw(3, 6, 5), draw(2, 4, 5, seed=1), torch.ones(2, 4, dtype=torch.bool)
    mask[0, 2:] = False
    if what == "words and images":
        found = word_region_attention(words[:, None], regions[None], scale=2.0, region_mask=mask[None])
        assert found.shape == (3, 2, 6, 4)
    else:
        found = word_region_attention(words[:, None], regions[None, :1], scale=2.0, region_mask=mask[None, :1])
        assert found.shape == (3, 1, 6, 4)
    for c in range(found.shape[0]):
        for n in range(found.shape[1]):
            one = word_region_attention(words[c], regions[n], scale=2.0, region_mask=mask[n])
            torch.testing.assert_close(found[c, n], one)
