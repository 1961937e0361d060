"""The result of a task on a split: what each study adds to the scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from hardneg_plugin.evaluation.downstream.encoded_split import EncodedSplit
from hardneg_plugin.evaluation.downstream.finding_maps import entity_names
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.metrics.task_scores import TaskRow

Means = dict[str, dict[str, list[float]]]
"""Of a study, by score and group: the sum of its values and their number."""


@dataclass
class TaskResult:
    """A task on a split of N studies."""

    rows: list[TaskRow]
    """One for each study."""
    baselines: dict[str, float] = field(default_factory=dict)
    """The same scores without looking at images."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Chosen on validation."""


def mean_rows(split: EncodedSplit, means: Sequence[Means]) -> list[TaskRow]:
    """Rows of a task whose scores are means.

    Args:
        split: of N studies.
        means: by study.
    """
    return [{"id": name, "means": mean, "rankings": {}} for name, mean in zip(split.studies.ids, means, strict=True)]


def ranking_rows(split: EncodedSplit, knowledge: Knowledge, scores: Mapping[str, Tensor]) -> list[TaskRow]:
    """Rows of a task whose scores are AUROCs; a study says nothing of an entity that its report leaves open.

    Args:
        split: of N studies.
        knowledge: of F entities.
        scores: `(N, F)` by name of the AUROC, higher where the entity is more likely.
    """
    names, labels = entity_names(knowledge), split.labels(knowledge).tolist()
    columns = {name: of_all.tolist() for name, of_all in scores.items()}
    return [
        {
            "id": study,
            "means": {},
            "rankings": {
                name: {
                    finding: [score, float(label)]
                    for finding, score, label in zip(names, of_all[row], of_study, strict=True)
                    if label >= 0
                }
                for name, of_all in columns.items()
            },
        }
        for row, (study, of_study) in enumerate(zip(split.studies.ids, labels, strict=True))
    ]


def add_value(means: Means, name: str, group: str, value: float) -> None:
    """Count one more value of a score of a study.

    Args:
        means: of the study, changed in place.
        name: of the score.
        group: over which the score is averaged first, such as a finding.
        value: what is counted.

    >>> means = {"IoU": {"nodule": [0.5, 1.0]}}
    >>> add_value(means, "IoU", "nodule", 0.25)
    >>> means
    {'IoU': {'nodule': [0.75, 2.0]}}
    """
    total, count = means.setdefault(name, {}).get(group, (0.0, 0.0))
    means[name][group] = [total + value, count + 1.0]


def mean_over_groups(groups: Sequence[int], values: Sequence[float]) -> float:
    """The mean over the groups of the mean of their values.

    Args:
        groups: of each of N values.
        values: N of them, N >= 1.

    >>> mean_over_groups([0, 0, 1], [0.0, 1.0, 1.0])
    0.75
    """
    by_group: dict[int, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        by_group.setdefault(group, []).append(value)
    return float(np.mean([np.mean(of_group) for of_group in by_group.values()]))
