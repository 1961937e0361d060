"""Inspect what a trained generator makes of studies: its words, its attention, and how close the hard negatives are."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hardneg_plugin.backbones.decoder import ReportDecoder, evaluating
from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.visual_features import VisualFeatures
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.data.tokenizer import UNKNOWN_WORD
from hardneg_plugin.evaluation.inspected_study import (
    FOUND_ABOVE,
    FoundEntity,
    InspectedStudy,
    Reading,
    Similarities,
    quantise,
)
from hardneg_plugin.knowledge import PRESENT, Prompt
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.models.report_io import generated_report, token_positions
from hardneg_plugin.neighbours.embedders import TfidfEmbedder, embed
from hardneg_plugin.neighbours.groups import Groups
from hardneg_plugin.neighbours.search import ChunkedSearch, NeighbourRule
from hardneg_plugin.objectives import GroundedKnowledgeObjective, HardNegativeObjective, RelationEnhancedObjective


def inspect_split(
    model: ReportGenerator,
    shown: Iterable[Batch],
    others: Iterable[Batch] = (),
    *,
    references: Mapping[str, str],
    groups: Groups,
    decoding: Decoding,
    hardness: float,
    stated: Mapping[str, Mapping[Prompt, int]] = {},
) -> dict[str, InspectedStudy]:
    """Inspect some studies of a split, in evaluation mode and without gradient; mode and random state are restored.

    Hard negatives are the nearest studies of the whole split that are no match: by the report embeddings that recall is measured
    with, which attend to no image, whatever the objective was trained on; for a bare host, by TF-IDF of the references. So the
    other studies are only embedded, and under a bare host not even read.

    Args:
        model: on the device where it is to run.
        shown: the studies to inspect.
        others: the other studies of the split.
        references: the report of each of the N studies of the split, by study.
        groups: which studies match, `(N,)` each, in the order of `references`.
        decoding: how the reports are generated.
        hardness: of the hardened negatives, in [0, 1]; the strategy is that of `Hardening.for_evaluation`. One that mixes the
            studies of a batch takes the split as its batch.
        stated: by study what its report says of each prompt, for a model that looks for entities; empty where that is not known.

    Returns:
        The studies of `shown`, in their order, without findings and scores.
    """
    inspected: dict[str, InspectedStudy] = {}
    embedded: dict[str, tuple[Tensor, Tensor]] = {}
    similarities: dict[int, Similarities] = {}
    devices = [model.device] if model.device.type == "cuda" else []
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=devices):
        for batch in shown:
            batch = model.transfer_batch_to_device(batch, model.device, 0)
            features = model.encode_images(batch)
            inspected.update(_inspect(model, batch, features, decoding, stated))
            if isinstance(model, HardNegativeReportGenerator):
                embedded.update(_embed(model, batch, features))
        if isinstance(model, HardNegativeReportGenerator):
            for batch in others:
                batch = model.transfer_batch_to_device(batch, model.device, 0)
                embedded.update(_embed(model, batch, model.encode_images(batch)))
            pairs = [embedded[study] for study in references]
            images, reports = (torch.stack(column) for column in zip(*pairs, strict=True))
            nearest = _nearest(reports, groups)
            similarities = _similarities(model.hard_negatives, images, reports, nearest, hardness)
        else:
            nearest = _nearest(embed(TfidfEmbedder(), list(references.values())), groups)
    ids = list(references)
    for row, (study, other) in enumerate(zip(ids, nearest.tolist(), strict=True)):
        if study in inspected:
            negative = None if other < 0 else ids[other]
            inspected[study] = replace(inspected[study], similarities=similarities.get(row), hard_negative=negative)
    return inspected


def _inspect(
    model: ReportGenerator,
    batch: Batch,
    features: VisualFeatures,
    decoding: Decoding,
    stated: Mapping[str, Mapping[Prompt, int]],
) -> dict[str, InspectedStudy]:
    """The studies of a batch, without similarities and hard negatives."""
    tokens = model.decoder.decode(features.context, decoding, patch_mask=features.context_mask).tokens[:, 0]
    maps = _attention(model.decoder, features, tokens)
    readings = _read_references(model, batch, features)
    entities = _found_entities(model, batch, features, stated)
    inspected = {}
    for row, study in enumerate(batch["ids"]):
        of_study = None if maps is None else maps[row][:, batch["view_mask"][row].cpu()]
        report = generated_report(model.tokenizer, tokens[row].tolist(), of_study)
        inspected[study] = InspectedStudy(
            text=report.text,
            attention=None if report.attention is None else quantise(report.attention),
            reading=None if readings is None else readings[row],
            entities=None if entities is None else entities[row],
        )
    return inspected


def _read_references(model: ReportGenerator, batch: Batch, features: VisualFeatures) -> list[Reading] | None:
    """How each of B references is read; None where the objective does not compare words with regions.

    Args:
        model: in evaluation mode.
        batch: of B studies.
        features: of their images, of `model.encode_images`.
    """
    if not isinstance(model, HardNegativeReportGenerator):
        return None
    objective = model.hard_negatives
    if not isinstance(objective, RelationEnhancedObjective):
        return None
    pairs = model.embed(batch, {"visual": features})
    with torch.autocast(model.device.type, enabled=False):  # as in training
        words, regions = objective.parts(pairs)
        maps = objective.scores.attention(words, regions).unflatten(-1, (-1, *features.grid)).cpu()
        weights = objective.scores.word_importance(words, regions)
    readings = []
    for study, row in enumerate(batch["tokens"][:, 1:].tolist()):
        report = generated_report(model.tokenizer, row, maps[study][:, batch["view_mask"][study].cpu()])
        assert report.attention is not None
        of_words = token_positions(model.tokenizer, row)
        readings.append(
            Reading(
                words=_with_rare_words(report.words, batch["references"][study].split()),
                importance=None if weights is None else [float(weights[study, tokens].sum()) for tokens in of_words],
                attention=quantise(report.attention),
            )
        )
    return readings


def _found_entities(
    model: ReportGenerator, batch: Batch, features: VisualFeatures, stated: Mapping[str, Mapping[Prompt, int]]
) -> list[list[FoundEntity]] | None:
    """For each of B studies the entities that are found or stated, the most likely first; None where none are looked for.

    Args:
        model: in evaluation mode.
        batch: of B studies.
        features: of their images, of `model.encode_images`.
        stated: by study what its report says of each prompt; a study may be missing, and so may a prompt.
    """
    if not isinstance(model, HardNegativeReportGenerator) or not isinstance(model.visual, GroundedVisual):
        return None
    objective, found = model.hard_negatives, features.entities
    if not isinstance(objective, GroundedKnowledgeObjective) or objective.entity is None or found is None:
        return None
    with torch.autocast(model.device.type, enabled=False):  # as in training
        probabilities = objective.entity(found.float()).squeeze(-1).sigmoid()
    maps = model.visual.attention(features, batch.get("boxes"))
    maps = maps.unflatten(-1, (-1, *features.grid)).float().cpu()  # (B, prompts, views, rows, columns)
    prompts, entities = model.visual.grounding.prompts, []
    columns = zip(batch["ids"], probabilities.cpu(), maps, batch["view_mask"].cpu(), strict=True)
    for study, of_prompts, their_maps, view_mask in columns:
        facts = [stated.get(study, {}).get(prompt) for prompt in prompts]
        order = of_prompts.argsort(descending=True, stable=True).tolist()
        kept = [row for row in order if of_prompts[row] > FOUND_ABOVE or facts[row] == PRESENT]
        shown = zip(kept, quantise(their_maps[kept][:, view_mask]), strict=True)
        entities.append(
            [FoundEntity(prompts[row].phrase, float(of_prompts[row]), facts[row], one) for row, one in shown]
        )
    return entities


def _with_rare_words(read: list[str], reference: list[str]) -> list[str]:
    """The words that are read, with the reference's rare words in place of the unknown token."""
    words = reference[: len(read)]
    is_same = len(words) == len(read) and all(
        word in (original, UNKNOWN_WORD) for word, original in zip(read, words, strict=True)
    )
    return words if is_same else read


def _embed(
    model: HardNegativeReportGenerator, batch: Batch, features: VisualFeatures
) -> dict[str, tuple[Tensor, Tensor]]:
    """By study its image and its report, `(D,)` each, on the CPU."""
    images, reports = (each.cpu() for each in model.embed_pairs(batch, features.pooled))
    return dict(zip(batch["ids"], zip(images, reports, strict=True), strict=True))


def _attention(decoder: ReportDecoder, features: VisualFeatures, tokens: Tensor) -> Tensor | None:
    """`(B, tokens, views, rows, columns)`, the mean over layers and heads; None where the decoder gives none."""
    try:
        maps = decoder.attention_maps(features.context, F.pad(tokens, (1, 0)), patch_mask=features.context_mask)
    except (AttributeError, TypeError, ValueError):  # as decoders of other libraries fail that give none
        return None
    return features.on_patches(maps.mean((1, 2))).float().cpu()


def _nearest(embeddings: Any, groups: Groups) -> NDArray[np.int64]:
    """For each study the index of the nearest study that is no match; -1 where all match."""
    nearest: NDArray[np.int64] = ChunkedSearch()(embeddings, NeighbourRule(groups)).index[:, 0]
    return nearest


def _similarities(
    objective: HardNegativeObjective, images: Tensor, reports: Tensor, nearest: NDArray[np.int64], hardness: float
) -> dict[int, Similarities]:
    """By the row of each study that has a hard negative."""
    rows = torch.from_numpy(np.flatnonzero(nearest >= 0))
    z, u, n = images[rows], reports[rows], reports[torch.from_numpy(nearest)[rows]]
    hardened = None
    if objective.hardening is not None and len(rows):
        hardened = objective.hardening.for_evaluation()(z, u, n, hardness)
    columns = [(z * others).sum(-1).tolist() for others in (u, n, n if hardened is None else hardened)]
    return {
        row: Similarities(positive, hard, None if hardened is None else harder)
        for row, positive, hard, harder in zip(rows.tolist(), *columns, strict=True)
    }
