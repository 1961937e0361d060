"""Maps of where a model looks for each finding, as its objective gives them."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.visual_features import VisualFeatures
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.models.aligned import AlignedModel
from hardneg_plugin.models.base import StudyModel
from hardneg_plugin.objectives import RelationEnhancedObjective
from hardneg_plugin.objectives.local_features import LocalFeatures


def finding_maps(model: StudyModel[Any], batch: Batch, visual: VisualFeatures, knowledge: Knowledge) -> Tensor:
    """How much each patch shows of each entity.

    For a model that grounds entities this is the attention of the entity's prompt; for one that compares words with regions, the
    attention of the words of the sentences that state it, weighted by their importance; for any other that aligns, the cosine of
    each patch with these sentences.

    Args:
        model: in evaluation mode.
        batch: of B studies.
        visual: their features, of `model.encode_images`.
        knowledge: of F entities.

    Returns:
        `(B, F, P)`, the higher the more; 0 where a view is missing.

    Raises:
        UserError: the model has no space that texts and images share, or looks for other entities.
    """
    if isinstance(model.visual, GroundedVisual):
        prompts = model.visual.grounding.prompts
        rows = {prompt.entity: row for row, prompt in enumerate(prompts) if prompt.position is None}
        if missing := [name for name in entity_names(knowledge) if name not in rows]:
            raise UserError(
                f"localisation: the data ask for {missing[0]!r}, but the model was trained to look for {', '.join(rows)}: take "
                "data of the kind that it was trained on."
            )
        maps = model.visual.attention(visual, batch.get("boxes"))
        return maps[:, [rows[name] for name in entity_names(knowledge)]]
    if not isinstance(model, AlignedModel):
        raise UserError(
            "localisation needs a model that aligns texts with images, but this run is of the bare host: train with "
            "model=hard_negatives or model=pretrain."
        )
    wordings = knowledge.wordings()
    sentences = [wordings[name][0] for name in entity_names(knowledge)]
    objective = model.hard_negatives
    if isinstance(objective, RelationEnhancedObjective):
        regions = objective.parts.of_regions(visual.patches, visual.patch_mask)
        return torch.stack([_word_attention(model, objective, regions, some) for some in sentences], 1)
    texts = model.embed_texts([text for some in sentences for text in some])
    embedded = torch.stack(
        [F.normalize(some.mean(0), dim=-1) for some in texts.split([len(some) for some in sentences])]
    )
    patches = F.normalize(objective.image_head(visual.patches.float()), dim=-1)
    return torch.einsum("fd,bpd->bfp", embedded, patches) * visual.patch_mask[:, None]


def entity_names(knowledge: Knowledge) -> list[str]:
    """The names of the F entities, in the order of their prompts."""
    return [prompt.entity for prompt in knowledge.prompts if prompt.position is None]


def _word_attention(
    model: AlignedModel, objective: RelationEnhancedObjective, regions: LocalFeatures, sentences: Sequence[str]
) -> Tensor:
    """Where the words of sentences look in B images, `(B, P)`: the mean over the sentences."""
    maps = []
    for sentence in sentences:
        words = objective.parts.of_words(model.encode_reports(model.tokenize([sentence])[0]))
        words = LocalFeatures(*(part.expand(len(regions.features), *part.shape[1:]) for part in words))
        attention = objective.scores.attention(words, regions)  # (B, W, P)
        weights = objective.scores.word_importance(words, regions)
        maps.append(attention.mean(1) if weights is None else torch.einsum("bw,bwp->bp", weights, attention))
    return torch.stack(maps).mean(0)
