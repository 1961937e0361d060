import random

import pytest

from hardneg_plugin.metrics.findings import findings_counts, findings_f1, findings_scores

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
    return [(draw(), draw()) for _ in range(count)]


def scores_of(studies):
    generated, references = zip(*studies, strict=True)
    return findings_scores(list(map(reader, generated)), list(map(reader, references))).values


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
def test_scores_against_plain_loops(seed):
    studies = random_studies(40, seed)
    scores = scores_of(studies)
    assert list(scores) == KEYS
    assert list(scores.values()) == pytest.approx(oracle(*zip(*studies, strict=True)))


def test_equal_texts_of_two_studies_count_twice():
    scores = scores_of([("a:x", "a:x"), ("a:x", "a:x"), ("b:x", "")])
    assert scores["findings_precision"] == pytest.approx(2 / 3)


def test_the_f1_of_a_study_is_that_of_a_split_of_it_alone():
    studies = random_studies(30, seed=7)
    for generated, reference in studies:
        own = findings_f1(reader(generated), reader(reference))
        alone = scores_of([(generated, reference)])
        if generated or reference:
            assert own == (alone["findings_F1"], alone["findings_attributes_F1"])
        else:
            assert own == (1, 1)


@pytest.mark.parametrize(
    ("studies", "expected"),
    [
        ([("", "")], [0] * 6),
        ([("a:x", "")], [0] * 6),
        ([("", "a:x")], [0] * 6),
        ([("a:x", "a:x")], [1] * 6),
        ([("a:x", "a:y")], [1, 1, 1, 0, 0, 0]),
    ],
)
def test_edges(studies, expected):
    assert list(scores_of(studies).values()) == expected
