import math

import pytest
import torch

from hardneg_plugin.evaluation.downstream.zero_shot import auroc, zero_shot_scores


def unit(vector: list[float]) -> list[float]:
    return [x / math.hypot(*vector) for x in vector]


def scores_oracle(images: torch.Tensor, present: torch.Tensor, absent: torch.Tensor) -> list[list[float]]:
    """The definition in plain loops over Python floats."""

    def text(wordings: list[list[float]]) -> list[float]:
        return unit([sum(column) / len(wordings) for column in zip(*map(unit, wordings), strict=True)])

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    return [
        [
            dot(unit(image), text(stated)) - dot(unit(image), text(denied))
            for stated, denied in zip(present.tolist(), absent.tolist(), strict=True)
        ]
        for image in images.tolist()
    ]


def auroc_oracle(scores: list[float], labels: list[bool]) -> float:
    """Pair by pair."""
    pairs = [
        (a, b)
        for a, is_a in zip(scores, labels, strict=True)
        if is_a
        for b, is_b in zip(scores, labels, strict=True)
        if not is_b
    ]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs) if pairs else math.nan


@pytest.fixture
def embedded():
    generator = torch.Generator().manual_seed(0)
    images, present = torch.randn(9, 6, generator=generator), torch.randn(4, 3, 6, generator=generator)
    return 5 * images, present * torch.tensor([1.0, 4.0, 9.0])[:, None], torch.randn(4, 2, 6, generator=generator)


def test_scores_equal_the_definition(embedded):
    assert zero_shot_scores(*embedded).numpy() == pytest.approx(
        torch.tensor(scores_oracle(*embedded)).numpy(), abs=1e-6
    )


def test_scores_are_at_their_ends_for_opposite_sentences():
    images, there = torch.tensor([[2.0, 0.0], [-3.0, 0.0], [0.0, 1.0]]), torch.tensor([[[1.0, 0.0]]])
    assert zero_shot_scores(images, there, -there)[:, 0].tolist() == [2.0, -2.0, 0.0]


def test_length_and_repeats_of_wordings_change_nothing(embedded):
    images, present, absent = embedded
    scores = zero_shot_scores(images, present, absent)
    lengths = torch.tensor([0.1, 10.0, 3.0])[:, None]
    torch.testing.assert_close(zero_shot_scores(images / 7, present * lengths, absent.repeat(1, 5, 1)), scores)


def test_autocast_does_not_round_the_scores(embedded):
    scores = zero_shot_scores(*embedded)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(zero_shot_scores(*embedded), scores)


@pytest.mark.parametrize(
    ("images", "present", "absent"),
    [
        ((4, 8), (3, 2, 6), (3, 2, 6)),
        ((4, 8), (3, 2, 8), (2, 2, 8)),
        ((4, 8), (3, 8), (3, 8)),
        ((8,), (3, 2, 8), (3, 2, 8)),
        ((4, 8), (3, 0, 8), (3, 2, 8)),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(images, present, absent):
    with pytest.raises(ValueError, match="at least one wording"):
        zero_shot_scores(torch.zeros(images), torch.zeros(present), torch.zeros(absent))


@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_auroc_equals_the_share_of_pairs_in_order(levels):
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (60, 5), generator=generator).float()
    labels = torch.rand(60, 5, generator=generator) < torch.tensor([0.1, 0.3, 0.5, 0.9, 0.5])
    expected = [auroc_oracle(scores[:, f].tolist(), labels[:, f].tolist()) for f in range(5)]
    areas = auroc(scores, labels)
    assert areas.dtype == torch.float64
    assert areas.tolist() == pytest.approx(expected, abs=1e-12)
    assert len(set(expected)) == 5


def test_auroc_of_closed_cases():
    labels = torch.tensor([[False, False, False], [True, True, True]])
    scores = torch.tensor([[0.0, 1.0, 3.0], [1.0, 0.0, 3.0]])
    assert auroc(scores, labels).tolist() == [1.0, 0.0, 0.5]
    assert auroc(scores.bfloat16(), labels).tolist() == [1.0, 0.0, 0.5]


def test_a_finding_of_one_class_has_no_auroc():
    labels = torch.tensor([[True, False, False], [True, False, True], [True, False, True]])
    areas = auroc(torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 2.0], [2.0, 2.0, 0.0]]), labels)
    assert areas[:2].isnan().all()
    assert areas[2] == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_refused(value):
    with pytest.raises(ValueError, match="1 of 4 are not"):
        auroc(torch.tensor([[0.0, 0.0], [value, 0.0]]), torch.tensor([[True, True], [False, False]]))


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="of one shape"):
        auroc(torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"torch\.int64"):
        auroc(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64))
