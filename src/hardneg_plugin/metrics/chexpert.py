"""F1 of the 14 CheXpert labels of reports, from any labeller, in all published variants."""

from functools import partial

import numpy as np

from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats, SumStatistic, means

CONDITIONS = (
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
    "No Finding",
)
"""In the order of CheXbert's outputs."""

COMMON = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five of the CheXpert competition."""

_SETS = {"14": list(range(14)), "5": sorted(CONDITIONS.index(name) for name in COMMON)}
_UNCERTAIN = {"uncertain-positive": (1.0, -1.0), "uncertain-negative": (1.0,)}


def label_f1(generated: Floats, references: Floats, prefix: str) -> ScoreCard:
    """Twelve F1 scores over N studies, with names such as "chexbert_F1_micro14_uncertain-positive".

    - "micro" pools studies and labels, "macro" is the mean of the labels' F1, "example" the mean of the studies'.
    - "14" are all labels, "5" those of `COMMON`.
    - "uncertain-positive" counts an uncertain label as positive, "uncertain-negative" as negative.

    Blank counts as negative. 0/0 is 0: a label that neither side has lowers "macro", a study without labels lowers "example".
    Single studies have the scores of "example".

    Args:
        generated: `(N, 14)` in the order of `CONDITIONS`: 1 positive, 0 negative, -1 uncertain, NaN blank.
        references: `(N, 14)`, likewise.
        prefix: name of the labeller, for the names of the scores.

    Raises:
        ValueError: the arrays have other shapes.

    Source: Irvin et al. 2019 (the labels); F1 as in `sklearn.metrics.f1_score` with `zero_division=0`.

    >>> labels = np.zeros((2, 14))
    >>> labels[0, CONDITIONS.index("Edema")] = -1.0
    >>> scores = label_f1(labels, labels, "labels").values
    >>> scores["labels_F1_micro14_uncertain-positive"], scores["labels_F1_micro14_uncertain-negative"]
    (1.0, 0.0)
    """
    if generated.shape != references.shape or generated.shape[1:] != (len(CONDITIONS),):
        raise ValueError(
            f"Expected labels (N, 14) of generated reports and references, but got {generated.shape} and {references.shape}."
        )
    counts = np.stack([_counts(generated, references, positive) for positive in _UNCERTAIN.values()], axis=1)
    pooled = SumStatistic(counts.reshape(len(counts), -1), partial(_pooled, prefix))
    columns = {
        f"{prefix}_F1_example{size}_{uncertain}": _f1(counts[:, u][..., labels].sum(axis=-1)).tolist()
        for size, labels in _SETS.items()
        for u, uncertain in enumerate(_UNCERTAIN)
    }
    example = means(columns)
    return ScoreCard(pooled.values() | example.values(), columns, [pooled, example])


def _counts(generated: Floats, references: Floats, positive: tuple[float, ...]) -> Floats:
    """True positives, false positives and false negatives, `(N, 3, 14)`."""
    has, should_have = np.isin(generated, positive), np.isin(references, positive)
    return np.stack([has & should_have, has & ~should_have, ~has & should_have], axis=1).astype(np.float64)


def _f1(counts: Floats) -> Floats:
    """From tp, fp and fn in the last axis: integers, or weighted sums of these."""
    tp, fp, fn = np.moveaxis(counts, -1, 0)
    return np.asarray(2 * tp / np.maximum(2 * tp + fp + fn, 1))


def _pooled(prefix: str, sums: Floats) -> dict[str, Floats]:
    """Micro and macro F1 from counts summed over studies."""
    counts = sums.reshape(*sums.shape[:-1], len(_UNCERTAIN), 3, len(CONDITIONS))
    scores = {}
    for size, labels in _SETS.items():
        for u, uncertain in enumerate(_UNCERTAIN):
            of_labels = counts[..., u, :, :][..., labels]
            scores[f"{prefix}_F1_micro{size}_{uncertain}"] = _f1(of_labels.sum(axis=-1))
            scores[f"{prefix}_F1_macro{size}_{uncertain}"] = _f1(np.swapaxes(of_labels, -1, -2)).mean(axis=-1)
    return scores
