from itertools import pairwise

import numpy as np
import pytest

from hardneg_plugin.data.phantom.anatomy import Grid
from hardneg_plugin.data.phantom.findings import ATTRIBUTES, LOBES, SIDES, Finding, draw_findings, finding
from hardneg_plugin.data.phantom.marks import FRONTAL, LATERAL
from hardneg_plugin.data.phantom.render import find_marks, render

SIZE = 128
NO_LATERAL = {"pneumothorax", "rib fracture", "scoliosis"}
SHADE = 255 * 0.025  # what counts as a visible change, in greys


def example(name, **fixed):
    return finding(name, **{key: fixed.get(key, values[0]) for key, values in ATTRIBUTES[name].items()})


def mark_of(found, number=0, view="frontal", others=frozenset()):
    (mark,) = [m for m in find_marks((3, number), {found, *others}, SIZE) if m.finding == found and m.view == view]
    return mark


def centre(mark):
    y0, x0, y1, x1 = mark.box
    return (y0 + y1) / 2, (x0 + x1) / 2


def test_images_are_determined_by_the_stream():
    first = render((3, 5), {example("oedema")}, SIZE)
    assert first.shape == (2, SIZE, SIZE)
    assert first.dtype == np.uint8
    assert np.array_equal(first, render((3, 5), {example("oedema")}, SIZE))
    assert not np.array_equal(first, render((3, 6), {example("oedema")}, SIZE))
    assert not np.array_equal(first, render((4, 5), {example("oedema")}, SIZE))


@pytest.mark.parametrize("size", [32, 75, 256])
def test_any_size_shows_the_same_patient(size):
    small, large = (render((3, 5), {example("cardiomegaly")}, s)[0].astype(float) for s in (size, SIZE))
    at = (np.arange(32) + 0.5) / 32
    thumbs = [image[np.ix_(*[(at * len(image)).astype(int)] * 2)] for image in (small, large)]
    assert np.corrcoef(thumbs[0].ravel(), thumbs[1].ravel())[0, 1] > 0.95


def test_patients_differ_and_use_the_range_of_greys():
    images = np.stack([render((3, number), frozenset(), 64) for number in range(12)]).astype(float)
    assert images.std(axis=(2, 3)).min() > 40
    assert images.max(axis=(2, 3)).max() <= 255
    assert (images > 250).mean() < 0.03  # not overexposed
    for one in range(12):
        for other in range(one):
            assert np.abs(images[one] - images[other]).mean() > 4


def test_lungs_are_dark_and_the_heart_lies_on_the_image_right():
    images = np.stack([render((3, number), frozenset(), SIZE)[0] for number in range(20)]).astype(float).mean(0)
    row = images[int(0.62 * SIZE)]  # through the heart
    middle = SIZE // 2
    bright = row > 0.75 * row[middle]
    assert bright[middle : int(0.9 * SIZE)].sum() > 1.3 * bright[int(0.1 * SIZE) : middle].sum()
    assert images[int(0.4 * SIZE), [int(0.32 * SIZE), int(0.68 * SIZE)]].max() < 0.6 * images[int(0.4 * SIZE), middle]


# --- marks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_finding_shows_where_its_views_say(name):
    for number in range(3):
        marks = find_marks((3, number), {example(name)}, SIZE)
        assert [mark.view for mark in marks] == (["frontal"] if name in NO_LATERAL else ["frontal", "lateral"])
        for mark in marks:
            y0, x0, y1, x1 = mark.box
            assert mark.mask.shape == (SIZE, SIZE)
            assert mark.mask.sum() >= 10
            inside = np.zeros_like(mark.mask)
            inside[y0:y1, x0:x1] = True
            assert not mark.mask[~inside].any()
            for line in (mark.mask[y0], mark.mask[y1 - 1], mark.mask[:, x0], mark.mask[:, x1 - 1]):
                assert line.any()  # the box is tight


@pytest.mark.parametrize("name", FRONTAL)
def test_drawn_findings_change_the_image_inside_their_mask_and_hardly_elsewhere(name):
    found, other = example(name), example("tortuous aorta")
    for number in range(3):
        present, absent = (render((3, number), findings, SIZE).astype(int) for findings in ({found, other}, {other}))
        changed = np.abs(present - absent)
        masks = {
            mark.view: mark.mask for mark in find_marks((3, number), {found, other}, SIZE) if mark.finding == found
        }
        for which, view in enumerate(("frontal", "lateral")):
            mask = masks.get(view, np.zeros((SIZE, SIZE), bool))
            assert changed[which][~mask].max() <= SHADE + 1
            if view in masks:
                # but for where the noise already makes the image white
                assert (changed[which][mask] >= min(SHADE, 6)).mean() > 0.9
        assert np.array_equal(present[1], absent[1]) == (name not in LATERAL)


@pytest.mark.parametrize("name", sorted(set(ATTRIBUTES) - set(FRONTAL)))
def test_findings_of_shape_change_the_image(name):
    for number in range(3):
        present, absent = (render((3, number), findings, SIZE)[0].astype(int) for findings in ({example(name)}, set()))
        mask = mark_of(example(name), number).mask
        assert np.abs(present - absent)[mask].mean() > SHADE
        assert np.abs(present - absent)[~mask].max() <= SHADE + 1


@pytest.mark.parametrize("name", [name for name, attributes in ATTRIBUTES.items() if "side" in attributes])
@pytest.mark.parametrize("side", SIDES)
def test_sided_findings_lie_on_their_side(name, side):
    for number in range(8):
        x = centre(mark_of(example(name, side=side), number))[1]
        assert (x > SIZE / 2) == (side == "left"), f"{name}, {side}, study {number}: {x}"


@pytest.mark.parametrize("lobe", LOBES)
def test_lobes_lie_on_their_side(lobe):
    for number in range(8):
        x = centre(mark_of(finding("consolidation", lobe=lobe), number))[1]
        assert (x > SIZE / 2) == lobe.startswith("left")


def test_the_spine_bends_to_the_side_that_is_said():
    for number in range(8):
        left, right = (mark_of(finding("scoliosis", direction=side), number) for side in SIDES)
        assert centre(left)[1] > centre(right)[1] + 2


@pytest.mark.parametrize(
    ("name", "key", "top_down"),
    [
        ("nodule", "zone", ("upper", "mid", "lower")),
        ("consolidation", "lobe", ("right upper", "right middle", "right lower")),
        ("consolidation", "lobe", ("left upper", "left lower")),
        ("atelectasis", "band", ("mid", "base")),
        ("rib fracture", "number", (4, 5, 6, 7, 8)),
    ],
)
def test_heights_follow_the_attribute(name, key, top_down):
    for number in range(5):
        heights = [centre(mark_of(example(name, **{key: value}), number))[0] for value in top_down]
        assert all(high + 2 < low for high, low in pairwise(heights)), heights


@pytest.mark.parametrize(
    ("name", "key", "growing"),
    [
        ("nodule", "mm", (6, 10, 15, 20)),
        ("cardiomegaly", "grade", ("mild", "moderate", "severe")),
        ("pleural effusion", "size", ("small", "moderate", "large")),
        ("pneumothorax", "size", ("small", "large")),
    ],
)
def test_sizes_follow_the_attribute(name, key, growing):
    for number in range(5):
        areas = [int(mark_of(example(name, **{key: value}), number).mask.sum()) for value in growing]
        assert all(small * 1.2 < large for small, large in pairwise(areas)), areas


def test_calcified_nodules_are_brighter():
    for number in range(5):
        soft, hard = (example("nodule", side="right", mm=15, calcified=value) for value in (False, True))
        peaks = [render((3, number), {found}, SIZE)[0][mark_of(found, number).mask].mean() for found in (soft, hard)]
        assert peaks[1] > peaks[0] + 25


def test_every_finding_of_mixed_studies_shows_in_the_frontal_view():
    for number in range(120):
        findings = draw_findings(np.random.default_rng((9, number)), 0.0)
        frontal = [mark.finding for mark in find_marks((9, number), findings, 64) if mark.view == "frontal"]
        assert frontal == sorted(findings)


def test_no_findings_no_marks():
    assert find_marks((3, 0), frozenset(), 64) == []


# --- shapes ----------------------------------------------------------------------------------------------------------


def unit_grid(size=200):
    axis = ((np.arange(size) + 0.5) / size).astype(np.float32)
    return Grid(np.broadcast_to(axis[None], (size, size)), np.broadcast_to(axis[:, None], (size, size)), 1 / size)


def test_area_of_an_ellipse():
    for tilt in (0.0, 0.7):
        assert unit_grid().ellipse(0.5, 0.5, 0.3, 0.2, tilt).mean() == pytest.approx(np.pi * 0.3 * 0.2, rel=0.01)


def test_area_of_a_stroke():
    # a capsule: a rectangle with a half-disc at each end; the second piece goes back over the first
    expected = 2 * 0.05 * 0.5 + np.pi * 0.05**2
    assert unit_grid().stroke([(0.2, 0.3), (0.5, 0.7)], 0.05).mean() == pytest.approx(expected, rel=0.02)
    assert unit_grid().stroke([(0.2, 0.3), (0.5, 0.7), (0.2, 0.3)], 0.05).mean() == pytest.approx(expected, rel=0.02)


def test_a_finding_is_a_plain_tuple():
    assert finding("scoliosis", direction="left") == ("scoliosis", (("direction", "left"),))
    assert Finding("oedema").attributes == ()
    with pytest.raises(KeyError):
        Finding("oedema").value("side")
