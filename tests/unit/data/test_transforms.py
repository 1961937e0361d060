import numpy as np
import pytest
import torch
from PIL import Image

from hardneg_plugin.data.transforms import random_crop, reframe_boxes, resize_to_square

IMAGE = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 60, 45), dtype=np.uint8))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_evaluation_is_a_straight_resize_with_antialias():
    oracle = Image.fromarray(IMAGE[0].numpy()).resize((16, 16), Image.Resampling.BILINEAR)
    result, frame = resize_to_square(IMAGE, crop=16)
    assert frame == (0, 0, 1, 1)
    assert result.shape == (1, 16, 16)
    assert result.dtype == torch.uint8
    assert (result[0].int() - torch.from_numpy(np.array(oracle)).int()).abs().max() <= 1


def test_training_is_a_window_of_the_image_resized_by_its_shorter_side():
    oracle = torch.from_numpy(np.array(Image.fromarray(IMAGE[0].numpy()).resize((30, 40), Image.Resampling.BILINEAR)))
    windows = oracle.int().unfold(0, 28, 1).unfold(1, 28, 1)  # (13, 3, 28, 28): never mirrored
    places = set()
    for seed in range(200):
        result, frame = random_crop(IMAGE, resize=30, crop=28, generator=seeded(seed))
        fits = ((windows - result[0].int()).abs().amax((-1, -2)) <= 1).nonzero()
        assert len(fits) == 1
        top, left = fits[0].tolist()
        assert frame == pytest.approx((top / 40, left / 30, (top + 28) / 40, (left + 28) / 30))
        places.add((top, left))
    assert len(places) > 35  # of 39; 200 draws miss a place with probability 0.6 %


def test_a_crop_follows_from_its_generator_and_leaves_the_global_one_alone():
    before = torch.random.get_rng_state()
    first, frame = random_crop(IMAGE, resize=30, crop=20, generator=seeded(5))
    torch.rand(3, generator=seeded(1))
    again, also = random_crop(IMAGE, resize=30, crop=20, generator=seeded(5))
    assert torch.equal(first, again)
    assert frame == also
    assert torch.equal(before, torch.random.get_rng_state())


def test_small_images_are_enlarged_and_a_crop_as_large_as_the_image_has_one_place():
    tiny = IMAGE[:, :5, :7]
    assert random_crop(tiny, resize=30, crop=26, generator=seeded(0))[0].shape == (1, 26, 26)
    square = IMAGE[:, :45]
    cropped, frame = random_crop(square, resize=16, crop=16, generator=seeded(3))
    assert torch.equal(cropped, resize_to_square(square, crop=16)[0])
    assert frame == (0, 0, 1, 1)


def test_boxes_stay_on_what_they_are_of():
    image = torch.zeros(1, 80, 50, dtype=torch.uint8)
    image[:, 30:50, 10:35] = 255
    box = torch.tensor([[[30 / 80, 10 / 50, 50 / 80, 35 / 50], [torch.nan] * 4]])
    for seed in range(20):
        cropped, frame = random_crop(image, resize=50, crop=40, generator=seeded(seed))
        moved = reframe_boxes(box, torch.tensor([frame]))[0]
        top, left, bottom, right = (40 * moved[0]).round().int().tolist()
        inside = torch.zeros(40, 40, dtype=torch.bool)
        inside[max(0, top) : bottom, max(0, left) : right] = True
        assert torch.equal(cropped[0] > 127, inside)
        assert moved[1].isnan().all()


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(ValueError, match="but got 31 and 30"):
        random_crop(IMAGE, resize=30, crop=31, generator=seeded(0))
