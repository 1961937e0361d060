"""Informativeness: how much of what matters in a reference a generated report gets right, less what it invents."""

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from hardneg_plugin.knowledge.severity import severity
from hardneg_plugin.metrics.findings import Findings
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats, SumStatistic

SURPLUS = 0.5
"""What a further statement of a finding costs, of the weight of what is wrong with it."""

Attributes = dict[str, Hashable]


def informativeness(generated: Sequence[Findings], references: Sequence[Findings]) -> ScoreCard:
    """The gain of N generated reports over the weight of what their references state, both summed over studies.

    1 for the references, 0 for reports without any finding, negative for reports that do worse than these. A study with
    nothing to state adds only its false findings. Of itself it scores minus their weight, or nothing if there are none.

    Args:
        generated: the findings of N generated reports.
        references: those of N references.

    >>> left, right = (("pleural effusion", (("side", side),)) for side in ("left", "right"))
    >>> references = [frozenset({left}), frozenset()]
    >>> [informativeness([frozenset({said}), frozenset()], references).values["informativeness"] for said in (left, right)]
    [1.0, 0.5]
    >>> informativeness([frozenset(), frozenset({left})], references).values
    {'informativeness': -1.0}
    """
    rows = np.array([gain(*pair) for pair in zip(generated, references, strict=True)], dtype=np.float64).reshape(-1, 2)
    statistic = SumStatistic(rows, _ratio)
    nothing = (rows == 0).all(axis=1)
    of_studies = np.where(nothing, np.nan, _ratio(rows)["informativeness"]).tolist()
    return ScoreCard(statistic.values(), {"informativeness": of_studies}, [statistic])


def gain(generated: Findings, reference: Findings) -> tuple[float, float]:
    """What one generated report gains over a report without findings, and the most that it could: the reference's weight.

    Findings of one name are paired one to one, in the way that gains most. A pair gains the weight of the reference's finding
    times the share that is right of its name and attributes. A finding that the reference does not have costs its own weight; a
    further statement of one that it has costs `SURPLUS` times what is wrong with it.

    Args:
        generated: the findings of the generated report.
        reference: those of the reference.
    """
    stated, true = _by_name(generated), _by_name(reference)
    total = sum(severity(name, of) for name, findings in true.items() for of in findings)
    if generated == reference:
        return total, total
    gained = 0.0
    for name, findings in stated.items():
        if name in true:
            gained += _gain_of_pairs(name, findings, true[name])
        else:
            gained -= sum(severity(name, of) for of in findings)
    return gained, total


def _by_name(findings: Findings) -> dict[str, list[Attributes]]:
    """The attributes of the findings by name, sorted, so that sums are the same to the last bit for any order of the set."""
    grouped: dict[str, list[Attributes]] = defaultdict(list)
    for name, attributes in sorted(((name, _attributes(of)) for name, of in findings), key=repr):
        grouped[name].append(attributes)
    return grouped


def _attributes(stated: Hashable) -> Attributes:
    """Values by key; whatever is no tuple of pairs is a single value."""
    if isinstance(stated, tuple) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in stated):
        return {str(key): value for key, value in stated}
    return {"": stated} if stated else {}


def _share_right(stated: Attributes, true: Attributes) -> float:
    """Of the name and the attributes that either has, the share that both have alike."""
    alike = sum(key in true and true[key] == value for key, value in stated.items())
    return (1 + alike) / (1 + len(stated.keys() | true.keys()))


def _gain_of_pairs(name: str, stated: Sequence[Attributes], true: Sequence[Attributes]) -> float:
    weights = np.array([severity(name, of) for of in true])
    right = np.array([[_share_right(mine, theirs) for theirs in true] for mine in stated])
    cost = SURPLUS * (weights * (1 - right)).min(axis=1)
    worth = weights * right + cost[:, None]
    if 1 in worth.shape:
        return float(worth.max() - cost.sum())
    from scipy.optimize import linear_sum_assignment  # rarely needed

    rows, columns = linear_sum_assignment(worth, maximize=True)
    return float(worth[rows, columns].sum() - cost.sum())


def _ratio(sums: Floats) -> dict[str, Floats]:
    gained, total = np.moveaxis(sums, -1, 0)
    return {"informativeness": gained / np.where(total > 0, total, 1)}
