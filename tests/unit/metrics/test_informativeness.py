"""Informativeness: values by hand, the pairing against all pairings, and thousands of edits of one finding."""

import itertools
import math

import numpy as np
import pytest

from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding, draw_findings, finding
from hardneg_plugin.knowledge import ENTITIES
from hardneg_plugin.knowledge.severity import URGENCY, severity
from hardneg_plugin.metrics.informativeness import gain, informativeness

LEFT, RIGHT = (finding("pleural effusion", side=side, size="small") for side in ("left", "right"))
MASS = ("mass", ())
AORTA = finding("tortuous aorta")


@pytest.mark.parametrize(
    ("generated", "reference", "expected"),
    [
        ([], [], (0, 0)),
        ([], [LEFT, MASS], (0, 1.5)),
        ([LEFT], [LEFT], (0.5, 0.5)),
        ([MASS, AORTA], [MASS, AORTA], (1.25, 1.25)),
        ([AORTA], [], (-0.25, 0)),
        ([AORTA, MASS], [MASS], (0.75, 1)),
        ([RIGHT], [LEFT], (0.5 * 2 / 3, 0.5)),  # of name, side and size two are right
        ([finding("pleural effusion", side="left")], [LEFT], (0.5 * 2 / 3, 0.5)),  # size left out
        ([finding("pleural effusion")], [LEFT], (0.5 / 3, 0.5)),
        ([LEFT, RIGHT], [LEFT], (0.5 - 0.5 * 0.5 / 3, 0.5)),  # the surplus has a third wrong
        ([LEFT, RIGHT], [LEFT, RIGHT], (1, 1)),
        ([RIGHT], [LEFT, RIGHT], (0.5, 1)),
        ([("nodule", "left")], [("nodule", "right")], (0.25, 0.5)),  # attributes that are one value
    ],
)
def test_the_gain_of_one_report(generated, reference, expected):
    assert gain(frozenset(generated), frozenset(reference)) == pytest.approx(expected)


def test_studies_count_by_the_weight_of_what_they_state():
    generated, references = [[MASS], [AORTA], [], []], [[MASS, AORTA], [], [LEFT], []]
    card = informativeness(list(map(frozenset, generated)), list(map(frozenset, references)))
    assert card.values["informativeness"] == pytest.approx((1 - 0.25 + 0) / (1.25 + 0 + 0.5))
    assert card.columns["informativeness"] == pytest.approx([1 / 1.25, -0.25, 0, math.nan], nan_ok=True)
    low, high = card.intervals()["informativeness"]
    assert low < card.values["informativeness"] < high
    assert card.statistics[0].under(np.array([[0.0, 2, 0, 1]]))["informativeness"] == -0.5  # drawn: normal studies only


def test_every_finding_of_the_built_in_data_and_of_real_reports_has_its_weight():
    assert set(URGENCY) == {entity.name for entity in ENTITIES} | set(ATTRIBUTES)
    assert severity("pneumothorax", {}) > severity("nodule", {}) > severity("scoliosis", {}) > 0
    sizes = [severity("pleural effusion", {"size": size}) for size in ("small", "moderate", "large")]
    assert sizes == sorted(set(sizes))
    assert (
        severity("nodule", {"mm": 20})
        > severity("nodule", {"mm": 6})
        > severity("nodule", {"mm": 6, "calcified": True})
    )


def random_finding(rng, name=None):
    name = name or str(rng.choice(list(ATTRIBUTES)))
    return Finding(name, tuple((key, of[rng.integers(len(of))]) for key, of in ATTRIBUTES[name].items()))


def every_pairing(generated, reference):
    """The gain by its definition: the best over all ways to pair findings of one name, or to leave them out."""
    generated, reference = list(generated), list(reference)
    names = {name for name, _ in reference}

    def right(mine, theirs):
        keys = {key for key, _ in mine[1]} | {key for key, _ in theirs[1]}
        return (1 + len(set(mine[1]) & set(theirs[1]))) / (1 + len(keys))

    def alone(mine):
        if mine[0] not in names:
            return -severity(mine[0], dict(mine[1]))
        same = [one for one in reference if one[0] == mine[0]]
        return -min(severity(one[0], dict(one[1])) * (1 - right(mine, one)) for one in same) / 2

    best = -math.inf
    for places in itertools.product([None, *range(len(reference))], repeat=len(generated)):
        taken = [place for place in places if place is not None]
        if len(set(taken)) < len(taken):
            continue
        pairs = [
            (one, None if place is None else reference[place]) for one, place in zip(generated, places, strict=True)
        ]
        if any(other is not None and one[0] != other[0] for one, other in pairs):
            continue
        worth = [
            alone(one) if other is None else severity(other[0], dict(other[1])) * right(one, other)
            for one, other in pairs
        ]
        best = max(best, sum(worth))
    return best


def test_the_pairing_is_the_best_of_all():
    rng = np.random.default_rng(0)
    names = ("nodule", "pleural effusion", "oedema")

    def draw():
        return frozenset(random_finding(rng, names[rng.integers(3)]) for _ in range(4))

    for _ in range(200):
        generated, reference = draw(), draw()
        gained, _ = gain(generated, reference)
        assert gained == pytest.approx(every_pairing(generated, reference))
        for missing in reference - generated:
            assert gain(generated | {missing}, reference)[0] > gained + 1e-9
        assert gain(generated | {AORTA}, reference)[0] == pytest.approx(gained - 0.25)


def studies(count, seed):
    """References, and reports with some of their findings, some with a wrong attribute, and some of other studies."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        reference = draw_findings(rng, 0.2)
        mine = {one for one in reference if rng.random() < 0.6}
        mine = {with_wrong(one, rng) if one.attributes and rng.random() < 0.4 else one for one in mine}
        yield rng, frozenset(mine | {one for one in draw_findings(rng, 0.5) if rng.random() < 0.7}), reference


def with_wrong(one, rng):
    """The finding with one attribute changed to another value."""
    key, value = one.attributes[rng.integers(len(one.attributes))]
    others = [other for other in ATTRIBUTES[one.name][key] if other != value]
    return Finding(
        one.name, tuple((k, others[rng.integers(len(others))] if k == key else v) for k, v in one.attributes)
    )


def test_the_scale_over_thousands_of_studies():
    for _, generated, reference in studies(2000, seed=1):
        assert informativeness([frozenset()], [reference]).values["informativeness"] == 0
        gained, most = gain(generated, reference)
        assert gained <= most
        assert (gained == most) == (generated == reference)
        if reference:
            assert informativeness([reference], [reference]).values["informativeness"] == 1


def test_monotone_under_thousands_of_edits_of_one_finding():
    edits = {"right added": 0, "false added": 0, "false dropped": 0, "attribute right": 0, "attribute wrong": 0}

    def check(kind, before, after, reference, sign):
        edits[kind] += 1
        change = gain(after, reference)[0] - gain(before, reference)[0]
        assert sign * change > 1e-9, (kind, before, after, reference)

    for rng, generated, reference in studies(3000, seed=2):
        names = {one.name for one in reference}
        for missing in sorted(reference - generated, key=repr):
            check("right added", generated, generated | {missing}, reference, 1)
        false = random_finding(rng)
        if false.name not in names and false not in generated:
            check("false added", generated, generated | {false}, reference, -1)
        for one in sorted(generated, key=repr):
            if one.name not in names:
                check("false dropped", generated, generated - {one}, reference, 1)
                continue
            if [other.name for other in generated].count(one.name) > 1:
                continue
            true = dict(next(other for other in reference if other.name == one.name).attributes)
            for key, value in one.attributes:
                edited = {**dict(one.attributes), key: true[key]}
                if value != true[key]:
                    after = generated - {one} | {finding(one.name, **edited)}
                    check("attribute right", generated, after, reference, 1)
            if one in reference and one.attributes:
                check("attribute wrong", generated, generated - {one} | {with_wrong(one, rng)}, reference, -1)
    assert all(count > 500 for count in edits.values()), edits
