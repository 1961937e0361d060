"""Matches and nearest reports against brute force."""

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.hard_negatives import match_mask, mine, most_similar, nearest_reports
from hardneg_plugin.functional.match_keys import UNKNOWN, MatchKeys, match_key, token_keys
from hardneg_plugin.functional.pooling import masked_mean


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_match_mask_is_the_plain_comparison():
    keys = torch.randint(-1, 3, (20, 4), generator=torch.Generator().manual_seed(0))
    others = torch.randint(-1, 3, (30, 4), generator=torch.Generator().manual_seed(1))
    expected = [
        [any(a == b != UNKNOWN for a, b in zip(row, other, strict=True)) for other in others.tolist()]
        for row in keys.tolist()
    ]
    assert match_mask(keys, others).tolist() == expected
    assert any(map(any, expected))
    assert not all(map(all, expected))


def test_unknown_matches_nothing_not_even_itself():
    unknown = torch.full((3, 4), UNKNOWN)
    assert not match_mask(unknown, unknown).any()


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("ceiling", [1.0, 0.4])
def test_nearest_reports_is_brute_force(k, ceiling):
    u, candidates = unit(25, 6, seed=1), unit(40, 6, seed=2)
    is_match = torch.rand(25, 40, generator=torch.Generator().manual_seed(3)) < 0.2
    index, valid = nearest_reports(u, candidates, is_match, k=k, ceiling=ceiling)
    for i in range(25):
        similarity = (candidates @ u[i]).tolist()
        allowed = [j for j in range(40) if not is_match[i, j] and similarity[j] <= ceiling]
        expected = sorted(allowed, key=lambda j: -similarity[j])[:k]
        assert index[i][valid[i]].tolist() == expected


def test_too_few_candidates_are_marked_invalid():
    u = unit(3, 6)
    index, valid = nearest_reports(u, u, torch.eye(3, dtype=torch.bool), k=5)
    assert valid.tolist() == [[True, True, False, False, False]] * 3
    assert (index[~valid] == 0).all()
    _, valid = nearest_reports(u, u, torch.ones(3, 3, dtype=torch.bool), k=2)
    assert not valid.any()


def test_equal_reports_pass_the_default_ceiling_though_rounding_lifts_their_cosine():
    u = unit(200, 512)
    _, valid = nearest_reports(u, u.clone(), torch.zeros(200, 200, dtype=torch.bool))
    assert valid.all()


def test_sampling_from_a_pool_draws_all_of_it_and_nothing_else_without_repeats():
    u, candidates = unit(4, 6, seed=1), unit(30, 6, seed=2)
    no_match = torch.zeros(4, 30, dtype=torch.bool)
    nearest, _ = nearest_reports(u, candidates, no_match, k=5)
    drawn = [nearest_reports(u, candidates, no_match, k=2, pool=5)[0] for _ in range(100)]
    for i in range(4):
        assert {j for index in drawn for j in index[i].tolist()} == set(nearest[i].tolist())
    assert all(a != b for index in drawn for a, b in index.tolist())


def test_sampling_prefers_valid_ones():
    u = unit(3, 6)
    is_match = torch.ones(3, 3, dtype=torch.bool)
    is_match[:, 0] = False
    for _ in range(20):
        index, valid = nearest_reports(u, u, is_match, k=1, pool=3)
        assert valid.all()
        assert (index == 0).all()


def test_token_keys_tell_rows_apart_and_ignore_padding():
    rows = torch.randint(1, 50, (2000, 12), generator=torch.Generator().manual_seed(0))
    keys = token_keys(rows)
    assert len(set(keys.tolist())) == len({tuple(row) for row in rows.tolist()})
    assert torch.equal(keys, token_keys(F.pad(rows, (0, 7))))
    assert (keys >= 0).all()


def test_match_keys_are_stable_and_non_negative():
    assert match_key("CXR1") == 2210186589030516655  # the same in every process and on every machine
    assert match_key("") != match_key(" ")
    assert match_key(None) == UNKNOWN


def test_masked_mean_ignores_what_is_masked_even_if_infinite():
    x = torch.randn(3, 5, 2)
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]).bool()
    x[0, 3] = torch.inf
    mean = masked_mean(x, mask)
    torch.testing.assert_close(mean[0], x[0, :2].mean(0))
    torch.testing.assert_close(mean[1], x[1].mean(0))
    assert torch.equal(mean[2], torch.zeros(2))
    with pytest.raises(ValueError, match=r"\(B, T, D\)"):
        masked_mean(x, mask[:, :4])


def test_match_keys_name_their_columns_and_say_who_is_known():
    keys = MatchKeys.of(2, study_ids=["a", "b"], labels=torch.tensor([4, -1]))
    assert keys.study.tolist() == [match_key("a"), match_key("b")]
    assert keys.columns[:, 1:].tolist() == [[-1, -1, 4], [-1, -1, -1]]
    assert keys[1:].study.tolist() == [match_key("b")]
    keys.require_study_ids("x")
    with pytest.raises(UserError, match=r"negatives=queue needs to know the studies.*study_ids"):
        MatchKeys.of(2, texts=["a", "b"])[:1].require_study_ids("negatives=queue")


@pytest.mark.parametrize(
    ("keys", "candidates"),
    [((3, 2, 2), (4, 2)), ((3, 2), (4, 2, 2)), ((3, 2, 1), (4, 2, 1)), ((3, 2), (4, 1))],
    ids=str,
)
def test_keys_of_other_shapes_are_refused(keys, candidates):
    with pytest.raises(ValueError, match="Expected `keys`"):
        match_mask(torch.zeros(keys, dtype=torch.int64), torch.zeros(candidates, dtype=torch.int64))


@pytest.mark.parametrize(("k", "pool"), [(0, None), (2, 1), (0, 3)])
def test_numbers_of_negatives_out_of_range_are_refused(k, pool):
    with pytest.raises(ValueError, match="Expected 1 <= k <= pool"):
        most_similar(torch.zeros(2, 5), torch.zeros(2, 5, dtype=torch.bool), k=k, pool=pool)
    with pytest.raises(ValueError, match="Expected `is_match`"):
        most_similar(torch.zeros(2, 5), torch.zeros(2, 4, dtype=torch.bool))


def test_a_cosine_that_is_rounded_above_the_ceiling_counts_as_one_at_it():
    similarity = torch.tensor([[0.5, 1.0 + 5e-7, 1.0 + 2e-6]])
    none = torch.zeros(1, 3, dtype=torch.bool)
    assert most_similar(similarity, none)[0].tolist() == [[1]]
    assert most_similar(similarity - 0.5, none, ceiling=0.5)[0].tolist() == [[1]]
    assert most_similar(similarity, none, ceiling=2.0)[0].tolist() == [[2]]


@pytest.mark.parametrize("chunk", [None, 2, 4])
def test_no_study_is_its_own_negative_though_its_keys_be_unknown(chunk):
    reports, keys = unit(9, 5), torch.arange(9)[:, None].repeat(1, 2)
    keys[[2, 7]] = UNKNOWN
    index, valid = mine(reports, keys, k=3, chunk=chunk)
    similarity = (reports @ reports.T).fill_diagonal_(-2)
    assert torch.equal(index, similarity.topk(3).indices)
    assert valid.all()


@pytest.mark.parametrize("options", [{}, {"k": 2}, {"k": 2, "pool": 3}, {"ceiling": 0.5}], ids=str)
def test_a_similarity_that_is_no_number_is_never_chosen_and_keeps_nothing_else_out(options):
    similarity = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    similarity[:, 2] = torch.nan
    similarity[4] = torch.nan
    is_match = torch.zeros(5, 6, dtype=torch.bool)
    index, valid = most_similar(similarity, is_match, generator=torch.Generator().manual_seed(1), **options)
    assert not (index[valid] == 2).any()
    assert not valid[4].any()
    assert valid[:4].any(1).all()
    without = torch.tensor([0, 1, 3, 4, 5])
    if "pool" not in options:
        expected, found = most_similar(similarity[:4, without], is_match[:4, without], **options)
        assert torch.equal(found, valid[:4])
        assert torch.equal(without[expected][found], index[:4][found])
