"""Where a model looks for each finding: what its kind of alignment offers for a map."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.aligned_model import AlignedModel
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.data.studies import Batch
from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge import Knowledge
from hardneg_plugin.objectives import PairEmbeddings, RelationEnhancedObjective
from hardneg_plugin.objectives.parts import Local
from hardneg_plugin.study_model import StudyModel


def finding_maps(model: StudyModel[Any], batch: Batch, knowledge: Knowledge) -> Tensor:
    """How much of each of F entities is at each patch: `(B, F, P)`, the higher the more; no place is named.

    A model that grounds entities: the attention of the entity's prompt. One with local matchings: the attention of the words of a
    sentence that states it, by their importance. Any other that aligns: the cosine of each patch with the sentences that state it.

    Raises:
        UserError: the model has no space in which texts and images meet.
    """
    if isinstance(model.visual, GroundedVisual):
        boxes = batch.get("boxes")
        maps = model.visual.attention(batch["images"], batch["view_mask"], boxes)
        rows = [row for row, prompt in enumerate(model.visual.grounding.prompts) if prompt.position is None]
        return maps[:, rows]
    if not isinstance(model, AlignedModel):
        raise UserError(
            "task=localisation needs a model that aligns texts with images, but this run is of the bare host: train with "
            "model=hard_negatives or model=pretrain."
        )
    seen = model.see(batch)
    sentences = [present for present, _ in knowledge.wordings().values()]
    objective = model.hard_negatives
    if isinstance(objective, RelationEnhancedObjective):
        return torch.stack([_looked(model, objective, seen.patches, seen.patch_mask, some[0]) for some in sentences], 1)
    embedded = torch.stack([F.normalize(model.embed_texts(some).mean(0), dim=-1) for some in sentences])
    patches = F.normalize(objective.image_head(seen.patches.float()), dim=-1)
    return torch.einsum("fd,bpd->bfp", embedded, patches)


def _looked(
    model: AlignedModel, objective: RelationEnhancedObjective, patches: Tensor, patch_mask: Tensor, sentence: str
) -> Tensor:
    tokens = torch.tensor([model.tokenizer.encode(sentence)], device=patches.device)
    words = model.words_of(tokens).expand(len(patches), -1, -1)
    pooled = words.mean(1)
    pairs = PairEmbeddings(images=patches.mean(1), reports=pooled, regions=patches, region_mask=patch_mask, words=words)
    of_words, of_regions = objective.parts(pairs)
    looked = objective.scores.attention(of_words, of_regions)  # (B, W, P)
    weights = objective.scores.word_importance(of_words, of_regions)
    weights = _even(of_words) if weights is None else weights
    return torch.einsum("bw,bwp->bp", weights, looked)


def _even(words: Local) -> Tensor:
    kept = words.mask.float()
    return kept / kept.sum(-1, keepdim=True).clamp_min(1)
