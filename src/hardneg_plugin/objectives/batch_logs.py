"""What is logged of the contrast of one step."""

import torch
from torch import Tensor

from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives


@torch.no_grad()
def batch_logs(
    batch: EmbeddedBatch, negatives: HardNegatives, hardened: Tensor | None, hardness: float
) -> dict[str, Tensor]:
    """Scalars by name, on the device of the embeddings; means over the usable local studies.

    The share of studies that are left out is that of all ranks.

    Args:
        batch: the embeddings of this step.
        negatives: K hard negatives of each local study.
        hardened: `(B, K, D)`; None where nothing is hardened.
        hardness: of this step, in [0, 1].
    """
    usable = batch.usable
    valid = negatives.valid & usable[:, None]
    count, wanted = valid.sum().clamp_min(1), usable.sum() * valid.shape[1]
    images = batch.images

    def similarity(others: Tensor) -> Tensor:
        return (torch.einsum("bd,bkd->bk", images, others) * valid).sum() / count

    is_pair = usable[:, None] & batch.all_usable
    pairs_of_two, matches = (pairs.sum() - usable.sum() for pairs in (is_pair, batch.is_match & is_pair))
    logs = {
        "hardness": torch.full((), hardness, dtype=torch.float32, device=images.device),
        "positive_similarity": batch.local_mean((images * batch.reports).sum(-1)),
        "negative_similarity": similarity(negatives.reports),
        "negatives_found": valid.sum() / wanted.clamp_min(1),
        "false_negative_share": matches / pairs_of_two.clamp_min(1),
        "non_finite_share": (~batch.all_usable).float().mean(),
    }
    if hardened is not None:
        logs["hardened_similarity"] = similarity(hardened)
    return logs
