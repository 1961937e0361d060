import random

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from hardneg_plugin.metrics.findings import FindingsScores, findings_counts

KEYS = [f"findings{kind}_{score}" for kind in ("", "_attributes") for score in ("precision", "recall", "F1")]


def reader(text):
    """Words `name:attribute`."""
    return frozenset(tuple(word.split(":")) for word in text.split())


def oracle(generated, references):
    """The six scores in plain loops."""
    scores = []
    for depth in (1, 2):
        right = stated = true = 0
        for text, reference in zip(generated, references, strict=True):
            mine = {tuple(word.split(":")[:depth]) for word in text.split()}
            theirs = {tuple(word.split(":")[:depth]) for word in reference.split()}
            stated, true = stated + len(mine), true + len(theirs)
            for one in mine:
                right += one in theirs
        precision = right / stated if stated else 0.0
        recall = right / true if true else 0.0
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        scores += [precision, recall, f1]
    return scores


def random_studies(count, seed=0):
    rng = random.Random(seed)
    words = [f"{name}:{value}" for name in "abcdef" for value in "xyz"]
    draw = lambda: " ".join(rng.sample(words, rng.choice([0, 0, 1, 2, 4])))  # noqa: E731
    return [(draw(), draw(), f"study-{index}") for index in range(count)]


def scores_of(studies, batch=3):
    metric = FindingsScores(reader)
    for start in range(0, len(studies), batch):
        metric.update(*zip(*studies[start : start + batch], strict=True))
    return metric.compute()


@pytest.mark.parametrize(
    ("generated", "reference", "expected"),
    [
        ("", "", (0, 0, 0, 0, 0, 0)),
        ("a:x", "a:x", (1, 0, 0, 1, 0, 0)),
        ("a:x", "a:y", (1, 0, 0, 0, 1, 1)),
        ("a:x a:y", "a:y", (1, 0, 0, 1, 1, 0)),
        ("a:x b:x", "", (0, 2, 0, 0, 2, 0)),
        ("", "a:x b:x c:z", (0, 0, 3, 0, 0, 3)),
        ("a:x b:x c:x", "b:x c:y d:x", (2, 1, 1, 1, 2, 2)),
    ],
)
def test_counts(generated, reference, expected):
    assert findings_counts(reader(generated), reader(reference)) == expected


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_scores_against_plain_loops(seed, batch):
    studies = random_studies(40, seed)
    scores = scores_of(studies, batch)
    assert list(scores) == KEYS
    assert all(value.shape == () for value in scores.values())
    assert [float(value) for value in scores.values()] == pytest.approx(oracle(*list(zip(*studies, strict=True))[:2]))


def test_a_study_that_comes_twice_counts_once():
    studies = random_studies(20)
    assert scores_of(studies + studies[:7] + studies[3:5]) == scores_of(studies)


def test_equal_texts_of_two_studies_count_twice():
    scores = scores_of([("a:x", "a:x", "1"), ("a:x", "a:x", "2"), ("b:x", "", "3")])
    assert float(scores["findings_precision"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("studies", "expected"),
    [
        ([("", "", "1")], [0] * 6),
        ([("a:x", "", "1")], [0] * 6),
        ([("", "a:x", "1")], [0] * 6),
        ([("a:x", "a:x", "1")], [1] * 6),
        ([("a:x", "a:y", "1")], [1, 1, 1, 0, 0, 0]),
    ],
)
def test_edges(studies, expected):
    assert [float(value) for value in scores_of(studies).values()] == expected


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_a_study_there_is_no_score():
    assert scores_of([]) == {}


def test_reset_forgets():
    metric = FindingsScores(reader)
    metric.update(["a:x"], ["b:x"], ["1"])
    metric.reset()
    metric.update(["a:x"], ["a:x"], ["1"])
    assert float(metric.compute()["findings_F1"]) == 1


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="but got 2, 1 and 1"):
        FindingsScores(reader).update(["a:x", ""], [""], ["1"])


def rank_scores(rank, folder, shares):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(shares))
    metric = FindingsScores(reader)
    for study in shares[rank]:
        metric.update(*([value] for value in study))
    synced = metric.compute()
    local_rows = sum(len(batch[0]) for batch in metric._batches)
    torch.save((synced, local_rows), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("split", ["uneven", "duplicated", "one rank empty"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_two_processes_give_the_scores_of_one(tmp_path, split):
    studies = random_studies(11)
    shares = {
        "uneven": (studies[:8], studies[8:]),
        "duplicated": (studies[::2], studies[1::2] + studies[:1]),  # as a distributed sampler evens out
        "one rank empty": (studies, []),
    }[split]
    start_processes(rank_scores, args=(tmp_path, shares), nprocs=2, start_method="fork")
    for rank in (0, 1):
        scores, local_rows = torch.load(tmp_path / f"{rank}.pt")
        assert scores == scores_of(studies)
        assert local_rows == len(shares[rank])  # what was gathered is given back after computing
