"""Specificity against plain loops, and what it promises of texts that tell nothing."""

import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.metrics.peers import PEERS, Peers, stated_findings
from hardneg_plugin.metrics.records import make_record


def tfidf(texts, references):
    """Unit-length TF-IDF vectors over words and pairs of words, with logarithmic counts and smoothed weights."""

    def terms(text):
        words = text.lower().split()
        return Counter(words + [" ".join(pair) for pair in pairwise(words)])

    documents = Counter(term for reference in references for term in terms(reference))
    rows = []
    for text in texts:
        row = {
            term: (1 + math.log(count)) * (1 + math.log((1 + len(references)) / (1 + documents[term])))
            for term, count in terms(text).items()
            if term in documents
        }
        length = math.sqrt(sum(value**2 for value in row.values())) or 1.0
        rows.append({term: value / length for term, value in row.items()})
    return rows


def cosine(a, b):
    return sum(value * b.get(term, 0.0) for term, value in a.items())


@pytest.fixture(scope="module")
def split():
    return PhantomStudies(test=60).split("test")


@pytest.fixture(scope="module")
def records(split):
    draw = random.Random(0)
    written = [split.reports[draw.choice([i, i, (7 * i + 3) % 60])] for i in range(60)]
    return [
        make_record(
            study, reference, generated, patient=f"p{i // 2}", labels=labels, read_findings=PhantomStudies.read_findings
        )
        for i, (study, reference, generated, labels) in enumerate(
            zip(split.ids, split.reports, written, split.labels, strict=True)
        )
    ]


def test_peers_and_specificity_in_plain_loops(records):
    references = [record["reference"] for record in records]
    rows = tfidf(references, references)
    generated = tfidf([record["generated"] for record in records], references)
    peers = Peers.of_records(records)
    credits = peers.specificity([record["generated"] for record in records])
    seen = set()
    for i, record in enumerate(records):
        others = [
            j
            for j, other in enumerate(records)
            if other["patient"] != record["patient"] and other["labels"] != record["labels"]
        ]
        nearest = sorted(others, key=lambda j: -cosine(rows[i], rows[j]))[:PEERS]
        found = [j for j in peers.index[i].tolist() if j >= 0]
        similar = lambda js: sorted(cosine(rows[i], rows[j]) for j in js)  # noqa: E731, B023
        assert similar(found) == pytest.approx(similar(nearest), abs=1e-5)
        own, theirs = cosine(generated[i], rows[i]), [cosine(generated[i], rows[j]) for j in found]
        ties = sum(value >= own - 1e-6 for value in theirs)
        is_highest = own >= max(theirs) - 1e-6
        assert credits[i] == (1 / (1 + ties) if is_highest else 0)
        seen.add(credits[i])
    assert {0.0, 1.0} <= seen


def test_findings_specificity_in_plain_loops(records):
    generated, references = stated_findings(records)
    peers = Peers.of_records(records)
    credits = peers.findings_specificity(generated, references)

    def f1(a, b):
        return 1.0 if not a and not b else 2 * len(a & b) / (len(a) + len(b))

    for i, findings in enumerate(generated):
        own = f1(findings, references[i])
        theirs = [f1(findings, references[j]) for j in peers.index[i] if j >= 0]
        best = max([own, *theirs])
        assert credits[i] == pytest.approx((own == best) / (1 + theirs.count(best)))


def test_references_themselves_are_specific(records):
    peers = Peers.of_records(records)
    assert peers.specificity([record["reference"] for record in records]).tolist() == [1.0] * 60


def test_texts_that_tell_nothing_score_no_better_than_chance(records):
    peers = Peers.of_records(records)
    chance = 1 / (PEERS + 1)
    assert peers.specificity([""] * 60) == pytest.approx([chance] * 60)
    assert peers.findings_specificity([frozenset()] * 60, [frozenset({("a", i)}) for i in range(60)]) == pytest.approx(
        [chance] * 60
    )
    one_for_all = peers.specificity([records[0]["reference"]] * 60)
    assert one_for_all.mean() <= chance + 1 / 60


def test_with_fewer_peers_than_asked_for_only_those_that_exist_count():
    """A missing peer is no study: -1 is not the last, nor the first."""
    references = ["left effusion .", "right effusion .", "normal heart .", "enlarged heart ."]
    patients = ["p", "p", "q", None]
    peers = Peers.of(references, patients)
    assert [sorted(j for j in row if j >= 0) for row in peers.index.tolist()] == [[2, 3], [2, 3], [0, 1, 3], [0, 1, 2]]
    rows = tfidf(references, references)
    for i in range(4):
        for text in references:
            (generated,) = tfidf([text], references)
            own = cosine(generated, rows[i])
            theirs = [cosine(generated, rows[j]) for j in peers.index[i] if j >= 0]
            ties = sum(value >= own - 1e-6 for value in theirs)
            expected = 1 / (1 + ties) if own >= max(theirs) - 1e-6 else 0.0
            assert peers.specificity([text] * 4)[i] == pytest.approx(expected), (i, text)
    own = np.array([float(i == 0) for i in range(4)])
    assert peers.picks(np.ones(4), np.ones((4, PEERS))).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 4, 1 / 4])
    assert peers.picks(own, np.full((4, PEERS), 0.5)).tolist() == [1.0, 0.0, 0.0, 0.0]


def test_studies_without_peers_do_not_count():
    peers = Peers.of(["the heart is normal ."] * 4, labels=[""] * 4)
    assert (peers.index == -1).all()
    assert np.isnan(peers.specificity(["the heart ."] * 4)).all()
    assert np.isnan(Peers.of([""] * 4).specificity(["a"] * 4)).all()


def test_findings_that_are_not_known_of_all_are_not_scored(records):
    assert stated_findings([*records, make_record("x", "a", "b")]) is None
