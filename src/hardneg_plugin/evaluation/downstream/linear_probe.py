"""Linear probes: logistic regressions on frozen features, from few labels and from many."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.zero_shot import auroc

STRENGTHS = (0.0001, 0.001, 0.01, 0.1, 1.0)
"""The inverse strengths of the L2 penalty, scikit-learn's C, that are tried."""
ITERATIONS = 1000  # scikit-learn's own 100 are too few for weak penalties


class LabelledFeatures(NamedTuple):
    """The pooled features of N studies, and their findings."""

    features: Tensor
    """`(N, D)`, frozen, any floating dtype."""
    labels: Tensor
    """`(N, F)` bool: which findings each has."""


@dataclass(frozen=True)
class ProbeResult:
    """The regressions trained on one share of the labels."""

    share: float
    studies: int
    """The number of studies in the share."""
    scores: Tensor
    """`(N, F)` float64, log odds of the test studies."""
    auroc: Tensor
    """`(F,)` float64 of those scores; nan where the test studies are of one class."""
    strengths: tuple[float | None, ...]
    """The C chosen for each finding; None where the subset has one class only."""


def linear_probe(
    train: LabelledFeatures,
    val: LabelledFeatures,
    test: LabelledFeatures,
    *,
    shares: Sequence[float] = (0.01, 0.1, 1.0),
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> list[ProbeResult]:
    """Logistic regressions, one per finding, on shares of the training studies.

    Features are standardised by the mean and standard deviation of the training subset. Each finding takes the C with the best
    AUROC on `val`, the smallest of equal ones (and where `val` has one class only). A finding of which the subset has one class
    only cannot be learned: its scores are 0, its AUROC 0.5.

    Args:
        train, val, test: of one D and one F; `val` chooses C only.
        shares: of the training studies, in (0, 1]; a smaller share is part of a larger.
        strengths: values of C to try, > 0.
        seed: of the subsets, >= 0.

    Returns:
        One `ProbeResult` per share, in their order.

    Raises:
        UserError: a share or a C is out of its range.
        ValueError: the shapes do not fit together.
    """
    if not strengths or min(strengths) <= 0:
        raise UserError(f"strengths: expected values of C > 0, but got {list(strengths)}.")
    for split in (train, val, test):
        _check(split, train)
    return [
        _probe(LabelledFeatures(*(rows[subset] for rows in train)), val, test, share, sorted(strengths))
        for share, subset in zip(shares, nested_subsets(len(train.features), shares, seed), strict=True)
    ]


def nested_subsets(count: int, shares: Sequence[float], seed: int) -> list[Tensor]:
    """Random rows of each share of the studies, `(K,)` int64, K >= 1; a smaller share is the beginning of a larger.

    Args:
        count: of studies, >= 1.
        shares: in (0, 1].
        seed: >= 0.

    Raises:
        UserError: a share is outside (0, 1], or there is no study.
    """
    if not shares or not all(0 < share <= 1 for share in shares):
        raise UserError(f"shares: expected shares of the training labels in (0, 1], but got {list(shares)}.")
    if count < 1:
        raise UserError("Expected at least one training study with labels, but got none: check the training split.")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(count))
    return [order[: max(1, round(share * count))] for share in shares]


def _probe(
    subset: LabelledFeatures, val: LabelledFeatures, test: LabelledFeatures, share: float, strengths: Sequence[float]
) -> ProbeResult:
    arrays = [split.features.detach().cpu().double().numpy() for split in (subset, val, test)]
    train_features, val_features, test_features = map(StandardScaler().fit(arrays[0]).transform, arrays)
    scores = torch.zeros(test.labels.shape, dtype=torch.float64)
    chosen: list[float | None] = [None] * test.labels.shape[1]
    for finding, labels in enumerate(subset.labels.cpu().T):
        if labels.all() or not labels.any():
            continue
        best = -np.inf
        for strength in strengths:
            model: Any = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(train_features, labels.numpy())
            on_val = torch.from_numpy(model.decision_function(val_features))[:, None]
            area = float(auroc(on_val, val.labels[:, finding : finding + 1].cpu()))
            if chosen[finding] is None or area > best:
                best, chosen[finding] = area, strength
                scores[:, finding] = torch.from_numpy(model.decision_function(test_features))
    return ProbeResult(share, len(subset.features), scores, auroc(scores, test.labels.cpu()), tuple(chosen))


def _check(split: LabelledFeatures, train: LabelledFeatures) -> None:
    features, labels = split
    widths = (features.shape[1:], labels.shape[1:]) == (train.features.shape[1:], train.labels.shape[1:])
    if not (features.ndim == labels.ndim == 2 and len(features) == len(labels) and widths):
        raise ValueError(
            "Expected `features` (N, D) and `labels` (N, F) of one D and F in all splits, but got "
            f"{tuple(features.shape)} and {tuple(labels.shape)} beside training's "
            f"{tuple(train.features.shape)} and {tuple(train.labels.shape)}."
        )
    if labels.dtype != torch.bool:
        raise ValueError(f"Expected `labels` of dtype torch.bool, but got {labels.dtype}.")
