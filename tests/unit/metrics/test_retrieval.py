import math

import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.metrics import retrieval
from hardneg_plugin.metrics.retrieval import retrieval_ranks


def ranks_oracle(images: torch.Tensor, reports: torch.Tensor, keys: list[int]) -> list[int]:
    """The definition in plain loops over Python floats."""

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    ranks = []
    for i, image in enumerate(images.tolist()):
        similarity = [cosine(image, report) for report in reports.tolist()]
        hits = {j for j in range(len(keys)) if j == i or (keys[j] == keys[i] and keys[i] != -1)}
        best = max(similarity[j] for j in hits)
        ranks.append(1 + sum(similarity[j] >= best - 1e-6 for j in range(len(keys)) if j not in hits))
    return ranks


@pytest.fixture
def pairs():
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(40, 8, generator=generator)
    reports = images + 1.5 * torch.randn(40, 8, generator=generator)
    keys = torch.randint(-1, 25, (40,), generator=generator)
    for key in keys.unique():  # equal texts mostly have equal embeddings: ties among hits, and among others
        reports[keys == key] = reports[keys == key][0].clone()
    return images, 7 * reports, keys


@pytest.mark.parametrize("chunk_elements", [1, 120, 2**22])
def test_equals_the_definition_in_chunks_of_any_size(pairs, monkeypatch, chunk_elements):
    monkeypatch.setattr(retrieval, "CHUNK_ELEMENTS", chunk_elements)
    images, reports, keys = pairs
    ranks = retrieval_ranks(images, reports, keys)
    assert ranks.tolist() == ranks_oracle(images, reports, keys.tolist())
    assert len(set(ranks.tolist())) > 5


@pytest.mark.parametrize("direction", [1, -1], ids=["image to report", "report to image"])
def test_ranks_among_a_few(pairs, direction):
    anchors, candidates = pairs[:2][::direction]
    generator = torch.Generator().manual_seed(4)
    pools = torch.stack([torch.randperm(40, generator=generator)[:6] for _ in range(40)])
    pools[pools == torch.arange(40)[:, None]] = -1  # never the own one; -1 is nobody
    pools[:5, 3:] = -1
    ranks = retrieval.ranks_among(anchors, candidates, pools)
    expected = []
    for i in range(40):
        similarity = [float(torch.cosine_similarity(anchors[i], candidates[j], dim=0)) for j in pools[i] if j >= 0]
        own = float(torch.cosine_similarity(anchors[i], candidates[i], dim=0))
        expected.append(1 + sum(value >= own - 1e-6 for value in similarity))
    assert ranks.tolist() == expected
    assert len(set(expected)) > 3


@pytest.mark.parametrize("direction", [1, -1], ids=["image to report", "report to image"])
def test_scores_of_pairs_rank_as_the_embeddings_that_they_are_of(pairs, direction):
    anchors, candidates = (F.normalize(rows, dim=-1) for rows in pairs[:2][::direction])
    scores, keys = anchors @ candidates.T, pairs[2]
    assert retrieval.score_ranks(scores, keys).tolist() == ranks_oracle(anchors, candidates, keys.tolist())
    pools = torch.arange(40)[:, None] + torch.tensor([1, 5, 9])
    pools[pools >= 40] = -1
    expected = retrieval.ranks_among(anchors, candidates, pools)
    assert torch.equal(retrieval.score_ranks_among(scores, pools), expected)
    assert len(expected.unique()) == 4


def test_among_a_few_ties_and_what_is_no_number_count_against_the_own_one():
    same = torch.ones(3, 4)
    pools = torch.tensor([[1, 2], [0, -1], [-1, -1]])
    assert retrieval.ranks_among(same, same, pools).tolist() == [3, 2, 1]
    assert retrieval.ranks_among(torch.full((3, 4), torch.nan), same, pools).tolist() == [3, 2, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_perfect_embeddings_find_everything(dtype):
    images = torch.eye(30, dtype=dtype)
    assert retrieval_ranks(images, 3 * images, torch.arange(30)).tolist() == [1] * 30


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan, math.inf])
@pytest.mark.parametrize("collapsed", ["images", "reports", "both"])
def test_a_collapsed_model_finds_nothing_beyond_chance(value, collapsed):
    images, reports = torch.randn(2, 300, 512, generator=torch.Generator().manual_seed(0))
    row = torch.randn(512, generator=torch.Generator().manual_seed(1))
    if collapsed != "reports":
        images = (row * value).expand(300, 512)
    if collapsed != "images":
        reports = (row * value).expand(300, 512)
    ranks = retrieval_ranks(images, reports, torch.arange(300))
    if collapsed == "images" and value == 1.0:  # every image finds the same k reports: k studies in 300 are right
        assert [(ranks <= k).sum().item() for k in (1, 5, 10)] == [1, 5, 10]
    else:
        assert ranks.tolist() == [300] * 300


def test_one_bad_report_does_not_spoil_the_others():
    images = torch.eye(20)
    reports = torch.eye(20)
    reports[4] = math.nan
    ranks = retrieval_ranks(images, reports, torch.arange(20)).tolist()
    assert ranks == [2] * 4 + [20] + [2] * 15


def test_unknown_texts_equal_nothing_and_known_ones_share_their_hits():
    images = torch.eye(4)
    reports = images[[1, 0, 3, 2]]  # each image is most similar to its neighbour's report
    assert retrieval_ranks(images, reports, torch.tensor([-1, -1, 5, 5])).tolist()[:2] == [4, 4]
    assert retrieval_ranks(images, reports, torch.tensor([-1, -1, 5, 5])).tolist()[2:] == [1, 1]


def test_autocast_does_not_round_the_similarities():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(500, 64, generator=generator)
    reports = images + 3 * torch.randn(500, 64, generator=generator)
    keys = torch.arange(500)
    expected = retrieval_ranks(images, reports, keys)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(retrieval_ranks(images, reports, keys), expected)


def test_similarities_that_differ_by_rounding_only_are_ties():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    reports = torch.tensor([[1.0, 0.0], [1.0, 7e-4]])  # cosines to the first image: 1 and 1 - 2.4e-7
    assert retrieval_ranks(images, reports, torch.tensor([0, 1])).tolist() == [2, 1]
    reports[1, 1] = 7e-3  # 1 and 1 - 2.4e-5
    assert retrieval_ranks(images, reports, torch.tensor([0, 1])).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("images", "reports", "keys"),
    [((4, 8), (4, 6), (4,)), ((4, 8), (3, 8), (4,)), ((4,), (4,), (4,)), ((4, 8), (4, 8), (3,))],
)
def test_shapes_that_do_not_fit_are_refused(images, reports, keys):
    with pytest.raises(ValueError, match="of one shape"):
        retrieval_ranks(torch.zeros(images), torch.zeros(reports), torch.zeros(keys))
