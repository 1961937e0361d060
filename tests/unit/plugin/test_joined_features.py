"""Features of the parts of a batch, joined: field by field, and against the batch that was split."""

from dataclasses import fields, replace

import pytest
import torch

from hardneg_plugin import PairEmbeddings
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.plugin.joined_features import join_pairs, pooled_only


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def whole(studies=5, has_negatives=True):
    """All fields; words and regions are masked at their ends."""
    lengths = torch.arange(studies) % 3 + 2
    return PairEmbeddings(
        images=drawn(studies, 3),
        reports=drawn(studies, 4),
        study_ids=[f"study {i}" for i in range(studies)],
        texts=["a", "b"] * (studies // 2) + ["a"] * (studies % 2),
        regions=drawn(studies, 6, 3),
        region_mask=torch.arange(6) < lengths[:, None],
        words=drawn(studies, 7, 4),
        word_mask=torch.arange(7) < lengths[:, None] + 1,
        grid=(2, 3),
        entities=drawn(studies, 2, 8),
        facts=drawn(studies, 2),
        negatives=whole(2 * studies, False) if has_negatives else None,
    )


def rows(pairs, start, stop):
    """The studies of a part, with words and regions no longer than the longest of them."""
    given = {}
    for field in fields(pairs):
        value = getattr(pairs, field.name)
        given[field.name] = value[start:stop] if isinstance(value, torch.Tensor | MatchKeys) else value
    for features, mask in (("regions", "region_mask"), ("words", "word_mask")):
        longest = int(given[mask].sum(1).max())
        given[features], given[mask] = given[features][:, :longest], given[mask][:, :longest]
    negatives = None if pairs.negatives is None else rows(pairs.negatives, 2 * start, 2 * stop)
    return PairEmbeddings(**{**given, "negatives": negatives})


def assert_same(one, other):
    for field in fields(one):
        got, expected = getattr(one, field.name), getattr(other, field.name)
        if isinstance(expected, PairEmbeddings):
            assert_same(got, expected)
        elif isinstance(expected, MatchKeys):
            assert torch.equal(got.columns, expected.columns)
            assert got.has_study_ids == expected.has_study_ids
        elif field.name in ("regions", "words"):
            mask = getattr(one, {"regions": "region_mask", "words": "word_mask"}[field.name])
            assert torch.equal(got, expected[:, : got.shape[1]] * mask[:, :, None]), field.name
        elif field.name in ("region_mask", "word_mask"):
            assert torch.equal(got, expected[:, : got.shape[1]]), field.name
            assert not expected[:, got.shape[1] :].any()
        elif isinstance(expected, torch.Tensor):
            assert torch.equal(got, expected), field.name
        else:
            assert got == expected, field.name


@pytest.mark.parametrize("has_negatives", [True, False])
def test_parts_joined_are_the_batch(has_negatives):
    batch = whole(has_negatives=has_negatives)
    for name, mask in (("regions", "region_mask"), ("words", "word_mask")):
        batch = replace(batch, **{name: getattr(batch, name) * getattr(batch, mask)[:, :, None]})
    parts = [rows(batch, 0, 1), rows(batch, 1, 3), rows(batch, 3, 5)]
    joined = join_pairs(parts)
    if has_negatives:
        negatives = batch.negatives
        for name, mask in (("regions", "region_mask"), ("words", "word_mask")):
            longest = getattr(joined.negatives, name).shape[1]
            kept = (getattr(negatives, name) * getattr(negatives, mask)[:, :, None])[:, :longest]
            shown = getattr(joined.negatives, name) * getattr(joined.negatives, mask)[:, :, None]
            assert torch.equal(shown, kept)
        joined, batch = replace(joined, negatives=None), replace(batch, negatives=None)
    assert_same(joined, batch)


def test_one_part_is_itself():
    batch = whole()
    assert join_pairs([batch]) is batch


def test_parts_of_one_length_need_no_mask_and_those_of_several_get_one():
    def part(studies, words, mask=None):
        return PairEmbeddings(drawn(studies, 3), drawn(studies, 4), words=drawn(studies, words, 4), word_mask=mask)

    assert join_pairs([part(1, 5), part(2, 5)]).word_mask is None
    assert join_pairs([part(1, 5), part(2, 5)]).words.shape == (3, 5, 4)
    assert join_pairs([part(1, 4), part(2, 5)]).word_mask.tolist() == [[True] * 4 + [False], [True] * 5, [True] * 5]
    mask = torch.tensor([[True, False, False, False, False]])
    joined = join_pairs([part(1, 5, mask), part(1, 5)])
    assert joined.word_mask.tolist() == [[True] + [False] * 4, [True] * 5]
    assert join_pairs([part(1, 5), part(1, 5)]).regions is None


def test_a_grid_is_kept_where_all_parts_have_the_same():
    batch = whole(has_negatives=False)
    first, second = rows(batch, 0, 2), rows(batch, 2, 5)
    assert join_pairs([first, second]).grid == (2, 3)
    assert join_pairs([first, replace(second, grid=(3, 2))]).grid is None
    assert join_pairs([first, replace(second, grid=None)]).grid is None


def test_studies_are_named_where_those_of_all_parts_are():
    named, unnamed = whole(1, False), PairEmbeddings(drawn(1, 3), drawn(1, 4))
    bare = PairEmbeddings(named.images, named.reports, match_keys=named.match_keys)
    assert join_pairs([bare, bare]).match_keys.has_study_ids
    assert not join_pairs([bare, unnamed]).match_keys.has_study_ids


@pytest.mark.parametrize("name", ["regions", "words", "entities", "facts", "negatives"])
def test_a_field_of_some_parts_is_refused(name):
    batch = whole()
    parts = [rows(batch, 0, 1), rows(batch, 1, 3), rows(batch, 3, 5)]
    masks = {"regions": {"region_mask": None}, "words": {"word_mask": None}}.get(name, {})
    parts[1] = replace(parts[1], **{name: None}, **masks)
    with pytest.raises(UserError, match=f"expected {name} of every part of the batch, but 1 of 3 have none"):
        join_pairs(parts)
    without = [replace(part, **{name: None}, **masks) for part in (parts[0], parts[2])]
    assert getattr(join_pairs(without), name) is None


def test_pooled_only_leaves_words_and_regions_out_of_paired_studies_too():
    batch = whole()
    left = pooled_only(batch)
    for pairs, before in ((left, batch), (left.negatives, batch.negatives)):
        assert pairs.images is before.images
        assert pairs.facts is before.facts
        assert pairs.match_keys is before.match_keys
        assert [pairs.regions, pairs.region_mask, pairs.words, pairs.word_mask, pairs.grid] == [None] * 5
