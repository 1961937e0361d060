"""How well images find their own reports."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hardneg_plugin.functional.keys import UNKNOWN
from hardneg_plugin.metrics.gathering import StudyMetric

CUTOFFS = (1, 5, 10)
TEXT = 2
"""The column of `match_keys` that holds the key of the report's text."""
TIE = 1e-6
"""Similarities this close are equal: float32 rounds the cosine of equal embeddings about this differently."""
CHUNK_ELEMENTS = 2**22
"""Similarities held at once, 16 MiB in float32: 41 images of 100,000 reports at a time."""


def retrieval_ranks(images: Tensor, reports: Tensor, text_keys: Tensor) -> Tensor:
    """The rank of each image's own report, or of one with the very same text, among all reports by cosine similarity.

    Rank 1 + the number of reports of another text that are at least as similar as the best of the same text. Ties thus
    count against the model, and so does whatever is not a number: where all embeddings are equal, all reports rank last.

    Args:
        images: `(N, D)`, any length, any floating dtype.
        reports: `(N, D)`, row i the report of image i.
        text_keys: `(N,)` int64, equal for equal texts; -1 where unknown, which equals nothing but its own row.

    Returns:
        `(N,)` int64, in [1, N].

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if images.shape != reports.shape or images.ndim != 2 or text_keys.shape != images.shape[:1]:
        raise ValueError(
            "Expected `images` and `reports` of one shape (N, D) and `text_keys` (N,), but got "
            f"{tuple(images.shape)}, {tuple(reports.shape)} and {tuple(text_keys.shape)}."
        )
    studies = len(images)
    images, reports = F.normalize(images.float(), dim=-1), F.normalize(reports.float(), dim=-1)
    own = torch.arange(studies, device=images.device)
    ranks = [torch.empty(0, dtype=torch.int64, device=images.device)]
    for rows in own.split(max(1, CHUNK_ELEMENTS // max(1, studies))):
        with torch.autocast(images.device.type, enabled=False):
            similarity = images[rows] @ reports.T
        is_hit = (text_keys[rows, None] == text_keys) & (text_keys != UNKNOWN) | (rows[:, None] == own)
        best = similarity.masked_fill(~is_hit, -torch.inf).amax(dim=1, keepdim=True)
        is_behind = similarity < best - TIE
        ranks.append(1 + (~is_hit & ~is_behind).sum(dim=1))
    return torch.cat(ranks)


class ReportRetrieval(StudyMetric[None]):
    """Image-to-report recall over a split: the share of studies whose report is among the k most similar of all.

    Found is the study's own report, or one with the identical text (normal reports repeat, and no model could tell them
    apart). Ties count against the model (see `retrieval_ranks`), so one that embeds everything alike scores 0, not 1.
    `compute()` gives "R@1", "R@5" and "R@10" in [0, 1]; each study is counted once over all ranks. Where a split has no
    more than k reports, R@k is 1 and says nothing.
    """

    higher_is_better = True

    def update(self, images: Tensor, reports: Tensor, ids: Sequence[str], match_keys: Tensor) -> None:
        """Add B studies.

        Args:
            images: `(B, D)` embeddings.
            reports: `(B, D)` embeddings of their reports.
            ids: B study identifiers, unique within the split.
            match_keys: `(B, M)` int64, M > 2; column 2 is the key of the text, -1 where unknown.

        Raises:
            ValueError: if the shapes do not fit together.
        """
        if images.shape != reports.shape or images.ndim != 2 or match_keys.ndim != 2 or match_keys.shape[1] <= TEXT:
            raise ValueError(
                "Expected `images` and `reports` of one shape (B, D) and `match_keys` (B, M) with M > 2, but got "
                f"{tuple(images.shape)}, {tuple(reports.shape)} and {tuple(match_keys.shape)}."
            )
        self.remember(ids, images.float(), reports.float(), match_keys[:, TEXT])

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], None]:
        """Recall at each cut-off, computed on the metric's device."""
        ranks = retrieval_ranks(*(column.to(self.device) for column in columns))
        return {f"R@{k}": (ranks <= k).double().mean().item() for k in CUTOFFS}, None
