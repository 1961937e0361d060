import math

import pytest
import torch

from hardneg_plugin.evaluation.downstream import localisation
from hardneg_plugin.evaluation.downstream.localisation import box_iou, chance_levels, choose_threshold, pointing_game

SIZE = (24, 16)


def upsampled(values: list[list[float]], size: tuple[int, int]) -> list[list[float]]:
    """Bilinear between the middles of patches, in plain loops; beyond the outer middles the outer values."""

    def weights(length: int, to: int) -> list[list[tuple[int, float]]]:
        found = []
        for pixel in range(to):
            at = min(max((pixel + 0.5) * length / to - 0.5, 0.0), length - 1.0)
            low = min(int(at), length - 1)
            found.append([(low, 1 - (at - low)), (min(low + 1, length - 1), at - low)])
        return found

    rows, columns = weights(len(values), size[0]), weights(len(values[0]), size[1])
    return [[sum(a * b * values[i][j] for i, a in row for j, b in column) for column in columns] for row in rows]


def box_pixels(box: list[int]) -> set[tuple[int, int]]:
    y0, x0, y1, x1 = box
    return {(y, x) for y in range(y0, y1) for x in range(x0, x1)}


def hit_oracle(values: list[list[float]], box: list[int]) -> float:
    large = upsampled(values, SIZE)
    low, top = min(map(min, large)), max(map(max, large))
    highest = {(y, x) for y in range(SIZE[0]) for x in range(SIZE[1]) if large[y][x] >= top - 1e-6 * (top - low)}
    return len(highest & box_pixels(box)) / len(highest)


def iou_oracle(values: list[list[float]], box: list[int], threshold: float) -> float:
    large = upsampled(values, SIZE)
    low, high = min(map(min, large)), max(map(max, large))
    edge = low + (threshold - 1e-6) * (high - low)
    area = {(y, x) for y in range(SIZE[0]) for x in range(SIZE[1]) if large[y][x] >= edge}
    return len(area & box_pixels(box)) / len(area | box_pixels(box))


@pytest.fixture
def attended():
    generator = torch.Generator().manual_seed(0)
    starts = torch.stack([torch.randint(length // 3, (40,), generator=generator) for length in SIZE], dim=1)
    lengths = 3 + (torch.rand(40, 2, generator=generator) * (torch.tensor(SIZE) - starts - 3)).long()
    return torch.randn(40, 6, 4, generator=generator), torch.cat([starts, starts + lengths], dim=1)


@pytest.mark.parametrize("chunk_pixels", [1, 1000, 2**22])
def test_equals_the_definitions_in_chunks_of_any_size(attended, monkeypatch, chunk_pixels):
    monkeypatch.setattr(localisation, "CHUNK_PIXELS", chunk_pixels)
    maps, boxes = attended
    pairs = list(zip(maps.tolist(), boxes.tolist(), strict=True))
    hits = [hit_oracle(*pair) for pair in pairs]
    assert pointing_game(maps, boxes, SIZE).tolist() == pytest.approx(hits)
    assert {0.0, 1.0} < set(hits)
    for threshold in (0.0, 0.37, 0.8, 1.0):
        overlaps = [iou_oracle(*pair, threshold) for pair in pairs]
        assert box_iou(maps, boxes, SIZE, threshold).tolist() == pytest.approx(overlaps, abs=1e-6)
        assert len(set(overlaps)) > 5


def test_scale_and_offset_of_a_map_change_nothing(attended):
    maps, boxes = attended
    assert torch.equal(pointing_game(0.25 * maps + 2, boxes, SIZE), pointing_game(maps, boxes, SIZE))
    assert torch.equal(pointing_game(-maps, boxes, SIZE), pointing_game(-4 * maps, boxes, SIZE))
    torch.testing.assert_close(box_iou(0.25 * maps, boxes, SIZE, 0.6), box_iou(maps, boxes, SIZE, 0.6))


def test_the_ends_of_a_box_are_exclusive():
    maps = torch.zeros(4, 8, 8)
    maps[:, 3, 5] = 1.0  # a map as large as the image: its maximum is that pixel
    boxes = torch.tensor([[3, 5, 4, 6], [0, 0, 3, 8], [0, 0, 8, 5], [0, 0, 4, 6]])
    assert pointing_game(maps, boxes, (8, 8)).tolist() == [1, 0, 0, 1]
    assert box_iou(maps, boxes, (8, 8), 0.5).tolist() == pytest.approx([1.0, 0.0, 0.0, 1 / 24])


def test_the_edge_of_an_image_is_as_high_as_its_outer_patches():
    maps = torch.zeros(2, 6, 4)
    maps[:, 0, 0] = 1.0  # the maximum is the corner of 2 x 2 pixels outside the middle of the patch
    assert pointing_game(maps, torch.tensor([[0, 0, 2, 2], [0, 0, 1, 2]]), SIZE).tolist() == [1, 0.5]


def test_of_cells_of_equal_patches_the_share_of_the_highest_counts():
    maps = torch.zeros(3, 6, 4)
    maps[:, 2:4, :2] = (
        1.0  # the maximum reaches to the middles of its patches and the edge: rows 10 to 13, columns 0 to 5
    )
    boxes = torch.tensor([[8, 0, 16, 8], [8, 0, 16, 3], [12, 0, 24, 16]])
    assert pointing_game(maps, boxes, SIZE).tolist() == [1, 0.5, 0.5]


def test_an_exact_map_overlaps_wholly():
    boxes = torch.tensor([[0, 0, 8, 4], [8, 4, 24, 12]])
    maps = torch.zeros(2, *SIZE)
    maps[0, :8, :4] = maps[1, 8:24, 4:12] = 0.3
    assert box_iou(maps, boxes, SIZE, 0.5).tolist() == [1.0, 1.0]
    assert choose_threshold(maps, boxes, SIZE) == 0.05


def test_a_constant_map_does_as_well_as_chance(attended):
    boxes = attended[1]
    constant = torch.full((len(boxes), 6, 4), 0.1)
    shares = [len(box_pixels(box)) / (SIZE[0] * SIZE[1]) for box in boxes.tolist()]
    assert chance_levels(boxes, SIZE).tolist() == pytest.approx(shares)
    for threshold in (0.0, 0.5, 1.0):
        assert box_iou(constant, boxes, SIZE, threshold).tolist() == pytest.approx(shares)
    assert pointing_game(constant, boxes, SIZE).tolist() == pytest.approx(shares)


def test_a_random_point_hits_as_often_as_the_chance_level_says():
    maps = torch.rand(4000, 12, 8, generator=torch.Generator().manual_seed(1))
    boxes = torch.tensor([[0, 4, 12, 12]]).expand(4000, 4)
    level = float(chance_levels(boxes[:1], SIZE))
    assert level == 0.25
    assert pointing_game(maps, boxes // 2, (12, 8)).mean() == pytest.approx(level, abs=0.03)


def test_the_threshold_is_the_best_on_average(attended):
    maps, boxes = attended
    maps = maps.abs().cumsum(dim=1)
    thresholds = (0.1, 0.3, 0.5, 0.7, 0.9)
    means = [float(box_iou(maps, boxes, SIZE, threshold).mean()) for threshold in thresholds]
    chosen = choose_threshold(maps, boxes, SIZE, thresholds)
    assert chosen == thresholds[means.index(max(means))]
    assert choose_threshold(maps, boxes, SIZE, thresholds[::-1]) == chosen


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_map_that_is_not_a_number_finds_nothing(attended, value):
    maps, boxes = attended
    bad = maps.index_fill(0, torch.tensor([4]), value)
    assert pointing_game(bad, boxes, SIZE)[4] == 0
    assert box_iou(bad, boxes, SIZE, 0.5)[4] == 0
    others = torch.arange(40) != 4
    assert torch.equal(box_iou(bad, boxes, SIZE, 0.5)[others], box_iou(maps, boxes, SIZE, 0.5)[others])


def test_half_precision_and_no_map_at_all(attended):
    maps, boxes = attended
    rounded = maps.bfloat16()
    assert torch.equal(pointing_game(rounded, boxes, SIZE), pointing_game(rounded.float(), boxes, SIZE))
    assert pointing_game(maps[:0], boxes[:0], SIZE).shape == box_iou(maps[:0], boxes[:0], SIZE, 0.5).shape == (0,)


@pytest.mark.parametrize("box", [[0, 0, 0, 4], [0, 5, 4, 5], [-1, 0, 4, 4], [0, 0, 25, 4], [0, 0, 4, 17]])
def test_boxes_outside_the_image_are_refused(box):
    boxes = torch.tensor([[0, 0, 24, 16], box])
    with pytest.raises(ValueError, match=r"box 1 is \["):
        pointing_game(torch.zeros(2, 6, 4), boxes, SIZE)
    with pytest.raises(ValueError, match=r"box 1 is \["):
        chance_levels(boxes, SIZE)


def test_what_does_not_fit_is_refused(attended):
    maps, boxes = attended
    with pytest.raises(ValueError, match="a box for each"):
        pointing_game(maps[1:], boxes, SIZE)
    with pytest.raises(ValueError, match="whole pixels"):
        pointing_game(maps, boxes.float(), SIZE)
    with pytest.raises(ValueError, match=r"thresholds in \[0, 1\]"):
        box_iou(maps, boxes, SIZE, 1.1)
    with pytest.raises(ValueError, match="validation maps"):
        choose_threshold(maps[:0], boxes[:0], SIZE)
