"""Where each finding is, pixel by pixel: a light decoder over the frozen patches of an image, and its Dice."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.evaluation.downstream.head_training import (
    HeadTraining,
    Standardise,
    TrainedHead,
    seeded,
    train_head,
)


class SegmentationSplit(NamedTuple):
    """The first views of N studies, and the masks of their findings."""

    patches: Tensor
    """`(N, D_v, h, w)`, frozen, any floating dtype."""
    masks: Tensor
    """`(N, F, H, W)` bool: the pixels of each finding; none where the image does not show it."""


class SegmentationDecoder(nn.Module):
    """1x1 convolution to `width`, then bilinear doubling, 3x3 convolution and ReLU, then 1x1 to F and the last doubling.

    The last doubling, to the size of the image, is that of the logits: convolutions there would take four fifths of the time.

    Args:
        standardise: made of the training patches, `(K, D_v)`.
        findings: F.
        grid: `(h, w)` of the patches.
        size: `(H, W)` of the masks, >= the grid; the last step is less than a doubling where the ratio is no power of 2.
        width: channels in between, >= 1.

    Raises:
        ValueError: the grid is finer than the masks.

    >>> decoder = SegmentationDecoder(Standardise(torch.randn(9, 16)), findings=3, grid=(2, 2), size=(8, 8))
    >>> decoder(torch.randn(5, 16, 2, 2)).shape
    torch.Size([5, 3, 8, 8])
    """

    def __init__(
        self, standardise: Standardise, findings: int, grid: tuple[int, int], size: tuple[int, int], width: int = 32
    ) -> None:
        super().__init__()
        if grid[0] > size[0] or grid[1] > size[1]:
            raise ValueError(f"Expected a grid of patches no finer than masks of {size}, but got one of {grid}.")
        self.sizes = [grid]
        while self.sizes[-1] != size:
            height, width_now = self.sizes[-1]
            self.sizes.append((min(2 * height, size[0]), min(2 * width_now, size[1])))
        self.standardise = standardise
        self.narrow = nn.Conv2d(len(standardise.mean), width, kernel_size=1)
        self.refine = nn.ModuleList(nn.Conv2d(width, width, kernel_size=3, padding=1) for _ in self.sizes[1:-1])
        self.classify = nn.Conv2d(width, findings, kernel_size=1)

    def forward(self, patches: Tensor) -> Tensor:
        """Patches `(N, D_v, h, w)` to logits `(N, F, H, W)`."""
        x = self.narrow(self.standardise(patches.movedim(1, -1)).movedim(-1, 1))
        for size, convolution in zip(self.sizes[1:-1], self.refine, strict=True):
            x = F.relu(convolution(_resized(x, size)))
        return _resized(self.classify(x), self.sizes[-1])


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Binary cross-entropy over all pixels plus one minus the soft Dice, averaged over the findings that the image has.

    Soft Dice is `(2 sum(p m) + 1) / (sum(p) + sum(m) + 1)` over the pixels of an image: after Milletari et al. 2016, with one
    pixel added. Absent findings count in the cross-entropy alone: nine of ten are absent, and their Dice is best where nothing is
    ever found.

    Args:
        logits: `(N, F, H, W)`.
        masks: `(N, F, H, W)` bool.

    Returns:
        `(N,)`, >= 0.
    """
    _check_same(logits, masks)
    truth = masks.to(logits.dtype)
    pixels = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(dim=(1, 2, 3))
    found = logits.sigmoid()
    shared, both = (found * truth).sum(dim=(2, 3)), (found + truth).sum(dim=(2, 3))
    is_present = masks.flatten(2).any(dim=2)
    missed = (1 - (2 * shared + 1) / (both + 1)) * is_present
    return pixels + missed.sum(dim=1) / is_present.sum(dim=1).clamp_min(1)


def train_segmentation(
    train: SegmentationSplit,
    val: SegmentationSplit,
    *,
    training: HeadTraining,
    width: int = 32,
    device: torch.device | str = "cpu",
) -> TrainedHead[SegmentationDecoder]:
    """A decoder trained on frozen patches, after the epoch with the best `mean_dice` on `val`.

    The same arguments give the same decoder on a CPU; torch's global random state is not changed.

    Args:
        train, val: of one D_v, F, grid and size; all on one device, which may be another than `device`.
        training: how.
        width: channels of the decoder, >= 1.
        device: where it is trained and stays.

    Raises:
        UserError: there is nothing to train on.
        ValueError: the shapes do not fit together.
    """
    for split in (train, val):
        if split.patches.ndim != 4 or split.masks.ndim != 4 or len(split.patches) != len(split.masks):
            raise ValueError(
                "Expected `patches` (N, D_v, h, w) and `masks` (N, F, H, W) of the same N, but got "
                f"{tuple(split.patches.shape)} and {tuple(split.masks.shape)}."
            )
    (_, _, h, w), (_, findings, height, image_width) = train.patches.shape, train.masks.shape
    standardise = Standardise(train.patches.movedim(1, -1).flatten(0, 2))
    with seeded(training.seed):
        head = SegmentationDecoder(standardise, findings, (h, w), (height, image_width), width)
    head.to(device)

    def loss(rows: Tensor) -> Tensor:
        return segmentation_loss(head(train.patches[rows].to(device)), train.masks[rows].to(device))

    def score() -> float:
        pairs = zip(val.patches.split(training.batch_size), val.masks.split(training.batch_size), strict=True)
        found = [dice(predict_masks(head, patches), masks) for patches, masks in pairs]
        return mean_dice(torch.cat(found)) if found else torch.nan

    return train_head(head, len(train.patches), loss, score, training)


@torch.no_grad()
def predict_masks(head: SegmentationDecoder, patches: Tensor, *, batch_size: int = 32) -> Tensor:
    """The pixels that belong to a finding with a probability above one half.

    Args:
        head: on any device.
        patches: `(N, D_v, h, w)`.
        batch_size: images at a time.

    Returns:
        `(N, F, H, W)` bool, on the device of `patches`.
    """
    device = head.classify.weight.device
    found = [(head(some.to(device)) > 0).to(patches.device) for some in patches.split(batch_size)]
    return torch.cat(found)


def dice(predicted: Tensor, masks: Tensor) -> Tensor:
    """Twice the shared pixels over the sum of both areas, for each finding of an image.

    Args:
        predicted: `(N, F, H, W)` bool.
        masks: `(N, F, H, W)` bool, the truth.

    Returns:
        `(N, F)` float32 in [0, 1]; nan where the truth has no pixel.
    """
    _check_same(predicted, masks)
    shared = (predicted & masks).sum(dim=(2, 3))
    found, true = predicted.sum(dim=(2, 3)), masks.sum(dim=(2, 3))
    return (2 * shared / (found + true)).where(true > 0, torch.nan)


def mean_dice(values: Tensor) -> float:
    """The mean over findings of the mean over the images that have them, of `dice (N, F)`; nan where none has any."""
    return float(values.nanmean(dim=0).nanmean())


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _check_same(predicted: Tensor, masks: Tensor) -> None:
    if predicted.ndim != 4 or predicted.shape != masks.shape or masks.dtype != torch.bool:
        raise ValueError(
            "Expected a prediction and bool masks of one shape (N, F, H, W), but got "
            f"{tuple(predicted.shape)} and {tuple(masks.shape)} {masks.dtype}."
        )
