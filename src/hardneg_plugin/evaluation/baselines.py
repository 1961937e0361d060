"""Baselines that learn nothing: the most frequent report, and the report of the most similar image."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.backbones.decoder import evaluating
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.visual_features import ViewEncoder
from hardneg_plugin.data.studies import Batch


def most_frequent_report(reports: Sequence[str]) -> str:
    """The report that occurs most often; of equally frequent ones the first."""
    return Counter(reports).most_common(1)[0][0]


@dataclass(frozen=True)
class ImageEmbeddings:
    """Pooled image features `(N, D)` of N studies, with their ids and cleaned reports."""

    features: Tensor
    ids: list[str]
    reports: list[str]


@torch.no_grad()
def embed_studies(visual: ViewEncoder | GroundedVisual, batches: Iterable[Batch]) -> ImageEmbeddings:
    """Run a visual extractor over a split, in evaluation mode.

    Args:
        visual: on any device.
        batches: of the N studies.
    """
    device = next(visual.parameters()).device
    features: list[Tensor] = []
    ids: list[str] = []
    reports: list[str] = []
    with evaluating(visual):
        for batch in batches:
            features.append(visual(batch["images"].to(device), batch["view_mask"].to(device)).pooled.cpu())
            ids += batch["ids"]
            reports += batch["references"]
    return ImageEmbeddings(torch.cat(features), ids, reports)


def nearest_image_reports(studies: ImageEmbeddings, train: ImageEmbeddings) -> list[str]:
    """For each study the training report whose image is most similar, by cosine after centring.

    Features of an untrained network have a large common part, which centring removes.

    Args:
        studies: `(N, D)` features.
        train: `(M, D)` features, of the same extractor.

    Returns:
        N reports.
    """
    centre = train.features.mean(dim=0)
    similarity = F.normalize(studies.features - centre, dim=-1) @ F.normalize(train.features - centre, dim=-1).T
    return [train.reports[i] for i in similarity.argmax(dim=1).tolist()]
