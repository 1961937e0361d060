"""Zero-shot findings: is an image closer to the sentences that state a finding than to those that deny it?"""

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F


def zero_shot_scores(images: Tensor, present: Tensor, absent: Tensor) -> Tensor:
    """By how much each image is closer to the sentences that state a finding than to those that deny it.

    The wordings of a finding, each of unit length, are averaged and normalised again, as CLIP's are (Radford et al. 2021, section
    3.1.4); the score is the cosine with those that state it less the cosine with those that deny it.

    Args:
        images: `(N, D)`, any length, any floating dtype.
        present: `(F, S, D)`, S wordings that state each of F findings.
        absent: `(F, S', D)`, wordings that deny it.

    Returns:
        `(N, F)` float32, in [-2, 2].

    Raises:
        ValueError: the shapes do not fit together.
    """
    fits = images.ndim == 2 and present.ndim == absent.ndim == 3 and present.shape[::2] == absent.shape[::2]
    if not fits or present.shape[2] != images.shape[1] or 0 in (present.shape[1], absent.shape[1]):
        raise ValueError(
            "Expected `images` (N, D), `present` and `absent` (F, S, D) with at least one wording, but got "
            f"{tuple(images.shape)}, {tuple(present.shape)} and {tuple(absent.shape)}."
        )
    stated, denied = (
        F.normalize(F.normalize(wordings.float(), dim=-1).mean(dim=1), dim=-1) for wordings in (present, absent)
    )
    with torch.autocast(images.device.type, enabled=False):
        return F.normalize(images.float(), dim=-1) @ (stated - denied).T


def auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """The area under the ROC curve of each finding.

    It is the share of the pairs of a study with it and a study without it whose scores are in order. Pairs of equal scores count
    half, so constant scores have 0.5.

    Args:
        scores: `(N, F)`, higher where the finding is more likely.
        labels: `(N, F)` bool.

    Returns:
        `(F,)` float64 in [0, 1]; nan for a finding that all studies have, or none.

    Raises:
        ValueError: the shapes differ, the labels are not bool, or a score is not finite.

    >>> auroc(torch.tensor([[0.1], [0.7], [0.4]]), torch.tensor([[False], [True], [True]]))
    tensor([1.], dtype=torch.float64)
    """
    if scores.ndim != 2 or scores.shape != labels.shape or labels.dtype != torch.bool:
        raise ValueError(
            "Expected `scores` and bool `labels` of one shape (N, F), but got "
            f"{tuple(scores.shape)} and {tuple(labels.shape)} {labels.dtype}."
        )
    if not scores.isfinite().all():
        bad = int((~scores.isfinite()).sum())
        raise ValueError(
            f"Expected finite scores, but {bad} of {scores.numel()} are not: the embeddings have diverged."
        )
    areas = torch.full((scores.shape[1],), torch.nan, dtype=torch.float64)
    for finding, (score, label) in enumerate(zip(scores.cpu().double().T, labels.cpu().T, strict=True)):
        if label.any() and not label.all():
            areas[finding] = roc_auc_score(label.numpy(), score.numpy())
    return areas
