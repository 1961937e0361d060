"""What a report decoder attends to when a report is read with the image of another study."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.backbones.visual_features import VisualFeatures


def other_images(
    visual: VisualFeatures,
    image_order: Tensor,
    towards: Tensor | None = None,
    paired: VisualFeatures | None = None,
) -> tuple[Tensor, Tensor]:
    """The context of another image for each of B studies, `(B, N, width)`, and its mask `(B, N)`.

    Args:
        visual: of the B studies.
        image_order: `(B,)` int64. In [0, B): a study of the batch; from B on: the paired study `image_order - B`; -1: the mean over
            the studies of the batch that have the patch, and finite features.
        towards: `(B,)` in [0, 1], how far the patches move towards those of the study itself; None: 0.
        paired: of the paired studies, if there are any.
    """
    if paired is not None:
        patches = max(visual.patches.shape[1], paired.patches.shape[1])
        visual, paired = _padded(visual, patches), _padded(paired, patches)
    own, own_mask = visual.context, visual.context_mask
    contexts = own if paired is None else torch.cat([own, paired.context])
    masks = own_mask if paired is None else torch.cat([own_mask, paired.context_mask])
    others, mask = contexts[image_order.clamp_min(0)], masks[image_order.clamp_min(0)]
    is_mean = (image_order < 0)[:, None]
    # in float32: a sum over the batch loses digits in half precision
    kept = own_mask & (own.detach().isfinite().all(-1) | ~own_mask).all(1, keepdim=True)
    total = own.float().where(kept[:, :, None], 0).sum(0)
    mean = (total / kept.sum(0).clamp_min(1)[:, None]).to(own.dtype)
    others, mask = torch.where(is_mean[:, :, None], mean, others), torch.where(is_mean, kept.any(0), mask)
    if towards is not None:
        # patches that the study itself does not have stay
        way = towards[:, None, None].to(own.dtype) * own_mask[:, :, None]
        others = torch.lerp(others, own, way)
    return others, mask


def _padded(visual: VisualFeatures, patches: int) -> VisualFeatures:
    missing = patches - visual.patches.shape[1]
    return visual._replace(
        patches=F.pad(visual.patches, (0, 0, 0, missing)), patch_mask=F.pad(visual.patch_mask, (0, missing))
    )
