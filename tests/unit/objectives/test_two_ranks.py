"""Two ranks train as one process with all their studies in one batch would."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # where spawned processes look, too
from bank_in_loops import in_loops
from ranks_of_the_objective import CASES, Model, in_two_ranks, run, steps, studies

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return in_two_ranks(tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def one_process():
    seen = {}
    for case in CASES:
        model = Model(*case)
        seen[case] = run(model, model.objective, [0, 1])
    return seen


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    else:
        assert one == other


def relative_distance(one, other):
    return ((one - other).norm() / other.norm().clamp_min(1e-12)).item()


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_gradients_and_losses_are_those_of_one_process(ranks, one_process, case):
    active = 0
    for on_0, on_1, alone in zip(ranks[0][case], ranks[1][case], one_process[case], strict=True):
        # float32: inputs that differ in their last digit alone change the gradient of a norm within the encoder of pairs by 9e-8,
        # 3e-3 of itself, where the largest gradient is 10; how much depends on the CPU's order of sums, too
        lost = 2e-8 * max(gradient.norm() for gradient in alone["gradients"].values())
        relative = 1e-3 if "reclf" in case else 2e-4 if "gk_mvlp" in case else 1e-5
        for name, expected in alone["gradients"].items():
            assert torch.equal(on_0["gradients"][name], on_1["gradients"][name])
            if expected.norm() > 1e-6:
                assert (on_0["gradients"][name] - expected).norm() < relative * expected.norm() + lost, name
                active += 1
            else:
                assert on_0["gradients"][name].norm() < 2e-6, name
        assert torch.equal(on_0["loss"], on_1["loss"])
        assert on_0["loss"].item() == pytest.approx(alone["loss"].item(), rel=1e-5, abs=1e-7)
    assert active >= 4 * (len(steps()) - 1)


@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_queue_bank_and_auxiliary_negatives_agree_on_every_rank_bit_for_bit(ranks, one_process, case):
    source, _, hardening = case
    for on_0, on_1, alone in zip(ranks[0][case], ranks[1][case], one_process[case], strict=True):
        assert_equal(on_0["kept"], on_1["kept"])
        assert on_0["kept"].keys() == alone["kept"].keys()
    expected = {"queue": 1, "bank": 2, "table": 2}.get(source, 0) + (hardening == "alternating")
    assert len(ranks[0][case][-1]["kept"]) == expected
    for name, state in ranks[0][case][-1]["kept"].items():
        columns = state.get("columns", [])
        for ours, theirs in zip(columns, one_process[case][-1]["kept"][name].get("columns", []), strict=True):
            torch.testing.assert_close(ours, theirs)
            assert len(ours) >= 5


@pytest.mark.parametrize("sharded", [False, True])
def test_bank_and_auxiliary_negatives_of_two_ranks_are_those_of_plain_loops(ranks, sharded):
    """With uneven batches, studies that come twice, and some with features that are not finite."""
    expected, came = in_loops()
    assert min(came.values()) >= 2, came
    for step, one in enumerate(expected):
        for rank in (0, 1):
            got = ranks[rank]["bank in loops", sharded][step]
            torch.testing.assert_close(got["loss"].double(), one["loss"], rtol=1e-5, atol=1e-6)
            for side, gradient in zip(("images", "reports"), one[rank], strict=True):
                gradient = torch.zeros_like(got[side]).double() if gradient is None else gradient
                torch.testing.assert_close(got[side].double(), gradient, rtol=1e-4, atol=1e-6)


def test_accumulated_gradients_are_those_of_two_whole_batches(ranks):
    model = Model("in_batch", "info_nce", "arc")
    for step in (1, 2):
        numbers, progress = steps()[step]
        loss = model(studies([n for rank in numbers for n in rank], seed=step), progress)
        (loss / 2).backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(ranks[0]["accumulated"][name], ranks[1]["accumulated"][name])
        assert relative_distance(ranks[0]["accumulated"][name], parameter.grad) < 1e-5


def test_sizes_travel_with_the_centre_embeddings_with_the_keys_and_the_gradient_once_back(ranks):
    there_and_back = ["all_gather", "all_gather", "all_reduce"]
    assert ranks[0]["collectives"] == ranks[1]["collectives"] == there_and_back


def test_rows_come_in_the_order_of_the_ranks(ranks):
    for rank, seen in enumerate(rank["gathered"] for rank in ranks):
        assert seen["rows"].flatten().tolist() == [0, 1, 2, 10, 11, 12, 13]
        assert seen["own"].flatten().tolist() == ([0, 1, 2], [10, 11, 12, 13])[rank]
        assert seen["sizes"] == (3, 4)
        assert seen["mean"].tolist() == [1.5]
        assert seen["weighted"].item() == pytest.approx((3 + 46) / 7)
        assert seen["first"].tolist() == [5]
