"""A bank whose parts are on 2 and on 4 ranks, beside one that every rank has as a whole: batches are uneven."""

import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from hardneg_plugin.agreement import check_agreement
from hardneg_plugin.distributed import Shards, of_all_ranks
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import UNKNOWN, MatchKeys, match_key
from hardneg_plugin.objectives import Bank, EmbeddedBatch, study_parts
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.objectives.study_parts import StudyParts, whole_parts

sys.path.append(str(Path(__file__).parents[1]))
from forked_ranks import on_ranks

pytestmark = pytest.mark.slow
STUDIES, WIDTH, STEPS = 60, 6, 12
CPU = torch.device("cpu")
CASES = {
    "search": {"k": 2},
    "pool": {"k": 2, "pool": 5, "ceiling": 0.5},
    "bfloat16": {"k": 2, "dtype": "bfloat16"},
    "cpu": {"k": 1, "device": "cpu", "refresh_every": 2},
    "table": {"k": 2, "table": {str(n): [str((n + j) % STUDIES) for j in range(1, 2 + n % 4)] for n in range(40)}},
}


def keys_of(numbers):
    """Of studies that share patients; one in ten is not known at all."""
    keys = torch.full((len(numbers), 4), UNKNOWN)
    for row, number in zip(keys, numbers, strict=True):
        if number % 10:
            row[0], row[1] = match_key(str(number)), number % 25
    return keys


def batch_of(step, rank, ranks):
    """Of rank 1 every third batch has one study; some come twice in a step; four steps are an epoch."""
    random = torch.Generator().manual_seed(step)
    sizes = [1 if (step + r) % 3 == 0 else 4 + (step * r) % 5 for r in range(ranks)]
    numbers = torch.randint(STUDIES, (sum(sizes),), generator=random).tolist()
    images, reports = F.normalize(torch.randn(2, len(numbers), WIDTH, generator=random), dim=-1)
    shards = Shards(rank, tuple(sizes))
    return EmbeddedBatch(
        images, reports, MatchKeys(keys_of(numbers)), shards, TrainingProgress(step=step, epoch=step // 4)
    )


def as_dictionary(state):
    """What a checkpoint holds of each study, whatever the order: its rows, and its neighbours."""
    slots, own = state["bank._extra_state"], state["_extra_state"]
    assert "part" not in slots
    assert "part" not in own
    rows = zip(slots["keys"].tolist(), *(column.tolist() for column in slots["columns"]), strict=True)
    known = zip(own["studies"].tolist(), own["neighbours"].tolist(), strict=True)
    return own["epoch"], {key: values for key, *values in rows}, dict(known)


def take_steps(rank, ranks, bank, steps):
    """What is found in each step."""
    found = [bank(batch_of(step, rank, ranks)) for step in steps]
    return [(one.reports, one.images, one.valid, one.places) for one in found]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert all(map(torch.equal, one, other))


def bytes_of(bank):
    rows = (*bank.bank.entries(), bank._studies, bank._neighbours)
    return sum(kept.nbytes for kept in rows)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_a_sharded_bank_is_the_replicated_one_also_from_a_checkpoint(case, ranks):
    """Negatives bit for bit, slots and neighbours; a checkpoint goes on under either setting."""

    def run(rank):
        torch.manual_seed(0)
        with mock.patch.object(study_parts, "CHUNK", 7):
            sharded, replicated = Bank(**CASES[case], sharded=True), Bank(**CASES[case])
            assert_same(*(take_steps(rank, ranks, bank, range(7)) for bank in (sharded, replicated)))
            check_agreement(sharded, "bank")
            state = of_all_ranks(whole_parts(sharded.state_dict(), CPU))[0]
            assert as_dictionary(state)[:2] == as_dictionary(replicated.state_dict())[:2]
            if "table" not in CASES[case]:
                assert as_dictionary(state) == as_dictionary(replicated.state_dict())
            again, as_a_whole, divided = (Bank(**CASES[case], sharded=kind) for kind in (True, False, True))
            again.load_state_dict(state)
            as_a_whole.load_state_dict(state)
            divided.load_state_dict(replicated.state_dict())
            banks = (sharded, again, as_a_whole, divided)
            expected = take_steps(rank, ranks, replicated, range(7, STEPS))
            for bank in banks:
                assert_same(take_steps(rank, ranks, bank, range(7, STEPS)), expected)
            return {
                "bytes": [bytes_of(sharded), bytes_of(replicated)],
                "keys": sharded.bank.entries()[0].tolist(),
                "from the bank": int(sum((valid & (places < 0)).sum() for *_, valid, places in expected)),
            }

    seen = on_ranks(run, ranks)
    keys = [key for one in seen for key in one["keys"]]
    assert len(keys) == len(set(keys)) > 30
    assert all(one["keys"] for one in seen)
    # together they hold what each replicated one holds
    assert sum(one["bytes"][0] for one in seen) == seen[0]["bytes"][1]
    assert min(one["from the bank"] for one in seen) > 8


def test_a_checkpoint_of_two_ranks_goes_on_on_four_and_on_one():
    def first(rank):
        bank = Bank(k=2, sharded=True)
        take_steps(rank, 2, bank, range(6))
        return whole_parts(bank.state_dict(), CPU)

    state = on_ranks(first, 2)[0]
    before_ranks, alone = Bank(k=2, sharded=True), Bank(k=2)
    before_ranks.load_state_dict(state)  # without a process group: the whole, until there are ranks
    alone.load_state_dict(state)

    def second(rank):
        sharded, replicated = Bank(k=2, sharded=True), Bank(k=2)
        for bank in (sharded, replicated):
            bank.load_state_dict(state)
        expected = take_steps(rank, 4, replicated, range(6, STEPS))
        for bank in (sharded, before_ranks):
            assert_same(take_steps(rank, 4, bank, range(6, STEPS)), expected)
        return len(sharded.bank), len(before_ranks.bank), len(replicated.bank)

    lengths = on_ranks(second, 4)
    assert all(one == other for one, other, _ in lengths)
    assert sum(one for one, _, _ in lengths) == lengths[0][2]
    assert_same(*(take_steps(0, 1, bank, range(6, STEPS)) for bank in (before_ranks, alone)))


def test_a_part_alone_is_no_checkpoint_of_another_rank():
    def run(rank):
        bank = Bank(sharded=True)
        bank(batch_of(0, rank, 2))
        states = of_all_ranks(bank.state_dict())
        Bank(sharded=True).load_state_dict(states[rank])
        for other in (Bank(sharded=True), Bank()):
            with pytest.raises(UserError, match=f"got that of rank {1 - rank} of 2 alone: call whole_parts"):
                other.load_state_dict(states[1 - rank])
        return whole_parts({"weight": torch.ones(1)}, CPU)

    assert all(state.keys() == {"weight"} for state in on_ranks(run))


def test_a_step_exchanges_twice_and_a_replicated_one_never():
    def run(rank):
        called = []
        for name in ("all_reduce", "all_to_all_single", "all_gather", "broadcast"):
            real = getattr(dist, name)
            setattr(
                dist, name, lambda *args, name=name, real=real, **kwargs: (called.append(name), real(*args, **kwargs))
            )
        for sharded in (True, False):
            bank = Bank(sharded=sharded, table={"1": ["2"]})
            bank(batch_of(0, rank, 2))
            called.append("second step")
            bank(batch_of(1, rank, 2))
        return called

    assert on_ranks(run)[0] == ["second step", "all_reduce", "all_to_all_single", "second step"]


def test_parts_are_even_whatever_the_keys_are():
    def run(rank):
        parts = StudyParts(sharded=True)
        keys = {
            "hashed": torch.tensor([match_key(str(n)) for n in range(2000)]),
            "in a row": torch.arange(2000),
            "even": 2 * torch.arange(2000),
            "multiples": 4096 * torch.arange(2000),
        }
        return {name: int(parts.are_own(key).sum()) for name, key in keys.items()}

    seen = on_ranks(run, 4)
    for name in seen[0]:
        assert sum(one[name] for one in seen) == 2000
        assert min(one[name] for one in seen) > 400, name
