import math

import pytest
import torch
from scipy.ndimage import zoom

from hardneg_plugin.evaluation.downstream.head_training import HeadTraining, Standardise
from hardneg_plugin.evaluation.downstream.segmentation import (
    SegmentationDecoder,
    SegmentationSplit,
    dice,
    mean_dice,
    predict_masks,
    segmentation_loss,
    train_segmentation,
)


def outlined(count, seed, size=16):
    """Patches of a 4 x 4 grid whose first two channels say, patch by patch, where two findings are."""
    generator = torch.Generator().manual_seed(seed)
    there = torch.zeros(count, 2, 4, 4, dtype=torch.bool)
    for image in there:
        for of_finding in image:
            if torch.rand((), generator=generator) < 0.6:
                y, x = torch.randint(3, (2,), generator=generator).tolist()
                of_finding[y : y + 2, x : x + 2] = True
    noise = torch.randn(count, 5, 4, 4, generator=generator) * 0.1
    noise[:, :2] += there
    scale = torch.tensor([100.0, 0.01, 1.0, 1.0, 1.0])[:, None, None]  # an encoder's scales are its own affair
    return SegmentationSplit(noise * scale + 3, there.repeat_interleave(size // 4, 2).repeat_interleave(size // 4, 3))


@pytest.fixture(scope="module")
def splits():
    return outlined(48, 0), outlined(16, 1)


HOW = HeadTraining(epochs=25, batch_size=8, lr=0.01)


@pytest.fixture(scope="module")
def trained(splits):
    return train_segmentation(*splits, training=HOW, width=8)


# --- the decoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("grid", "size", "stages"),
    [((4, 4), (16, 16), 1), ((7, 5), (28, 40), 2), ((3, 3), (10, 10), 1), ((4, 4), (8, 7), 0), ((4, 4), (4, 4), 0)],
)
def test_logits_are_of_the_size_of_the_masks(grid, size, stages):
    decoder = SegmentationDecoder(Standardise(torch.randn(9, 6)), 3, grid, size, width=4)
    assert decoder(torch.randn(2, 6, *grid)).shape == (2, 3, *size)
    assert len(decoder.refine) == stages


def test_an_upsampling_is_bilinear_between_the_middles_of_patches():
    decoder = SegmentationDecoder(Standardise(torch.zeros(0, 1)), 1, (5, 7), (20, 28), width=1)
    with torch.no_grad():  # every convolution hands on what it is given
        for convolution in (decoder.narrow, *decoder.refine, decoder.classify):
            convolution.bias.zero_()
            convolution.weight.zero_()
            convolution.weight[0, 0, convolution.kernel_size[0] // 2, convolution.kernel_size[1] // 2] = 1
    patches = torch.rand(1, 1, 5, 7, generator=torch.Generator().manual_seed(0))  # positive: ReLU hands them on
    expected = patches[0, 0].numpy()
    for _ in range(2):
        expected = zoom(expected, 2, order=1, mode="nearest", grid_mode=True)
    assert decoder(patches)[0, 0].detach().numpy() == pytest.approx(expected, abs=1e-6)


def test_a_grid_finer_than_the_masks_is_refused():
    with pytest.raises(ValueError, match="no finer"):
        SegmentationDecoder(Standardise(torch.randn(9, 6)), 3, (8, 4), (4, 4))


# --- the loss --------------------------------------------------------------------------------------------------------


def loss_oracle(logits, masks):
    """One image, pixel by pixel."""
    total, pixels, overlaps = 0.0, 0, []
    for rows, truths in zip(logits.flatten(1).tolist(), masks.flatten(1).tolist(), strict=True):
        found = [1 / (1 + math.exp(-logit)) for logit in rows]
        total -= sum(math.log(p if truth else 1 - p) for p, truth in zip(found, truths, strict=True))
        pixels += len(rows)
        shared = sum(p for p, truth in zip(found, truths, strict=True) if truth)
        if any(truths):
            overlaps.append((2 * shared + 1) / (sum(found) + sum(truths) + 1))
    return total / pixels + (1 - sum(overlaps) / len(overlaps) if overlaps else 0)


def test_the_loss_equals_its_definition():
    generator = torch.Generator().manual_seed(0)
    logits, masks = torch.randn(3, 2, 4, 5, generator=generator), torch.rand(3, 2, 4, 5, generator=generator) < 0.3
    masks[0, 1] = False
    expected = [loss_oracle(logit, mask) for logit, mask in zip(logits, masks, strict=True)]
    assert segmentation_loss(logits, masks).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_zero_where_all_is_right_and_its_gradient_finite():
    masks = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3
    masks[0] = False
    logits = ((masks.float() - 0.5) * 100).requires_grad_()
    loss = segmentation_loss(logits, masks)
    assert loss.tolist() == pytest.approx([0] * 3, abs=1e-5)
    assert torch.autograd.grad(loss.sum(), logits)[0].isfinite().all()
    assert segmentation_loss(-logits, masks).min() > 10


# --- training --------------------------------------------------------------------------------------------------------


def test_training_finds_what_the_patches_show(splits, trained):
    test = outlined(20, 2)
    values = dice(predict_masks(trained.head, test.patches, batch_size=7), test.masks)
    assert mean_dice(values) > 0.8
    assert trained.scores[0] < max(trained.scores)
    assert trained.scores[trained.epoch - 1] == max(trained.scores)
    again = dice(predict_masks(trained.head, splits[1].patches), splits[1].masks)
    assert mean_dice(again) == pytest.approx(max(trained.scores))


def test_training_is_the_seeds_and_leaves_the_global_random_state_alone(splits):
    how = HeadTraining(epochs=2, batch_size=8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = train_segmentation(*splits, training=how, width=8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    patches = splits[0].patches[:3]
    assert torch.equal(train_segmentation(*splits, training=how, width=8).head(patches), one.head(patches))
    other = train_segmentation(*splits, training=HeadTraining(epochs=2, batch_size=8, seed=1), width=8)
    assert not torch.equal(other.head(patches), one.head(patches))


def test_features_computed_without_gradients_or_in_half_precision_will_do(splits):
    with torch.inference_mode():
        train, val = (SegmentationSplit(split.patches.bfloat16() * 1, split.masks) for split in splits)
    result = train_segmentation(train, val, training=HeadTraining(epochs=1), width=4)
    assert result.head(val.patches).dtype == torch.float32


def test_validation_without_any_finding_keeps_the_last_epoch(splits):
    train, val = splits
    result = train_segmentation(
        train, SegmentationSplit(val.patches, torch.zeros_like(val.masks)), training=HeadTraining(epochs=2), width=4
    )
    assert result.epoch == 2
    assert all(map(math.isnan, result.scores))


def test_patches_and_masks_of_other_images_are_refused(splits):
    train, val = splits
    with pytest.raises(ValueError, match="of the same N"):
        train_segmentation(train, SegmentationSplit(val.patches[1:], val.masks), training=HOW)


# --- measures --------------------------------------------------------------------------------------------------------


def test_dice_equals_the_sets_of_pixels():
    generator = torch.Generator().manual_seed(0)
    predicted, masks = torch.rand(2, 6, 3, 5, 4, generator=generator) < 0.2
    masks[2, 1], predicted[3, 0], predicted[4, 2] = False, False, masks[4, 2]
    values = dice(predicted, masks)
    for n in range(6):
        for f in range(3):
            ours, truth = (set(map(tuple, part[n, f].nonzero().tolist())) for part in (predicted, masks))
            if truth:
                assert float(values[n, f]) == pytest.approx(2 * len(ours & truth) / (len(ours) + len(truth)))
            else:
                assert values[n, f].isnan()
    assert values[2, 1].isnan()
    assert (values[3, 0], values[4, 2]) == (0, 1)


def test_the_mean_is_over_findings_and_nothing_that_is_not_there_counts():
    values = torch.tensor([[1.0, 0.0, torch.nan], [0.5, torch.nan, torch.nan], [0.0, torch.nan, torch.nan]])
    assert mean_dice(values) == pytest.approx((0.5 + 0.0) / 2)
    assert math.isnan(mean_dice(values[:, 2:]))


@pytest.mark.parametrize("measure", [dice, segmentation_loss])
def test_masks_that_do_not_fit_are_refused(measure):
    masks = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="of one shape"):
        measure(masks[:1], masks)
    with pytest.raises(ValueError, match=r"torch\.float32"):
        measure(masks, masks.float())
