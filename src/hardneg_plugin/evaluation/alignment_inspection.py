"""What an objective makes of each study of a batch: how it reads the reference, and which entities it finds where."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.visual import VisualFeatures
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.data.tokenizer import UNKNOWN_WORD
from hardneg_plugin.evaluation.inspected_study import FOUND_ABOVE, FoundEntity, Reading, quantise
from hardneg_plugin.knowledge import PRESENT, Prompt
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.models.report_io import generated_report, token_positions
from hardneg_plugin.objectives import GroundedKnowledgeObjective, RelationEnhancedObjective


def read_references(model: ReportGenerator, batch: Batch, features: VisualFeatures) -> list[Reading] | None:
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


def found_entities(
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
    maps = maps.unflatten(-1, (-1, *features.grid)).float().cpu()
    return [
        _study_entities(
            model.visual.grounding.prompts, probabilities[study].cpu(), maps[study][:, view_mask], stated.get(name, {})
        )
        for study, (name, view_mask) in enumerate(zip(batch["ids"], batch["view_mask"].cpu(), strict=True))
    ]


def _study_entities(
    prompts: tuple[Prompt, ...], probabilities: Tensor, maps: Tensor, stated: Mapping[Prompt, int]
) -> list[FoundEntity]:
    """Of one study: probabilities `(Q,)` and maps `(Q, views, rows, columns)` of Q prompts."""
    facts = [stated.get(prompt) for prompt in prompts]
    order = probabilities.argsort(descending=True, stable=True).tolist()
    kept = [row for row in order if probabilities[row] > FOUND_ABOVE or facts[row] == PRESENT]
    return [
        FoundEntity(prompts[row].phrase, float(probabilities[row]), facts[row], attention)
        for row, attention in zip(kept, quantise(maps[kept]), strict=True)
    ]


def _with_rare_words(read: list[str], reference: list[str]) -> list[str]:
    """The words that are read, with the reference's rare words in place of the unknown token."""
    words = reference[: len(read)]
    is_same = len(words) == len(read) and all(
        word in (original, UNKNOWN_WORD) for word, original in zip(read, words, strict=True)
    )
    return words if is_same else read
