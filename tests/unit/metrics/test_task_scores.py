"""Scores of a task against plain loops over what its studies add."""

import random

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hardneg_plugin.metrics.task_scores import task_card

FINDINGS = ("effusion", "nodule", "rare")


@pytest.fixture
def rows():
    """Forty studies; some add to a finding more than once, some not at all; nobody adds to "rare" but the first."""
    draw = random.Random(0)
    made = []
    for index in range(40):
        hits = {
            name: [float(draw.randint(0, 2)), 2.0]
            for name in FINDINGS[:2]
            if draw.random() < (0.7 if name == "nodule" else 0.3)
        }
        if index == 0:
            hits["rare"] = [1.0, 1.0]
        ranked = {name: [draw.random(), float(draw.random() < 0.5)] for name in FINDINGS[:2] if draw.random() < 0.8}
        means = {"hits": hits} if hits else {}
        made.append({"id": str(index), "means": means, "rankings": {"AUROC": ranked} if ranked else {}})
    return made


def mean_of_means(rows, name):
    parts = []
    for finding in FINDINGS:
        pairs = [row["means"][name][finding] for row in rows if finding in row["means"].get(name, {})]
        if pairs:
            parts.append(sum(total for total, _ in pairs) / sum(count for _, count in pairs))
    return sum(parts) / len(parts)


def mean_area(rows):
    areas = []
    for finding in FINDINGS:
        pairs = [row["rankings"]["AUROC"][finding] for row in rows if finding in row["rankings"].get("AUROC", {})]
        if len({label for _, label in pairs}) == 2:
            areas.append(roc_auc_score([label for _, label in pairs], [score for score, _ in pairs]))
    return sum(areas) / len(areas)


def test_scores_are_those_of_plain_loops_and_so_are_draws_of_studies(rows):
    card = task_card(rows)
    assert card.values == {"hits": pytest.approx(mean_of_means(rows, "hits")), "AUROC": pytest.approx(mean_area(rows))}
    draw = random.Random(1)
    for _ in range(5):
        chosen = [draw.randrange(1, 40) for _ in rows]  # never the first: "rare" does not count then
        weights = np.array([[chosen.count(index) for index in range(40)]])
        again = [rows[index] for index in chosen]
        sums = {
            name: float(value) for statistic in card.statistics for name, (value,) in statistic.under(weights).items()
        }
        assert sums == {"hits": pytest.approx(mean_of_means(again, "hits")), "AUROC": pytest.approx(mean_area(again))}


def test_a_study_scores_what_it_adds_itself(rows):
    card = task_card(rows)
    for index, row in enumerate(rows):
        pairs = list(row["means"].get("hits", {}).values())
        expected = {"hits": sum(total for total, _ in pairs) / sum(count for _, count in pairs)} if pairs else {}
        assert card.of_study(index) == pytest.approx(expected)


def test_every_score_has_an_interval_that_holds_it(rows):
    card = task_card(rows)
    assert card.intervals().keys() == card.values.keys()
    assert all(low <= card.values[name] <= high for name, (low, high) in card.intervals().items())


def test_rows_that_add_nothing_have_no_scores():
    card = task_card([{"id": "a", "means": {}, "rankings": {}}])
    assert (card.values, card.columns, card.statistics) == ({}, {}, [])


def test_an_area_under_no_curve_is_no_score(rows):
    for row in rows:
        for pair in row["rankings"].get("AUROC", {}).values():
            pair[1] = 0.0
    assert set(task_card(rows).values) == {"hits"}
