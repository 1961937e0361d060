"""Where a bank keeps its embeddings and in how many bytes: the negatives are the same, but for rounding."""

import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from hardneg_plugin.distributed import Shards
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import MatchKeys
from hardneg_plugin.objectives import Bank, EmbeddedBatch, study_parts
from hardneg_plugin.objectives.schedule import TrainingProgress

sys.path.append(str(Path(__file__).parents[1]))
from pretended_device import DEVICE, OnDevice, PretendedDevice

STUDIES, WIDTH = 40, 6
SETTINGS = [{}, {"dtype": "bfloat16"}, {"device": "cpu"}, {"dtype": "bfloat16", "device": "cpu"}, {"sharded": True}]


def batch_of(step, numbers=None, place=lambda rows: rows):
    """The studies of a step; four steps are an epoch. Every study shares its patient with another."""
    random = torch.Generator().manual_seed(step)
    numbers = torch.randperm(STUDIES, generator=random)[:9] if numbers is None else torch.tensor(numbers)
    images, reports = F.normalize(torch.randn(2, len(numbers), WIDTH, generator=random), dim=-1)
    unknown = torch.full_like(numbers, -1)
    keys = MatchKeys(place(torch.stack([numbers, 1000 + numbers % 20, unknown, unknown], dim=1)))
    progress = TrainingProgress(step=step, epoch=step // 4)
    shards = Shards(0, (len(numbers),))
    return EmbeddedBatch(place(images), place(reports), keys, shards, progress, all_usable=place(unknown < 0))


def rounded(rows):
    return F.normalize(rows.bfloat16().float(), dim=-1)


def cosine(one, other):
    return float(one @ other)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("chunk", [7, 65_536])
def test_negatives_are_those_of_a_dictionary_of_what_was_kept(setting, chunk, monkeypatch):
    """By a search at the start of each epoch, among pieces of 7 studies too; rounded as the setting says."""
    monkeypatch.setattr(study_parts, "CHUNK", chunk)
    as_kept = rounded if "dtype" in setting else lambda rows: rows
    source, slots, nearest, from_bank = Bank(k=2, **setting), {}, {}, 0
    for step in range(14):
        batch = batch_of(step)
        if step % 4 == 0 and step:
            nearest = {
                n: sorted((m for m in slots if n % 20 != m % 20), key=lambda m, n=n: -cosine(slots[n][1], slots[m][1]))[
                    :2
                ]
                for n in slots
            }
        found = source(batch)
        numbers = batch.keys.study.tolist()
        for row, number in enumerate(numbers):
            for place, neighbour in enumerate(nearest.get(number, [])):
                image, report = slots[neighbour]
                torch.testing.assert_close(found.images[row, place], image, rtol=0, atol=1e-7)
                torch.testing.assert_close(found.reports[row, place], report, rtol=0, atol=1e-7)
                from_bank += 1
        slots |= {
            n: (as_kept(image), as_kept(report))
            for n, image, report in zip(numbers, batch.images, batch.reports, strict=True)
        }
    assert from_bank > 80
    assert found.reports.dtype == torch.float32
    torch.testing.assert_close(found.reports.norm(dim=-1), torch.ones(len(numbers), 2))


@pytest.mark.parametrize("setting", SETTINGS[:4], ids=str)
@pytest.mark.parametrize("given", [{}, {"table": {str(n): [str(n + 1)] for n in range(9)}}], ids=["search", "table"])
def test_a_bank_of_the_host_keeps_nothing_on_the_device(setting, given):
    """On a pretended device, where a tensor of one cannot be used with one of the other."""
    plain, source = Bank(k=2, pool=3, **setting, **given), Bank(k=2, pool=3, **setting, **given)
    with PretendedDevice(), mock.patch.object(EmbeddedBatch, "generator", return_value=None):
        for step in range(10):
            torch.manual_seed(step)
            expected = plain(batch_of(step))
            torch.manual_seed(step)
            found = source(batch_of(step, place=OnDevice))
            for name in ("reports", "images", "valid"):
                got = getattr(found, name)
                assert got.device == DEVICE
                assert torch.equal(got.cpu(), getattr(expected, name))
        home = {"cpu"} if "device" in setting else {DEVICE.type}
        assert {kept.device.type for kept in everything_kept(source)} == home


def everything_kept(source):
    """All tensors of a bank and what is in it."""
    own = [*vars(source).values(), *vars(source.bank).values()]
    return [kept for kept in tree_leaves(own) if torch.is_tensor(kept)]


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
@pytest.mark.parametrize(
    ("given", "neighbours"),
    [({}, 1), ({"k": 2, "pool": 5}, 5), ({"table": {str(n): ["1", "2"] for n in range(5000)}}, 2)],
)
def test_a_study_takes_the_bytes_that_the_docstring_says(dtype, size, given, neighbours):
    source = Bank(dtype=dtype, **given)
    for step, numbers in enumerate(torch.arange(5000).split(250)):
        source(batch_of(step % 4, numbers.tolist()))
    source(batch_of(4, [0]))
    formula = 2 * WIDTH * size + 56 + 8 * (neighbours + 1)
    measured = sum(kept.untyped_storage().nbytes() for kept in everything_kept(source)) / 5000
    assert formula <= measured <= formula + (2 * WIDTH * size + 40) / 4 + 1
    assert source.nbytes == measured * 5000


@pytest.mark.parametrize("before", SETTINGS, ids=str)
@pytest.mark.parametrize("after", SETTINGS, ids=str)
def test_a_checkpoint_of_one_setting_is_resumed_with_another(before, after):
    """float32 is rounded where the bank is of bfloat16; what was rounded stays so."""
    dtype = after.get("dtype", "float32")
    source, again, expected = Bank(k=2, **before), Bank(k=2, **after), Bank(k=2, dtype=dtype)
    for step in range(6):
        source(batch_of(step))
    again.load_state_dict(source.state_dict())
    state = source.state_dict()
    kept = state["bank._extra_state"]
    kept["columns"] = [kept["columns"][0], *(rows.to(getattr(torch, dtype)) for rows in kept["columns"][1:])]
    expected.load_state_dict(state)
    for step in (6, 7, 8, 9):
        torch.testing.assert_close(again.bank.entries(), expected.bank.entries(), rtol=0, atol=0)
        one, other = again(batch_of(step)), expected(batch_of(step))
        for name in ("reports", "images", "valid"):
            assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float16"}, "negatives.dtype: expected float32 or bfloat16, but got float16."),
        ({"dtype": torch.bfloat16}, "negatives.dtype: expected float32 or bfloat16, but got torch.bfloat16."),
        ({"device": "cuda"}, "negatives.device: expected cpu, or null for the device of the batch, but got cuda."),
        ({"sharded": 2}, "negatives.sharded: expected true or false, but got 2."),
    ],
)
def test_other_values_are_refused(settings, message):
    with pytest.raises(UserError) as refused:
        Bank(**settings)
    assert str(refused.value) == message


def test_the_part_of_another_rank_is_no_bank():
    source = Bank()
    state = source.state_dict()
    state["bank._extra_state"] |= {"part": (1, 2)}
    with pytest.raises(UserError, match="expected the state of a whole bank, but got that of rank 1 of 2 alone"):
        Bank(sharded=True).load_state_dict(state)
