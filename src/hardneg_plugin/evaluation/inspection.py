"""What a trained generator does with each study of a split: its words, where it looked, and how close its peers are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hardneg_plugin.backbones.decoder import ReportDecoder, evaluating
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.visual import VisualFeatures
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.evaluation.alignment_inspection import FoundEntity, Reading, found_entities, read_references
from hardneg_plugin.evaluation.heat_maps import quantised
from hardneg_plugin.knowledge import Prompt
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.models.report_io import WrittenReport, report_of
from hardneg_plugin.neighbours.embedders import TfidfEmbedder, embed
from hardneg_plugin.neighbours.groups import Groups
from hardneg_plugin.neighbours.search import ChunkedSearch, NeighbourRule
from hardneg_plugin.objectives import HardNegativeObjective


@dataclass(frozen=True)
class Similarities:
    """How an image embedding is aligned with reports, as cosines in the space of the objective."""

    own: float
    """With its own report, z·u."""
    hard: float
    """With its hard negative, z·n."""
    hardened: float | None
    """With its hardened negative, z·ñ: a dot product where the strategy leaves the sphere. None where none is hardened."""


@dataclass(frozen=True)
class Inspected:
    """One study."""

    id: str
    text: str
    """The generated report."""
    words: list[str]
    """Those of the text, which the rows of `attention` belong to."""
    attention: NDArray[np.uint8] | None
    """`(words, views, rows, columns)`, by the mean over layers and heads: 255 is the word's largest value. None where the decoder
    gives no attention."""
    similarities: Similarities | None
    """None for a bare host, and for a study without a hard negative."""
    hard_negative: str | None
    """The nearest study of the split that is no match; None where all others match."""
    reading: Reading | None = None
    """How the alignment reads the reference; None for one that does not compare words with regions."""
    entities: list[FoundEntity] | None = None
    """Those found or stated, the most likely first; None for a model that looks for none."""


@dataclass(frozen=True)
class _Seen:
    """What one batch leaves, on the CPU."""

    ids: list[str]
    references: list[str]
    written: list[WrittenReport]
    readings: Sequence[Reading | None]
    entities: Sequence[list[FoundEntity] | None]
    images: Tensor
    reports: Tensor


def inspect_split(
    model: ReportGenerator,
    batches: Iterable[Batch],
    *,
    decoding: Decoding,
    groups: Groups,
    hardness: float,
    stated: Mapping[str, Mapping[Prompt, int]] = {},
) -> list[Inspected]:
    """Read a split once, in evaluation mode and without gradient; the mode and the random state stay what they were.

    Report embeddings are those that recall is measured by: of the decoder's text-only states, whatever the objective was trained
    on, since states that attend to the study's own image would carry their answer. Hard negatives are the nearest by them; of a
    bare host, by TF-IDF of the references.

    Args:
        model: on the device where it is to run.
        batches: all studies of the split, in order.
        decoding: how the reports are written.
        groups: which studies match, `(N,)` each, in the order of the batches.
        hardness: of the hardened negatives, in [0, 1]; the strategy is that of `Hardening.for_evaluation`. One that mixes the
            studies of a batch takes the split as its batch.
        stated: by study what its report says of each prompt, for a model that looks for entities; empty where that is not known.
    """
    devices = [model.device] if model.device.type == "cuda" else []
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
        seen = [_read(model, batch, decoding, stated) for batch in batches]
        ids = [study for batch in seen for study in batch.ids]
        written = [report for batch in seen for report in batch.written]
        similarities: list[Similarities | None] = [None] * len(ids)
        if isinstance(model, HardNegativeReportGenerator):
            images, reports = (torch.cat([getattr(batch, name) for batch in seen]) for name in ("images", "reports"))
            nearest = _nearest(reports, groups)
            similarities = _similarities(model.hard_negatives, images, reports, nearest, hardness)
        else:
            nearest = _nearest(embed(TfidfEmbedder(), [text for batch in seen for text in batch.references]), groups)
    return [
        Inspected(
            id=study,
            text=report.text,
            words=report.words,
            attention=None if report.attention is None else quantised(report.attention),
            similarities=similarity,
            hard_negative=None if hard < 0 else ids[hard],
            reading=reading,
            entities=entities,
        )
        for study, report, similarity, hard, reading, entities in zip(
            ids,
            written,
            similarities,
            nearest.tolist(),
            (reading for batch in seen for reading in batch.readings),
            (entities for batch in seen for entities in batch.entities),
            strict=True,
        )
    ]


def _read(
    model: ReportGenerator, batch: Batch, decoding: Decoding, stated: Mapping[str, Mapping[Prompt, int]]
) -> _Seen:
    batch = model.transfer_batch_to_device(batch, model.device, 0)
    features = model.encode_images(batch)
    words = model.decoder.decode(features.context, decoding, patch_mask=features.context_mask).tokens[:, 0]
    maps = _attention(model.decoder, features, words)
    written = [
        report_of(model.tokenizer, row, None if maps is None else maps[study][:, batch["view_mask"][study].cpu()])
        for study, row in enumerate(words.tolist())
    ]
    embeddings = torch.empty(len(words), 0), torch.empty(len(words), 0)
    if isinstance(model, HardNegativeReportGenerator):
        embeddings = model.embed_apart(batch, features.pooled)
    unknown = [None] * len(words)
    return _Seen(
        batch["ids"],
        batch["references"],
        written,
        read_references(model, batch, features) or unknown,
        found_entities(model, batch, features, stated) or unknown,
        *(each.cpu() for each in embeddings),
    )


def _attention(decoder: ReportDecoder, features: VisualFeatures, words: Tensor) -> Tensor | None:
    """`(B, words, views, rows, columns)`, the mean over layers and heads; None where the decoder gives none."""
    try:
        maps = decoder.attention_maps(features.context, F.pad(words, (1, 0)), patch_mask=features.context_mask)
    except (AttributeError, TypeError, ValueError):  # as models of other libraries fail that keep theirs to themselves
        return None
    return features.on_patches(maps.mean((1, 2))).float().cpu()


def _nearest(embeddings: Any, groups: Groups) -> NDArray[np.int64]:
    """For each study the index of the nearest that is no match, -1 where there is none."""
    nearest: NDArray[np.int64] = ChunkedSearch()(embeddings, NeighbourRule(groups)).index[:, 0]
    return nearest


def _similarities(
    objective: HardNegativeObjective, images: Tensor, reports: Tensor, nearest: NDArray[np.int64], hardness: float
) -> list[Similarities | None]:
    rows = torch.from_numpy(np.flatnonzero(nearest >= 0))
    z, u, n = images[rows], reports[rows], reports[torch.from_numpy(nearest)[rows]]
    hardened = None
    if objective.hardening is not None and len(rows):
        hardened = objective.hardening.for_evaluation()(z, u, n, hardness)
    columns = [(z * others).sum(-1).tolist() for others in (u, n, n if hardened is None else hardened)]
    found: list[Similarities | None] = [None] * len(images)
    for row, own, hard, harder in zip(rows.tolist(), *columns, strict=True):
        found[row] = Similarities(own, hard, None if hardened is None else harder)
    return found
