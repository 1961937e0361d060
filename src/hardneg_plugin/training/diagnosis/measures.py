"""What the diagnosis measures: similarities over a split, how far embeddings spread, and what an exchanged report changes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.data.studies import Batch
from hardneg_plugin.functional.hard_negatives import are_matches, mine
from hardneg_plugin.metrics.study_metric import StudyMetric
from hardneg_plugin.models.base import StepOutputs
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives import HardNegativeObjective

Harden = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images, reports and negatives, `(N, D)` each, to hardened negatives."""


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
        """Add B studies."""
        self.remember(ids, images.float(), reports.float(), keys)

    def score(self, ids: list[str], *columns: Any) -> tuple[dict[str, float], ValidationEmbeddings]:
        """No score, and all studies."""
        return {}, ValidationEmbeddings(*columns)

    def studies(self) -> ValidationEmbeddings | None:
        """All studies on rank 0, None elsewhere and where none was seen; to be called on all ranks."""
        self.compute()
        return self._details


@dataclass(frozen=True)
class Exchanged:
    """What changes where the studies of a batch get one another's reports."""

    image_sensitivity: float
    """Share of a report's words for which another one becomes the likeliest under another study's image, in [0, 1]."""
    pairs: int
    """Studies that were exchanged."""
    text_gap: float | None = None
    """Mean z·u less that to another study's report read with the own image, a cosine; None without an objective."""
    study_gap: float | None = None
    """Mean z·u less that to another study's report read with its own image, a cosine; None without an objective."""


def other_studies(keys: Tensor) -> tuple[Tensor, Tensor]:
    """One other study for each of N, on a round trip through all of them in a fixed random order.

    Args:
        keys: match keys `(N, M)` int64.

    Returns:
        `index (N,)` int64, and `valid (N,)` bool: False where the other study is a match.
    """
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(0)).to(keys.device)
    index = torch.empty_like(order)
    index[order] = order.roll(1)
    return index, ~are_matches(keys, keys[index, None])[:, 0] & (index != torch.arange(len(keys), device=keys.device))


def similarities(studies: ValidationEmbeddings, harden: Harden | None) -> dict[str, Tensor]:
    """Products with the image z over a split, one per study, on the CPU.

    Returns:
        "own": the own report. "random": another study's. "hard_negative": the report nearest to the own one of all that are
        no match. "hardened": that one hardened, where there is a `harden`. Studies without such a report are left out.
    """
    images, reports = studies.images, studies.reports
    other, has_other = other_studies(studies.keys)
    index, found = mine(reports, studies.keys, k=1)
    nearest, found = reports[index[:, 0]], found[:, 0]
    measured = {
        "own": _products(images, reports),
        "random": _products(images, reports[other])[has_other],
        "hard_negative": _products(images, nearest)[found],
    }
    if harden is not None:
        measured["hardened"] = _products(images, harden(images, reports, nearest))[found]
    return measured


def closer_than_random(studies: ValidationEmbeddings) -> tuple[float, int]:
    """The share of studies whose own report is closer to the image than another study's; 0.5 is chance. And their number.

    Ties count as half.
    """
    index, valid = other_studies(studies.keys)
    difference = (_products(studies.images, studies.reports) - _products(studies.images, studies.reports[index]))[valid]
    wins = (difference > 0).double() + (difference == 0).double() / 2
    return (wins.mean().item() if len(wins) else 0.5), len(wins)


def hardening_of(objective: HardNegativeObjective, hardness: float) -> Harden | None:
    """The objective's inner maximisation, for studies it may never have seen; None where it has none for single studies.

    A strategy that mixes the studies of a training batch has none: a split is no batch.
    """
    if objective.hardening is None or objective.hardening.mixes_studies:
        return None
    hardening = objective.hardening.for_evaluation()
    return lambda z, u, n: hardening(z, u, n, hardness)


def mean_pairwise_cosine(embeddings: Tensor) -> float:
    """The mean cosine of all pairs of N >= 2 unit-length rows `(N, D)`: `(|Σ x|² - N) / (N (N - 1))`."""
    count = len(embeddings)
    return (embeddings.double().sum(0).square().sum().item() - count) / (count * (count - 1))


def effective_dimensions(embeddings: Tensor) -> float:
    """In how many directions rows `(N, D)` vary: `(Σ λ)² / Σ λ²` over the eigenvalues λ of their covariance; 0 for equal rows.

    From 1 for points on a line to D for a round cloud. The participation ratio, as in Gao et al., "A theory of multineuronal
    dimensionality, dynamics and measurement", 2017.
    """
    centred = embeddings.double() - embeddings.double().mean(0)
    covariance = centred.T @ centred
    total = covariance.trace().square()
    # rounding alone leaves equal rows a covariance
    return 0.0 if total < 1e-12 else (total / covariance.square().sum()).item()


def exchange_reports(model: ReportGenerator, batch: Batch, outputs: StepOutputs) -> Exchanged:
    """Read another study's report with each image, teacher-forced, and compare; in evaluation mode and without gradient.

    One further pass through the decoder, and for `report_feature=text_only` two without image. Matches are left out: with
    their image, the same words are right.

    Args:
        batch, outputs: a validation batch, and what `validation_step` returned.
    """
    index, valid = other_studies(batch["match_keys"])
    other: Batch = {**batch, "tokens": batch["tokens"][index], "token_mask": batch["token_mask"][index]}
    visual = outputs["visual"]
    states = model.decoder.states(visual.context, other["tokens"], patch_mask=visual.context_mask)
    likeliest = model.decoder.classify(states).argmax(-1)
    with_its_image = model.decoder.classify(outputs["states"][index]).argmax(-1)
    moved = (likeliest != with_its_image)[other["token_mask"][:, 1:] & valid[:, None]]
    image_sensitivity = moved.double().mean().item() if len(moved) else 0.0
    pairs = int(valid.sum())
    if not isinstance(model, HardNegativeReportGenerator) or not pairs:
        return Exchanged(image_sensitivity, pairs)
    images, reports = model.hard_negatives.project(model.embed(batch, outputs))
    _, wrong = model.hard_negatives.project(model.embed(other, {**outputs, "states": states}))
    own = _products(images, reports)
    gaps = [(own - _products(images, others))[valid].mean().item() for others in (wrong, reports[index])]
    return Exchanged(image_sensitivity, pairs, *gaps)


def _products(images: Tensor, reports: Tensor) -> Tensor:
    return (images * reports).sum(dim=-1)
