"""The approximate search: what it never returns, how much it finds, and how it goes on."""

import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix

from hardneg_plugin.errors import UserError
from hardneg_plugin.neighbours import approximate, candidates
from hardneg_plugin.neighbours.approximate import ApproximateSearch
from hardneg_plugin.neighbours.entries import Entries
from hardneg_plugin.neighbours.search import ChunkedSearch, NeighbourRule

NUMBER = 600
INDEXES = {"ivf": 0.95, "hnsw": 0.95, "ivf_pq": 0.9}


class FirstEntries:
    """An index that knows nothing: the entries before and after."""

    def __init__(self, number):
        self.number, self.asked = number, []

    def __call__(self, queries, count, effort, closed):
        self.asked.append((len(queries), count, effort, closed))
        open_ones = np.array([entry for entry in range(self.number) if entry not in closed])
        found = np.full((len(queries), count), -1)
        found[:, : len(open_ones)] = open_ones[:count]
        return found


@pytest.fixture
def without_faiss(monkeypatch):
    """Candidates by `FirstEntries`."""
    made = []

    def candidate_index(kind, vectors, number, width, file):
        assert vectors(np.arange(number)).shape == (number, width)
        file.write_bytes(b"")
        made.append(FirstEntries(number))
        return made[-1]

    monkeypatch.setattr(approximate, "import_faiss", lambda kind: None)
    monkeypatch.setattr(approximate, "candidate_index", candidate_index)
    return made


def clustered(kind="dense", number=NUMBER, width=24):
    """Unit vectors around 40 centres; a tenth of them are those of an earlier study."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(40, width))[random.integers(40, size=number)] + 0.4 * random.normal(size=(number, width))
    rows[-number // 10 :] = rows[: number // 10]
    if kind == "sparse":
        rows *= np.abs(rows) > 0.8
    unit = F.normalize(torch.from_numpy(rows).float(), dim=1)
    return unit if kind == "dense" else csr_matrix(unit.numpy())


def rule(k=4, ceiling=1.0, number=NUMBER, labels=None):
    """Equal texts are those of `clustered`, patients have three studies or so, and a half of all has one label set."""
    random = np.random.default_rng(1)
    texts = np.arange(number)
    texts[-number // 10 :] = texts[: number // 10]
    sets = np.where(random.random(number) < 0.5, 0, random.integers(-1, 30, size=number)) if labels is None else labels
    groups = {"text": texts, "patient": random.integers(-1, number // 3, size=number), "label set": sets}
    left_out = np.zeros(number, dtype=bool)
    left_out[[3, 200]] = True
    return NeighbourRule(groups, ceiling=ceiling, k=k, left_out=left_out)


def cosines(rows):
    rows = rows if isinstance(rows, torch.Tensor) else torch.from_numpy(rows.toarray())
    return (rows.double() @ rows.double().T).numpy()


def check(found, rows, given):
    """Every neighbour may be one, has its cosine, and comes nearest first; the left out have none."""
    similar = cosines(rows)
    for study, (index, scores) in enumerate(zip(found.index, found.scores, strict=True)):
        own = [other for other in index.tolist() if other >= 0]
        assert len(set(own)) == len(own)
        for other, score in zip(own, scores, strict=False):
            assert other != study
            assert not any(codes[study] == codes[other] != -1 for codes in given.groups.values())
            assert not given.left_out[[study, other]].any()
            assert score == pytest.approx(similar[study, other], abs=1e-6)
            assert score <= given.ceiling + 1e-6
        assert scores[: len(own)].tolist() == sorted(scores[: len(own)].tolist(), reverse=True)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("settings", [{}, {"k": 1, "ceiling": 0.8}, {"k": 90}], ids=str)
def test_all_have_as_many_neighbours_as_there_are_and_none_that_matches(without_faiss, tmp_path, kind, settings):
    rows, given = clustered(kind), rule(**settings)
    found, exact = ApproximateSearch("ivf", tmp_path, chunk=37)(rows, given), ChunkedSearch()(rows, given)
    check(found, rows, given)
    assert np.array_equal(found.index >= 0, exact.index >= 0)
    assert (found.scores <= exact.scores + 1e-6).all()
    assert not (found.above & ~exact.above).any()
    assert found.pairs_above <= exact.pairs_above
    assert without_faiss[0].asked[0][1:3] == (max(64, 4 * given.k), 1.0)


def test_where_every_candidate_is_given_the_result_is_the_exact_one(without_faiss, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "CANDIDATES", NUMBER)
    rows, given = clustered(), rule(ceiling=0.9)
    found, exact = ApproximateSearch("ivf", tmp_path)(rows, given), ChunkedSearch()(rows, given)
    for name in ("index", "scores", "above"):
        np.testing.assert_array_equal(getattr(found, name), getattr(exact, name))
    assert found.pairs_above == exact.pairs_above


def test_who_finds_too_few_gets_four_times_the_candidates_and_in_the_end_all(without_faiss, tmp_path, monkeypatch):
    """One patient has all the studies at the front, which is where the index looks."""
    monkeypatch.setattr(approximate, "ROUNDS", 2)
    rows = clustered(number=1000)
    patients = np.full(1000, -1)
    patients[:300] = patients[900] = 0
    given = NeighbourRule({"patient": patients}, k=2)
    monkeypatch.setattr(approximate, "Entries", SimpleNamespace(of=partial(Entries.of, large=10**6)))
    found, exact = ApproximateSearch("ivf", tmp_path, chunk=1000)(rows, given), ChunkedSearch()(rows, given)
    assert [asked[:3] for asked in without_faiss[0].asked] == [(1000, 64, 1.0), (301, 256, 4.0)]
    one_patients = patients == 0
    np.testing.assert_array_equal(found.index[one_patients], exact.index[one_patients])


def test_goes_on_after_an_interruption_to_the_same_result(without_faiss, tmp_path, monkeypatch):
    monkeypatch.setattr(approximate, "PART", 128)
    rows, given = clustered(), rule(ceiling=0.9)
    whole = ApproximateSearch("ivf", tmp_path / "a")
    (tmp_path / "a").mkdir()
    expected = whole(rows, given)

    def until_the_third(parts):
        for number, part in enumerate(parts):
            if number == 2:
                raise KeyboardInterrupt
            yield part

    (tmp_path / "b").mkdir()
    search = ApproximateSearch("ivf", tmp_path / "b", chunk=50)
    with pytest.raises(KeyboardInterrupt):
        search(rows, given, track=until_the_third)
    made = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "b").iterdir()}
    assert sorted(made) == ["candidates.faiss", "neighbours-00000.safetensors", "neighbours-00001.safetensors"]
    found = search(rows, given)
    for name in ("index", "scores", "above"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.pairs_above == expected.pairs_above
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "b").iterdir()}
    assert again["neighbours-00000.safetensors"] == made["neighbours-00000.safetensors"]
    assert {path.name for path in (tmp_path / "b").iterdir()} == {path.name for path in (tmp_path / "a").iterdir()}


@pytest.mark.parametrize("backend", ["ivf", "hnsw", pytest.param("ivf_pq", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_most_of_the_exact_neighbours_are_found(tmp_path, monkeypatch, backend, kind):
    pytest.importorskip("faiss")
    monkeypatch.setattr(candidates, "CODED", 1_000)
    number = 2_000
    rows, given = clustered(kind, number), rule(number=number)
    found, exact = ApproximateSearch(backend, tmp_path)(rows, given), ChunkedSearch()(rows, given)
    check(found, rows, given)
    there = exact.index >= 0
    least = np.where(there, exact.scores, np.inf).min(axis=1)
    right = (found.index >= 0) & (found.scores >= least[:, None] - 1e-6)
    assert right.sum() / there.sum() > INDEXES[backend]
    again = ApproximateSearch(backend, tmp_path)(rows, given)  # from the files
    np.testing.assert_array_equal(again.index, found.index)


def test_codes_need_many_reports(tmp_path):
    pytest.importorskip("faiss")
    with pytest.raises(UserError, match=r"at least 10,000 different reports for ivf_pq.*got 539\. Set backend=ivf\."):
        ApproximateSearch("ivf_pq", tmp_path)(clustered(), rule())


def test_an_index_looks_past_lists_of_closed_entries(tmp_path):
    """Nine of ten entries match, and lie around the query; lists with none but these are not among those looked through."""
    pytest.importorskip("faiss")
    random = np.random.default_rng(0)
    near = F.normalize(torch.from_numpy(random.normal(size=16) + 0.05 * random.normal(size=(9_000, 16))), dim=1)
    far = F.normalize(torch.from_numpy(random.normal(size=(1_000, 16))), dim=1)
    vectors = torch.cat([near, far]).float().numpy()
    index = candidates.candidate_index("ivf", lambda rows: vectors[rows], 10_000, 16, tmp_path / "index")
    found = index(vectors[:1], 3, 0.1, range(9_000))
    assert ((found >= 9_000) & (found < 10_000)).all()
    assert (index(vectors[:1], 3, 0.1, range(0)) < 9_000).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "lsh"}, "backend: expected ivf or ivf_pq or hnsw, but got 'lsh'"),
        ({"effort": 0}, "effort: expected a positive number, but got 0"),
        ({"chunk": 0}, "chunk: expected a positive number of studies, but got 0"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        ApproximateSearch(**{"kind": "ivf", "folder": tmp_path, **settings})


def test_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"backend: hnsw needs .*pip install 'hardneg-plugin\[faiss\]'"):
        ApproximateSearch("hnsw", tmp_path)


def test_entries_are_the_texts_and_large_groups_are_ranges():
    number = 300
    random = np.random.default_rng(3)
    texts = random.integers(-1, 150, size=number)
    # a label set follows from the text, but not always
    labels = np.where(texts < 0, -1, texts % 4)
    labels[:5] = 7
    given = NeighbourRule({"text": texts, "label set": labels}, left_out=np.arange(number) % 11 == 0)
    entries = Entries.of(given, number, large=20)
    assert sorted(entries.studies.tolist()) == [study for study in range(number) if study % 11]
    members = [entries.studies[a:b] for a, b in zip(entries.starts, entries.starts[1:], strict=False)]
    seen = set()
    for own in members:
        assert own.tolist() == sorted(own.tolist())
        assert len(own) == 1 or len(set(texts[own])) == 1
        assert texts[own[0]] == -1 or texts[own[0]] not in seen
        seen.add(texts[own[0]])
    sets = [set(labels[own]) for own in members]
    sizes = {code: sum(own == {code} for own in sets) for code in range(4)}
    for own, (first, end) in zip(sets, entries.closed.tolist(), strict=True):
        expected = [place for place, other in enumerate(sets) if other == own and len(own) == 1 and min(own) >= 0]
        is_large = len(own) == 1 and sizes.get(min(own), 0) >= 20
        assert list(range(first, end)) == (expected if is_large else [])
    studies, place = entries.members(np.array([4, 1, 4]), most=2)
    expected = [(study, at) for at, entry in enumerate([4, 1, 4]) for study in members[entry][:2]]
    assert list(zip(studies, place, strict=True)) == expected
