"""Boxes of the phantom's anatomy, and that they move along with the images."""

import numpy as np
import pytest
import torch

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.phantom.regions import REGIONS, region_boxes

SIZE = 128
SPLIT = PhantomStudies(train=40, val=1, test=1, size=SIZE, boxes=True).split("train")


def box(sample, name, view=0):
    return sample["boxes"][view, REGIONS.index(name)].tolist()


@pytest.mark.parametrize("index", range(8))
def test_sides_and_zones_lie_where_they_are(index):
    sample = SPLIT[index]
    for zone in ("upper", "mid", "lower"):
        right, left = box(sample, f"right {zone} zone"), box(sample, f"left {zone} zone")
        assert right[1] < 0.5 < left[3]
        assert right[3] <= left[1] + 0.1  # a patient who stands askew
    for side in ("left", "right"):
        tops = [box(sample, f"{side} {zone} zone")[0] for zone in ("upper", "mid", "lower")]
        assert tops == sorted(tops)
    boxes = sample["boxes"]
    there = ~boxes.isnan().any(-1)
    assert there[0].all()
    assert there[1].tolist() == [name == "heart" for name in REGIONS]
    assert ((boxes[there] >= 0) & (boxes[there] <= 1)).all()
    assert (boxes[there][:, 2:] > boxes[there][:, :2]).all()


def test_marks_lie_in_the_regions_that_name_them():
    checked = 0
    for index in range(len(SPLIT)):
        for mark in SPLIT.marks(index):
            if mark.finding.name == "nodule" and mark.view == "frontal":
                name = f"{mark.finding.value('side')} {mark.finding.value('zone')} zone"
                top, left, bottom, right = np.array(box(SPLIT[index], name)) * SIZE
                y, x = (mark.box[0] + mark.box[2]) / 2, (mark.box[1] + mark.box[3]) / 2
                assert top <= y <= bottom
                assert left <= x <= right
                checked += 1
    assert checked >= 2


def test_a_large_heart_has_a_large_box():
    hearts = {"large": [], "normal": []}
    for index, findings in enumerate(SPLIT.findings):
        _, left, _, right = box(SPLIT[index], "heart")
        severe = any(found.name == "cardiomegaly" and found.value("grade") == "severe" for found in findings)
        if severe or not any(found.name in ("cardiomegaly", "hyperinflation") for found in findings):
            hearts["large" if severe else "normal"].append(right - left)
    assert min(hearts["large"]) > np.mean(hearts["normal"])


def test_boxes_move_with_the_augmented_image():
    moves = set()
    for seed in range(6):
        plain, moved = SPLIT[3], SPLIT[(3, seed)]
        shift = ((moved["boxes"] - plain["boxes"])[:, REGIONS.index("heart")] * SIZE).round().int()
        for view in range(2):
            down, right = shift[view, :2].tolist()
            assert shift[view].tolist() == [down, right, down, right]
            one, other = (item["images"][view, 0].float() for item in (plain, moved))
            inner = slice(10, -10)
            rolled = torch.roll(one, (down, right), (0, 1))[inner, inner]
            pair = torch.stack([rolled.flatten(), other[inner, inner].flatten()])
            assert torch.corrcoef(pair)[0, 1] > 0.99
            moves.add((down, right))
    assert len(moves) > 6


def test_without_boxes_samples_say_nothing_of_them():
    plain = PhantomStudies(train=4, val=1, test=1, size=32).split("train")
    assert "boxes" not in plain[0]
    boxes = PhantomStudies(train=4, val=1, test=1, size=32, boxes=True).split("train")
    assert torch.equal(plain[(2, 5)]["images"], boxes[(2, 5)]["images"])
    assert np.array_equal(boxes[1]["boxes"], region_boxes((0, boxes.first + 1), boxes.findings[1], 32), equal_nan=True)
