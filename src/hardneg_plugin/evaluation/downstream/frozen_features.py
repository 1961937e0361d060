"""A split as a frozen model sees it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin.backbones.decoder import evaluating
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.finding_maps import finding_maps
from hardneg_plugin.evaluation.downstream.pair_scorer import PairScorer, Side
from hardneg_plugin.functional.pooling import masked_mean
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.objectives.local_features import LocalFeatures

Model = StudyModel[Any]


@dataclass(frozen=True)
class Encoded:
    """N studies, on the CPU."""

    ids: list[str]
    references: list[str]
    """The reports in the tokenizer's cleaned form: what recall takes for one report."""
    pooled: Tensor
    """`(N, D_v)`."""
    patches: Tensor
    """`(N, P, D_v)`, view by view."""
    patch_mask: Tensor
    """`(N, P)` bool."""
    grid: tuple[int, int]
    """Of a view's patches."""
    images: Tensor | None = None
    """`(N, D)`, in the space of the alignment, where there is one; so are the next."""
    reports: Tensor | None = None
    maps: Tensor | None = None
    """`(N, P, F)`: where the model looks for each finding; where asked for."""
    words: Tensor | None = None
    """`(N, W, D)`, of a model that matches words with regions; where asked for, and so are the next."""
    word_mask: Tensor | None = None
    """`(N, W)` bool."""
    regions: Tensor | None = None
    """`(N, P, D)`."""
    region_mask: Tensor | None = None
    """`(N, P)` bool."""

    @property
    def matched(self) -> tuple[Side, Side]:
        """Images with their regions, and reports with their words, to be scored as pairs."""
        columns = (self.images, self.regions, self.region_mask, self.reports, self.words, self.word_mask)
        images, regions, region_mask, reports, words, word_mask = (_there(column) for column in columns)
        return Side(images, LocalFeatures.of(regions, region_mask)), Side(reports, LocalFeatures.of(words, word_mask))

    @property
    def first_view(self) -> Tensor:
        """The patches of the first view as a map: `(N, D_v, h, w)`."""
        size = self.grid[0] * self.grid[1]
        first: Tensor = self.patches[:, :size].mT.unflatten(2, self.grid)
        return first

    @property
    def placed(self) -> Tensor:
        """The patches and where each is: `(N, P, D_v + 3)`, row and column in its view from 0 to 1, and the view's number."""
        rows, columns = self.grid
        number = torch.arange(self.patches.shape[1])
        view, place = number // (rows * columns), number % (rows * columns)
        where = (place // columns / max(1, rows - 1), place % columns / max(1, columns - 1), view)
        places = torch.stack([some.to(self.patches.dtype) for some in where], dim=-1)
        return torch.cat([self.patches, places.expand(len(self.patches), -1, -1)], dim=-1)


def encode(
    model: Model,
    batches: Iterable[Batch],
    *,
    device: str,
    maps_of: Knowledge | None = None,
    patches: bool = True,
    matcher: PairScorer | None = None,
) -> Encoded:
    """Run a frozen model over a split, in evaluation mode.

    Args:
        model: it.
        batches: of the split, in order.
        device: where to run.
        maps_of: also where the model looks for each of its entities.
        patches: False keeps the pooled features only.
        matcher: also words and regions as it matches them.

    Raises:
        UserError: the split has no study, or the model does not say where it looks.
    """
    model.to(device)
    ids: list[str] = []
    references: list[str] = []
    columns: dict[str, list[Tensor]] = {}
    grid = (1, 1)
    with evaluating(model), torch.no_grad():
        for batch in batches:
            batch = model.transfer_batch_to_device(batch, torch.device(device), 0)
            seen = model.encode_images(batch)
            grid = seen.grid
            of_batch = {"pooled": seen.pooled}
            if patches:
                of_batch |= {"patches": seen.patches, "patch_mask": seen.patch_mask}
            if isinstance(model, AlignedModel):
                of_batch["images"], of_batch["reports"] = model.embed_pairs(batch, seen.pooled)
            if matcher is not None:
                words, regions = matcher.words(batch["tokens"], batch["token_mask"]), matcher.regions(seen)
                of_batch |= {"words": words.features, "word_mask": words.mask}
                of_batch |= {"regions": regions.features, "region_mask": regions.mask}
            if maps_of is not None:
                of_batch["maps"] = finding_maps(model, batch, seen, maps_of).mT
            ids += batch["ids"]
            references += batch["references"]
            for name, rows in of_batch.items():
                columns.setdefault(name, []).append(rows.cpu() if rows.dtype == torch.bool else rows.float().cpu())
    if not ids:
        raise UserError(
            "Expected studies to look at, but a split has none: give the training, val and test split some."
        )
    joined = {name: _joined(rows) for name, rows in columns.items()}
    if not patches:
        joined |= {"patches": torch.empty(len(ids), 0, 0), "patch_mask": torch.empty(len(ids), 0, dtype=torch.bool)}
    return Encoded(ids=ids, references=references, grid=grid, **joined)


def text_features(model: Model, texts: Sequence[str]) -> Tensor:
    """What the model makes of texts before any alignment, `(M, D_q)`: the mean over their words, on the CPU."""
    tokens, mask = model.tokenize(texts)
    with evaluating(model), torch.no_grad():
        if isinstance(model, AlignedModel):
            words = model.encode_reports(tokens)
        elif isinstance(model, ReportGenerator):
            words = model.decoder.word_embeddings(tokens)
        else:
            raise UserError(f"Expected a model that reads texts, but got a {type(model).__name__}.")
        return masked_mean(words, mask[:, 1:]).float().cpu()


def _there(column: Tensor | None) -> Tensor:
    if column is None:
        raise ValueError("Expected a split that was encoded with a matcher.")
    return column


def _joined(batches: list[Tensor]) -> Tensor:
    """The studies of all batches; those of fewer patches are filled up with what is masked."""
    return pad_sequence([study for batch in batches for study in batch], batch_first=True)
