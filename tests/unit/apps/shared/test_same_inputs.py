"""Ranks that have read something else are named, with what differs, on all ranks."""

import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.append(str(Path(__file__).parents[2]))
from forked_ranks import on_ranks

from hardneg_plugin.apps.shared import same_inputs
from hardneg_plugin.apps.shared.nodes import of_ranks_in_words
from hardneg_plugin.apps.shared.ranks import Job, broadcast_job
from hardneg_plugin.apps.shared.same_inputs import Inputs, check_same_file, check_same_inputs, differences
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import SharedError

HOST = socket.gethostname()


class Columns(SimpleNamespace):
    def __len__(self):
        return len(self.ids)


class Source:
    read_findings = None

    def __init__(self, **changes):
        self.splits = {}
        for name, count in (("train", 5), ("val", 3), ("test", 2)):
            columns = {
                "ids": [f"{name}-{i}" for i in range(count)],
                "reports": [f"report {i} of {name}" for i in range(count)],
                "labels": [None] * count,
                "patients": ["1"] * count,
            }
            self.splits[name] = Columns(**columns)
        for key, value in changes.items():
            name, column = key.split("_")
            setattr(self.splits[name], column, value)

    def split(self, name):
        return self.splits[name]


WORDS = WordTokenizer.from_reports(["one two three"], min_count=1)


def test_equal_inputs_are_equal_and_each_value_counts():
    assert Inputs.of(Source(), WORDS) == Inputs.of(Source(), WORDS)
    # None is no text, and a text ends where it ends
    for column, first, second in (
        ("labels", [None] * 5, ["None"] * 5),
        ("reports", ["ab", "c", "d", "e", "f"], ["a", "bc", "d", "e", "f"]),
        ("patients", ["1"] * 5, ["1"] * 4 + ["2"]),
        ("ids", list("abcde"), list("abced")),
    ):
        one, two = (Inputs.of(Source(**{f"train_{column}": values}), WORDS).columns for values in (first, second))
        assert [key for key in one if one[key] != two[key]] == [("train", column)]


def test_what_is_no_column_is_told_with_both_values():
    first = Inputs.of(Source(), WORDS)
    assert differences(first, first) == []
    other = WordTokenizer.from_reports(["one two four"], min_count=1)
    assert differences(Inputs.of(Source(), other), first) == [
        f"the vocabulary differs, with {WORDS.vocab_size} tokens on both"
    ]
    changed = replace(first, versions={**first.versions, "torch": "0.4", "new": "1"}, code="x")
    assert differences(changed, first) == [
        "new is 1 instead of missing",
        f"torch is 0.4 instead of {first.versions['torch']}",
        "the code of hardneg_plugin differs",
    ]


def message_of_ranks(monkeypatch, check, ranks=3):
    """The message, which is one, of what each rank does; ranks 1 and up are on node 1."""

    def run(rank):
        monkeypatch.setenv("GROUP_RANK", str(min(rank, 1)))
        with pytest.raises(SharedError) as raised:
            check(rank)
        return str(raised.value)

    (message,) = set(on_ranks(run, ranks))
    return message


def test_shuffled_reports_are_named_with_the_first_study(monkeypatch):
    reports = Source().split("train").reports
    shuffled = [*reports[:2], reports[3], reports[2], reports[4]]
    message = message_of_ranks(
        monkeypatch, lambda rank: check_same_inputs(Source(train_reports=shuffled) if rank else Source(), WORDS)
    )
    assert message == (
        f"Ranks differ from rank 0, and nothing was computed: ranks 1, 2 (node 1, {HOST}): 2 reports of train differ, the first "
        "at study 'train-2'. To go on, give all nodes the same data and packages."
    )


def test_a_split_of_another_size_is_named_with_both_counts(monkeypatch):
    def check(rank):
        source = Source()
        if rank == 1:
            for column in same_inputs.COLUMNS:
                getattr(source.split("val"), column).pop()
        if rank == 2:
            source.split("test").ids[0] = "other"
        check_same_inputs(source, WORDS)

    assert message_of_ranks(monkeypatch, check) == (
        f"Ranks differ from rank 0, and nothing was computed: rank 1 (node 1, {HOST}): val has 2 studies instead of 3; "
        f"rank 2 (node 1, {HOST}): 1 ids of test differ, the first at study 1: 'other' instead of 'test-0'. To go on, give all "
        "nodes the same data and packages."
    )


def test_ranks_with_the_same_inputs_gather_once(monkeypatch):
    def run(rank):
        calls = []
        monkeypatch.setattr(same_inputs, "of_all_ranks", lambda value: (calls.append(value), [value, value])[1])
        check_same_inputs(Source(), WORDS)
        return len(calls)

    assert on_ranks(run) == [1, 1]
    check_same_inputs(Source(), WORDS)  # and one process does nothing


def test_a_file_that_a_node_lacks_or_has_in_another_version(monkeypatch, tmp_path):
    for rank in range(3):
        (tmp_path / str(rank)).mkdir()
    for rank, content in ((0, b"abc"), (2, b"abd")):
        (tmp_path / str(rank) / "last.ckpt").write_bytes(content)

    def check(rank):
        monkeypatch.chdir(tmp_path / str(rank))
        check_same_file(Path("last.ckpt"))

    assert message_of_ranks(monkeypatch, check) == (
        f"Ranks differ from rank 0, and nothing was computed: rank 1 (node 1, {HOST}): no file last.ckpt; rank 2 (node 1, {HOST}): "
        "another file last.ckpt. To go on, put the run folder on a file system that all nodes share."
    )


def test_arguments_of_another_rank_that_are_not_used_are_named_once(monkeypatch, tmp_path, caplog):
    def run(rank):
        monkeypatch.setenv("GROUP_RANK", str(rank))
        own = ("seed=1", "+logger.wandb.api_key=abc", "optimizer.lr=0.1") if rank else ("seed=1", "data.batch_size=4")
        job = Job({}, str(tmp_path), [], {}, arguments=own)
        strategy = SimpleNamespace(broadcast=lambda value: same_inputs._from_first(value), is_global_zero=rank == 0)
        assert broadcast_job(job, strategy).arguments == ("seed=1", "data.batch_size=4")
        return caplog.messages

    assert on_ranks(run) == [
        [
            "Warning: all ranks do the job of rank 0, whose arguments differ. Not used are those of rank 1 (node 1, "
            f"{HOST}): '+logger.wandb.api_key=***' optimizer.lr=0.1."
        ],
        [],
    ]


def test_who_has_the_same_to_say_is_named_together():
    said = [("node 0", ""), ("node 1", "a"), ("node 1", "b"), ("node 2", "a"), ("node 1", "a")]
    assert of_ranks_in_words(said) == "ranks 1, 4 (node 1): a; rank 2 (node 1): b; rank 3 (node 2): a"
