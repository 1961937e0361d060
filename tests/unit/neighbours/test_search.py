"""The search against sorting all pairs, over chunks, embeddings and rules."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

from hardneg_plugin.errors import UserError
from hardneg_plugin.neighbours import search
from hardneg_plugin.neighbours.faiss_search import FaissSearch
from hardneg_plugin.neighbours.search import ChunkedSearch, NeighbourRule

NUMBER = 150


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(search, "BLOCK", 32)
    monkeypatch.setattr(search, "_FIRST", 4)


def embeddings(kind):
    """Some rows are equal, and some are zero."""
    rows = np.random.default_rng(0).normal(size=(NUMBER, 12)).astype(np.float32)
    rows *= np.random.default_rng(1).random(rows.shape) < 0.4
    rows[100:140] = rows[:40]
    rows[120:125] = rows[7]
    rows[50:53] = 0
    unit = F.normalize(torch.from_numpy(rows), dim=-1)
    return unit if kind == "dense" else csr_matrix(unit.numpy())


def rule(k=4, ceiling=1.0, match_most=False):
    random = np.random.default_rng(2)
    codes = {"a": random.integers(-1, 40, size=NUMBER), "b": random.integers(-1, 2 if match_most else 90, size=NUMBER)}
    return NeighbourRule(codes, ceiling=ceiling, k=k)


def brute_force(rows, rule):
    """For each study `[(other, score)]`, and the pairs above the ceiling; all in plain loops."""
    rows = (rows if isinstance(rows, torch.Tensor) else torch.from_numpy(rows.toarray())).double()
    scores = (rows @ rows.T).float().tolist()
    found, above = [], set()
    for i in range(len(rows)):
        row = []
        for j in range(len(rows)):
            if i == j or any(codes[i] == codes[j] != -1 for codes in rule.groups.values()):
                continue
            if scores[i][j] > rule.ceiling + 1e-6:
                above.add((min(i, j), max(i, j)))
            else:
                row.append((j, scores[i][j]))
        found.append(sorted(row, key=lambda pair: (-round(pair[1], 7), pair[0]))[: rule.k])
    return found, above


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("settings", [{}, {"k": 1}, {"ceiling": 0.6}, {"k": 149, "match_most": True}], ids=str)
def test_finds_what_brute_force_finds(kind, settings):
    rows, given = embeddings(kind), rule(**settings)
    nearest = ChunkedSearch(16)(rows, given)
    expected, above = brute_force(rows, given)
    for i, row in enumerate(expected):
        assert nearest.index[i].tolist() == [j for j, _ in row] + [-1] * (given.k - len(row))
        assert nearest.scores[i, : len(row)] == pytest.approx([score for _, score in row], abs=1e-5)
        assert not nearest.scores[i, len(row) :].any()
    assert nearest.pairs_above == len(above)
    assert np.flatnonzero(nearest.above).tolist() == sorted({study for pair in above for study in pair})
    if "match_most" in settings:
        assert (nearest.index == -1).any()
        assert (nearest.index != -1).any()


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_chunk_changes_nothing(kind):
    rows, given = embeddings(kind), rule(ceiling=0.9)
    expected = ChunkedSearch(NUMBER)(rows, given)
    for chunk in (1, 7, 64, 1000):
        nearest = ChunkedSearch(chunk)(rows, given)
        assert np.array_equal(nearest.index, expected.index)
        assert np.array_equal(nearest.scores, expected.scores)
        assert np.array_equal(nearest.above, expected.above)
        assert nearest.pairs_above == expected.pairs_above


def test_equally_near_studies_come_by_their_index():
    rows = torch.tensor([[1.0, 0.0]] * 20)
    nearest = ChunkedSearch(3)(rows, NeighbourRule({}, k=3))
    assert nearest.index[:4].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert nearest.index[10].tolist() == [0, 1, 2]


def test_goes_through_its_chunks_with_the_progress_bar():
    seen = []
    ChunkedSearch(64)(
        embeddings("dense"), rule(), track=lambda chunks: (seen.append(chunk) or chunk for chunk in chunks)
    )
    assert seen == [range(64), range(64, 128), range(128, 150)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NeighbourRule({}, k=0), "k: expected a positive integer, but got 0"),
        (lambda: NeighbourRule({}, ceiling=1.5), r"ceiling: expected a cosine in \(-1, 1\], but got 1.5"),
        (lambda: NeighbourRule({}, ceiling=-1), "ceiling"),
        (lambda: ChunkedSearch(0), "chunk: expected a positive number of studies, but got 0"),
        (lambda: FaissSearch(0), "chunk: expected a positive number of studies, but got 0"),
    ],
)
def test_numbers_out_of_range(make, message):
    with pytest.raises(UserError, match=message):
        make()


class FlatIndex:
    """What faiss.IndexFlatIP does, in numpy."""

    def __init__(self, width):
        self.vectors = np.empty((0, width), dtype=np.float32)
        self.asked = []

    def add(self, vectors):
        self.vectors = np.concatenate([self.vectors, vectors])

    def search(self, queries, k):
        self.asked.append(k)
        assert k <= len(self.vectors)
        scores = queries @ self.vectors.T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), order


@pytest.mark.parametrize("settings", [{}, {"ceiling": 0.6}, {"k": 149, "match_most": True}], ids=str)
def test_faiss_finds_the_same_scores(monkeypatch, settings):
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(IndexFlatIP=FlatIndex))
    rows, given = embeddings("dense"), rule(**settings)
    nearest, expected = FaissSearch(16)(rows, given), ChunkedSearch(16)(rows, given)
    assert nearest.scores == pytest.approx(expected.scores, abs=1e-5)
    assert np.array_equal(nearest.index >= 0, expected.index >= 0)
    assert (nearest.pairs_above, nearest.above.tolist()) == (expected.pairs_above, expected.above.tolist())


def test_faiss_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"pip install 'hardneg-plugin\[faiss\]'"):
        FaissSearch()
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(IndexFlatIP=FlatIndex))
    with pytest.raises(UserError, match=r"dense embeddings.*backend=torch"):
        FaissSearch()(embeddings("sparse"), rule())


@pytest.mark.parametrize("k", [2, NUMBER])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_study_that_is_left_out_is_no_neighbour_and_has_none(kind, k):
    rows = embeddings(kind)
    left_out = np.zeros(NUMBER, dtype=bool)
    left_out[[3, 20, 51]] = True
    found = ChunkedSearch(chunk=17)(rows, replace(rule(k=k), left_out=left_out))
    kept = np.flatnonzero(~left_out)
    groups = {name: codes[kept] for name, codes in rule().groups.items()}
    expected = ChunkedSearch(chunk=17)(
        rows[torch.from_numpy(kept)] if kind == "dense" else rows[kept], NeighbourRule(groups, k=k)
    )
    assert (found.index[left_out] == -1).all()
    index = np.where(expected.index >= 0, kept[expected.index], -1)
    np.testing.assert_array_equal(found.index[kept], index)
    np.testing.assert_array_equal(found.scores[kept], expected.scores)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_no_neighbour_even_where_there_are_too_few(bad):
    rows = embeddings("dense")[:6].clone()
    rows[2, 0] = bad
    found = ChunkedSearch()(rows, NeighbourRule({"none": np.full(6, -1)}, k=5))
    assert (found.index[2] == -1).all()
    assert 2 not in found.index
    assert np.isfinite(found.scores).all()
