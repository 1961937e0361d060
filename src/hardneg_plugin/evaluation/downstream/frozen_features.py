"""The features of a split by a frozen model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.backbones.decoder import evaluating
from hardneg_plugin.data.phantom.studies import PhantomSplit
from hardneg_plugin.data.studies import Batch, Studies
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.finding_maps import finding_maps
from hardneg_plugin.evaluation.downstream.pair_scorer import PairScorer, PairSide
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives.local_features import LocalFeatures

Model = StudyModel[Any]


@dataclass(frozen=True)
class FrozenFeatures:
    """The features of N studies, on the CPU."""

    ids: list[str]
    references: list[str]
    """The reports as the tokenizer cleans them; recall counts equal ones as one."""
    pooled: Tensor
    """`(N, D_v)`."""
    patches: Tensor
    """`(N, P, D_v)`, view by view."""
    patch_mask: Tensor
    """`(N, P)` bool."""
    grid: tuple[int, int]
    """`(rows, columns)` of the patches of a view."""
    images: Tensor | None = None
    """`(N, D)`, in the space of the alignment; None without one."""
    reports: Tensor | None = None
    """`(N, D)`, in the same space."""
    maps: Tensor | None = None
    """`(N, P, F)`, as of `finding_maps`; None unless asked for."""
    words: Tensor | None = None
    """`(N, W, D)`, as of `PairScorer`; None unless asked for, like the next three."""
    word_mask: Tensor | None = None
    """`(N, W)` bool."""
    regions: Tensor | None = None
    """`(N, P, D)`."""
    region_mask: Tensor | None = None
    """`(N, P)` bool."""

    @property
    def pair_sides(self) -> tuple[PairSide, PairSide]:
        """Images with their regions, and reports with their words, for a `PairScorer`.

        Raises:
            ValueError: these were not encoded.
        """
        columns = (self.images, self.regions, self.region_mask, self.reports, self.words, self.word_mask)
        if any(column is None for column in columns):
            raise ValueError("Expected features that were encoded with a `pair_scorer`.")
        images, regions, region_mask, reports, words, word_mask = cast(tuple[Tensor, ...], columns)
        return PairSide(images, LocalFeatures.of(regions, region_mask)), PairSide(
            reports, LocalFeatures.of(words, word_mask)
        )

    @property
    def first_view(self) -> Tensor:
        """The patches of the first view as a map: `(N, D_v, h, w)`."""
        size = self.grid[0] * self.grid[1]
        first: Tensor = self.patches[:, :size].mT.unflatten(2, self.grid)
        return first

    @property
    def located_patches(self) -> Tensor:
        """The patches with their positions, `(N, P, D_v + 3)`: row and column in the view, in [0, 1], and the view's index."""
        rows, columns = self.grid
        index = torch.arange(self.patches.shape[1])
        view, cell = index // (rows * columns), index % (rows * columns)
        position = (cell // columns / max(1, rows - 1), cell % columns / max(1, columns - 1), view)
        positions = torch.stack([axis.to(self.patches.dtype) for axis in position], dim=-1)
        return torch.cat([self.patches, positions.expand(len(self.patches), -1, -1)], dim=-1)


@dataclass(frozen=True)
class EncodedSplit:
    """N studies and their features."""

    studies: Studies
    features: FrozenFeatures

    def labels(self, knowledge: Knowledge) -> Tensor:
        """Which entities each study has, `(N, F)` in the order of `entity_names`: 1, 0, or -1 where the report leaves it open."""
        rows = [row for row, prompt in enumerate(knowledge.prompts) if prompt.position is None]
        return torch.tensor([knowledge.facts(report) for report in self.studies.reports])[:, rows]

    @property
    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Of the images and of the reports, `(N, D)` each.

        Raises:
            UserError: the model has no space that they share.
        """
        if self.features.images is None or self.features.reports is None:
            raise UserError(
                "This task needs a space that texts and images share, but this run is of the bare host: train with "
                "model=hard_negatives or model=pretrain."
            )
        return self.features.images, self.features.reports

    @property
    def phantom(self) -> PhantomSplit:
        """The studies, of which everything is known.

        Raises:
            UserError: they are of another data set.
        """
        if not isinstance(self.studies, PhantomSplit):
            raise UserError("This task needs boxes, masks or facts of every finding, which only data=phantom has.")
        return self.studies


def encode(
    model: Model,
    batches: Iterable[Batch],
    *,
    device: str,
    maps_of: Knowledge | None = None,
    patches: bool = True,
    pair_scorer: PairScorer | None = None,
) -> FrozenFeatures:
    """Run a frozen model over a split, in evaluation mode.

    Args:
        model: is moved to `device`.
        batches: of the split, in order.
        device: where to run.
        maps_of: also the maps of its entities.
        patches: False keeps the pooled features only.
        pair_scorer: also the words and regions that it compares; of the model.

    Raises:
        UserError: the split has no study, or the model gives no maps.
    """
    model.to(device)
    ids: list[str] = []
    references: list[str] = []
    columns: dict[str, list[Tensor]] = {}
    grid = (1, 1)
    with evaluating(model), torch.no_grad():
        for batch in batches:
            batch = model.transfer_batch_to_device(batch, torch.device(device), 0)
            visual = model.encode_images(batch)
            grid = visual.grid
            of_batch = {"pooled": visual.pooled}
            if patches:
                of_batch |= {"patches": visual.patches, "patch_mask": visual.patch_mask}
            if isinstance(model, AlignedModel):
                of_batch["images"], of_batch["reports"] = model.embed_pairs(batch, visual.pooled)
            if pair_scorer is not None:
                words, regions = pair_scorer.words(batch["tokens"], batch["token_mask"]), pair_scorer.regions(visual)
                of_batch |= {"words": words.features, "word_mask": words.mask}
                of_batch |= {"regions": regions.features, "region_mask": regions.mask}
            if maps_of is not None:
                of_batch["maps"] = finding_maps(model, batch, visual, maps_of).mT
            ids += batch["ids"]
            references += batch["references"]
            for name, rows in of_batch.items():
                columns.setdefault(name, []).append(rows.cpu() if rows.dtype == torch.bool else rows.float().cpu())
    if not ids:
        raise UserError("Expected studies in each split, but one has none: give the training, val and test split some.")
    # padded to the most patches or words
    joined = {
        name: pad_sequence([study for rows in batches for study in rows], batch_first=True)
        for name, batches in columns.items()
    }
    if not patches:
        joined |= {"patches": torch.empty(len(ids), 0, 0), "patch_mask": torch.empty(len(ids), 0, dtype=torch.bool)}
    return FrozenFeatures(ids=ids, references=references, grid=grid, **joined)


def text_features(model: Model, texts: Sequence[str]) -> Tensor:
    """Features of texts before any alignment: the mean over their words.

    Args:
        model: of an image-report encoder or a report generator.
        texts: M >= 1 of them.

    Returns:
        `(M, D_q)` float32, on the CPU.

    Raises:
        UserError: the model reads no texts.
    """
    tokens, mask = model.tokenize(texts)
    with evaluating(model), torch.no_grad():
        if isinstance(model, AlignedModel):
            words = model.encode_reports(tokens)
        elif isinstance(model, ReportGenerator):
            words = model.decoder.word_embeddings(tokens)
        else:
            raise UserError(f"Expected a model that reads texts, but got a {type(model).__name__}.")
        return masked_mean(words, mask[:, 1:]).float().cpu()
