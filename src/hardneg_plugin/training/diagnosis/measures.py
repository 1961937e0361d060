"""Measures of the diagnosis: similarities over a split, the spread of embeddings, and the effect of exchanged reports."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.data.studies import Batch
from hardneg_plugin.functional.hard_negatives import are_matches, mine
from hardneg_plugin.functional.unit_length import has_direction
from hardneg_plugin.metrics.study_metric import StudyMetric
from hardneg_plugin.models.base import StepOutputs
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives import HardNegativeObjective

HardenFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images, reports and hard negatives, `(N, D)` each, to hardened negatives `(N, D)`."""


@dataclass(frozen=True)
class ValidationEmbeddings:
    """Unit-length embeddings of N studies in the objective's space, and their match keys."""

    images: Tensor
    """`(N, D)` float32, on the CPU."""
    reports: Tensor
    """`(N, D)` float32, on the CPU."""
    keys: Tensor
    """`(N, 4)` int64."""


class EmbeddedSplit(StudyMetric[ValidationEmbeddings]):
    """The embeddings of a split, each study counted once over all ranks."""

    def update(self, ids: list[str], images: Tensor, reports: Tensor, keys: Tensor) -> None:
        """Add B studies.

        Args:
            ids: of the studies.
            images, reports: unit-length embeddings `(B, D)`.
            keys: match keys `(B, 4)` int64.
        """
        self.remember(ids, images.float(), reports.float(), keys)

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], ValidationEmbeddings]:
        """No scores, and the embeddings of all studies but those whose features are not finite, or of length zero."""
        images, reports, keys = columns
        kept = has_direction(images) & has_direction(reports)
        return {}, ValidationEmbeddings(images[kept], reports[kept], keys[kept])

    def studies(self) -> ValidationEmbeddings | None:
        """All studies on rank 0, None on other ranks and without studies; call it on all ranks."""
        self.compute()
        return self._details


@dataclass(frozen=True)
class ReportExchange:
    """Effects of giving the studies of a batch the reports of others."""

    image_sensitivity: float
    """Share of positions, in [0, 1], at which another study's image changes the likeliest next token."""
    pairs: int
    """Number of exchanged reports."""
    text_gap: float | None = None
    """Mean cosine z·u minus that to another study's report, read with this image; None without an objective."""
    study_gap: float | None = None
    """Mean cosine z·u minus that to another study's report, read with that study's image; None without an objective."""


def other_studies(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Another study for each of N: the next one in a fixed random cycle through all.

    Args:
        keys: match keys `(N, M)` int64.

    Returns:
        `index (N,)` int64, and `valid (N,)` bool, False where the other study is a match.
    """
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0)).to(keys.device)
    index = torch.empty_like(order)
    index[order] = order.roll(1)
    return index, ~are_matches(keys, keys[index, None])[:, 0] & (index != torch.arange(len(keys), device=keys.device))


def similarities(studies: ValidationEmbeddings, harden: HardenFunction | None) -> dict[str, Tensor]:
    """Cosines of images with several kinds of reports over a split.

    Args:
        studies: N of them.
        harden: the inner maximisation; None: no hardened negatives.

    Returns:
        By kind, one value per study that has such a report, on the CPU. "positive": its own report. "random": the report of
        another study. "hard_negative": the report nearest to the positive that is no match. "hardened": the same, hardened.
    """
    images, reports = studies.images, studies.reports
    other, has_other = other_studies(studies.keys)
    index, found = mine(reports, studies.keys, k=1)
    nearest, found = reports[index[:, 0]], found[:, 0]
    measured = {
        "positive": _cosines(images, reports),
        "random": _cosines(images, reports[other])[has_other],
        "hard_negative": _cosines(images, nearest)[found],
    }
    if harden is not None:
        measured["hardened"] = _cosines(images, harden(images, reports, nearest))[found]
    return measured


def closer_than_random(studies: ValidationEmbeddings) -> tuple[float, int]:
    """The share of studies whose positive is closer to the image than another study's report, and the number of studies.

    Chance is 0.5; ties count as half.
    """
    index, valid = other_studies(studies.keys)
    difference = (_cosines(studies.images, studies.reports) - _cosines(studies.images, studies.reports[index]))[valid]
    wins = (difference > 0).double() + (difference == 0).double() / 2
    return (wins.mean().item() if len(wins) else 0.5), len(wins)


def hardening_of(objective: HardNegativeObjective, hardness: float) -> HardenFunction | None:
    """The objective's inner maximisation for studies that are not in training; None without one.

    Hardenings that mix the studies of a batch are left out, as a split is no batch.

    Args:
        objective: whose hardening.
        hardness: in [0, 1].
    """
    if objective.hardening is None or objective.hardening.mixes_studies:
        return None
    hardening = objective.hardening.for_evaluation()
    return lambda z, u, n: hardening(z, u, n, hardness)


def mean_pairwise_cosine(embeddings: Tensor) -> float:
    """The mean cosine of all pairs of N >= 2 unit-length rows `(N, D)`: `(|Σ x|² - N) / (N (N - 1))`.

    >>> mean_pairwise_cosine(torch.eye(3))
    0.0
    """
    count = len(embeddings)
    return (embeddings.double().sum(0).square().sum().item() - count) / (count * (count - 1))


def effective_dimensions(embeddings: Tensor) -> float:
    """The participation ratio of rows `(N, D)`: `(Σ λ)² / Σ λ²` over the eigenvalues λ of their covariance; 0 for equal rows.

    From 1 for points on a line to D for an isotropic cloud. See Gao et al., "A theory of multineuronal dimensionality, dynamics
    and measurement", 2017.

    >>> effective_dimensions(torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]))
    1.0
    """
    centred = embeddings.double() - embeddings.double().mean(0)
    covariance = centred.T @ centred
    total = covariance.trace().square()
    # equal rows have a covariance by rounding
    return 0.0 if total < 1e-12 else (total / covariance.square().sum()).item()


def exchange_reports(model: ReportGenerator, batch: Batch, outputs: StepOutputs) -> ReportExchange:
    """Read another study's report with each image, teacher-forced, and compare.

    Call it in evaluation mode without gradient. It costs one pass through the decoder, and two more without image for
    `report_feature=text_only`. Matches are left out, as the same text is right for their images.

    Args:
        model: the generator.
        batch: of validation, with B studies.
        outputs: of `validation_step` on it.
    """
    index, valid = other_studies(batch["match_keys"])
    other: Batch = {**batch, "tokens": batch["tokens"][index], "token_mask": batch["token_mask"][index]}
    visual = outputs["visual"]
    states = model.decoder.states(visual.context, other["tokens"], patch_mask=visual.context_mask)
    likeliest = model.decoder.classify(states).argmax(-1)
    with_its_image = model.decoder.classify(outputs["states"][index]).argmax(-1)
    changed = (likeliest != with_its_image)[other["token_mask"][:, 1:] & valid[:, None]]
    image_sensitivity = changed.double().mean().item() if len(changed) else 0.0
    pairs = int(valid.sum())
    if not isinstance(model, HardNegativeReportGenerator) or not pairs:
        return ReportExchange(image_sensitivity, pairs)
    images, reports = model.hard_negatives.project(model.embed(batch, outputs))
    _, wrong = model.hard_negatives.project(model.embed(other, {**outputs, "states": states}))
    positive = _cosines(images, reports)
    differences = torch.stack([positive - _cosines(images, others) for others in (wrong, reports[index])])
    gaps = differences[:, valid & differences.isfinite().all(0)].mean(1).tolist()
    return ReportExchange(image_sensitivity, pairs, *gaps)


def _cosines(images: Tensor, reports: Tensor) -> Tensor:
    return (images * reports).sum(dim=-1)
