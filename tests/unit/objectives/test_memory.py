"""The queue and the bank against plain Python lists and dictionaries."""

from functools import partial

import pytest
import torch

from hardneg_plugin.objectives import study_bank
from hardneg_plugin.objectives.memory import ReportQueue
from hardneg_plugin.objectives.study_bank import StudyBank


def rows(studies):
    """Embeddings and keys that say whose they are."""
    studies = torch.tensor(studies)
    return studies[:, None] + torch.tensor([0.1, 0.2]), studies[:, None] + 0.5, torch.stack([studies, -studies], dim=1)


def held(queue):
    return queue.entries()[2][:, 0].tolist()


@pytest.mark.parametrize("size", [1, 3, 5, 8])
def test_a_queue_holds_the_latest_studies_whatever_the_batches(size):
    queue, pushed = ReportQueue(size), []
    for batch in ([1, 2], [3, 4, 5], [6], [7, 8, 9, 10, 11, 12, 13], [14, 15]):
        queue.push(*rows(batch))
        pushed += batch
        assert len(queue) == min(size, len(pushed))
        assert sorted(held(queue)) == pushed[-size:]
        images, reports, keys = queue.entries()
        expected = rows(held(queue))
        assert all(torch.equal(a, b) for a, b in zip((images, reports, keys), expected, strict=True))


@pytest.mark.parametrize("size", [1, 3, 5, 8])
def test_a_queue_holds_the_latest_studies_that_are_kept(size):
    """Also across a checkpoint, which holds no empty place."""
    random = torch.Generator().manual_seed(size)
    queue, pushed = ReportQueue(size), []
    for batch in ([1, 2], [3, 4, 5], [6], [7, 8, 9, 10, 11, 12, 13], [14, 15], [16], [17, 18, 19]):
        kept = torch.rand(len(batch), generator=random) < 0.5
        queue.push(*rows(batch), kept=kept)
        pushed += [study for study, stays in zip(batch, kept.tolist(), strict=True) if stays]
        filled = queue.filled()
        assert sorted(torch.tensor(held(queue))[filled].tolist()) == pushed[-size:]
        for got, expected in zip(queue.entries(), rows(held(queue)), strict=True):
            assert torch.equal(got[filled], expected[filled])
        state = queue.state_dict()
        assert len(state["_extra_state"]["columns"][0]) == len(pushed[-size:])
        queue = ReportQueue(size)
        queue.load_state_dict(state)
        assert len(queue) == len(pushed[-size:])


@pytest.mark.parametrize("before", [0, 1, 4, 5, 7])
@pytest.mark.parametrize("size", [3, 5, 9])
def test_a_queue_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(before, size):
    """Also into a queue of another size, which keeps the latest that fit."""
    queue, again = ReportQueue(5), ReportQueue(size)
    for study in range(before):
        queue.push(*rows([study]))
    again.load_state_dict(queue.state_dict())
    for study in range(before, before + 4):
        queue.push(*rows([study]))
        again.push(*rows([study]))
        latest = list(range(study + 1))
        assert sorted(held(queue)) == latest[-5:]
        # a larger one cannot know what the smaller had forgotten
        known = latest[max(0, before - 5) :]
        assert sorted(held(again)) == known[-size:]
    if size == 5:
        assert all(torch.equal(a, b) for a, b in zip(queue.entries(), again.entries(), strict=True))


def test_a_checkpoint_holds_a_copy_of_what_is_filled_and_no_more():
    queue = ReportQueue(60_000)
    queue.push(*rows([1, 2]))
    state = queue.state_dict()["_extra_state"]
    assert [column.untyped_storage().nbytes() // column.element_size() for column in state["columns"]] == [4, 2, 4]
    queue.push(*rows([3]))
    assert state["columns"][2][:, 0].tolist() == [1, 2]


@pytest.mark.parametrize("latest", [0, 100, 1024])
def test_a_bank_is_a_dictionary_of_the_last_visits(latest, monkeypatch):
    monkeypatch.setattr(study_bank, "LATEST", latest)  # so that those are often few, and often all are sorted
    random = torch.Generator().manual_seed(0)
    bank, expected = StudyBank(), {}
    for _ in range(60):
        studies = torch.randint(10_000, 13_000, (64,), generator=random).unique()
        values = torch.randn(len(studies), 2, 3, generator=random)
        bank.write(studies, studies * 2, values)
        expected |= dict(zip(studies.tolist(), values, strict=True))
    assert len(bank) == len(expected) > 1024  # grown at least once
    asked = torch.tensor([[list(expected)[5], 9_999], [list(expected)[700], -1]])
    slots = bank.slots_of(asked)
    assert (slots < 0).tolist() == [[False, True], [False, True]]
    all_slots = bank.slots_of(torch.tensor(list(expected)))
    assert sorted(all_slots.tolist()) == list(range(len(expected)))
    doubled, values = bank.read(all_slots)
    assert torch.equal(values, torch.stack(list(expected.values())))
    assert doubled.tolist() == [2 * study for study in expected]


def test_a_study_without_a_key_has_no_slot_and_of_two_rows_the_first_counts():
    bank = StudyBank()
    bank.write(torch.tensor([-1, 7, -1, 7]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert len(bank) == 1
    assert bank.entries()[1].tolist() == [2.0]
    bank.write(torch.tensor([-1]), torch.tensor([1.0]))
    assert len(bank) == 1


def test_a_bank_goes_on_from_a_checkpoint():
    bank, again = StudyBank(), StudyBank()
    bank.write(torch.tensor([7, 3]), torch.tensor([[1.0], [2.0]]))
    again.load_state_dict(bank.state_dict())
    for one in (bank, again):
        one.write(torch.tensor([3, 5]), torch.tensor([[4.0], [5.0]]))
    assert all(torch.equal(a, b) for a, b in zip(bank.entries(), again.entries(), strict=True))
    assert again.entries()[0].tolist() == [7, 3, 5]
    assert again.entries()[1].flatten().tolist() == [1, 4, 5]


def filled(memory, value):
    """A queue or a bank in which the two studies have a value."""
    images, reports, keys = torch.full((2, 2), value), torch.full((2, 2), value), torch.tensor([[1], [2]])
    if isinstance(memory, StudyBank):
        memory.write(keys[:, 0], images, reports)
    else:
        memory.push(images, reports, keys)
    return memory


@pytest.mark.parametrize("make", [partial(ReportQueue, 2), StudyBank])
def test_a_checkpoint_and_what_it_was_made_of_or_read_into_share_no_memory(make):
    memory = filled(make(), 1.0)
    state = memory.state_dict()["_extra_state"]
    filled(memory, 2.0)  # in the same places
    assert {float(column.max()) for column in state["columns"][:2]} == {1.0}
    again = make()
    again.load_state_dict({"_extra_state": state})
    filled(again, 3.0)
    assert {float(column.max()) for column in state["columns"][:2]} == {1.0}
    keys = state["keys"] if "keys" in state else state["columns"][2].flatten()
    assert keys.tolist() == [1, 2]
    assert {float(column.max()) for column in again.entries() if column.is_floating_point()} == {3.0}


@pytest.mark.parametrize("empty", [ReportQueue(4), StudyBank()])
def test_an_empty_one_has_a_state_too(empty):
    type(empty)(*([4] if isinstance(empty, ReportQueue) else [])).load_state_dict(empty.state_dict())
    assert not list(empty.buffers())  # DDP would send them from rank 0 at every step


@pytest.mark.parametrize("memory", [ReportQueue(4), StudyBank()])
def test_memory_of_a_checkpoint_moves_to_the_device_that_asks_for_it(memory):
    images, reports, keys = rows([1, 2])
    if isinstance(memory, ReportQueue):
        memory.push(images, reports, keys)
    else:
        memory.write(keys[:, 0], images)
    memory.load_state_dict(memory.state_dict())
    assert {column.device.type for column in memory.entries()} == {"cpu"}
    assert {column.device.type for column in memory.entries(torch.device("meta"))} == {"meta"}
    assert {column.device.type for column in memory.entries()} == {"meta"}
