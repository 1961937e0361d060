"""The Trainer in one process and in two: the cells of its rows in docs/HOSTS.md."""

import socket
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
import tiny_generator as tiny
from by_hand import assert_same
from trainer_on_two_ranks import CASES, CHUNKS, SHARDED, trained_on_two_ranks

from hardneg_plugin.hf.objective_beside_model import OBJECTIVE_FILE


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of two processes, and what each saw."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return folder, trained_on_two_ranks(folder, port)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The same of one process."""
    folder = tmp_path_factory.mktemp("one")
    return folder, [{name: tiny.of_strategy(name, folder, 4) for name in tiny.STRATEGY}]


def logged(history, *names):
    return torch.tensor([[one[name] for name in names] for one in history if "loss" in one])


def check_own_loss(run):
    for rank in run[1]:
        (bare, own), (plugged, logs) = rank["bare"], rank["weight 0"]
        assert torch.equal(logged(own, "loss"), logged(logs, "loss"))
        assert len(logged(own, "loss")) == 24
        assert_same({name: plugged[name] for name in bare}, bare, atol=0)


def check_alignment(run):
    for rank in run[1]:
        without, trained = (logged(rank[name][1], "alignment_loss")[:, 0] for name in ("weight 0", "aligned"))
        assert trained[0] == without[0]
        assert trained[12:].mean() < 0.9 * without[12:].mean()


def check_checkpoint(run):
    folder, ranks = run
    bare, report = tiny.Generator.from_pretrained(folder / "whole" / "checkpoint-4", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for rank in ranks:
        for name, value in bare.state_dict().items():
            assert torch.equal(value, rank["whole"][0][f"model.{name}"]), name


def check_resumed(run):
    for rank in run[1]:
        assert_same(rank["resumed"][0], rank["whole"][0], atol=0)
        names = ("loss", "alignment_loss", "hardness")
        assert torch.equal(logged(rank["resumed"][1], *names), logged(rank["whole"][1], *names))


def test_own_loss_is_bit_equal_in_one_process(one):
    check_own_loss(one)


def test_alignment_falls_in_one_process(one):
    check_alignment(one)


def test_checkpoint_of_one_process_loads_into_the_bare_model(one):
    check_checkpoint(one)


def test_training_resumed_in_one_process_is_equal(one):
    check_resumed(one)


@pytest.mark.slow
def test_own_loss_is_bit_equal_in_two_processes(two):
    check_own_loss(two)


@pytest.mark.slow
def test_alignment_falls_in_two_processes(two):
    check_alignment(two)


@pytest.mark.slow
def test_checkpoint_of_two_processes_loads_into_the_bare_model(two):
    check_checkpoint(two)


@pytest.mark.slow
def test_training_resumed_in_two_processes_is_equal(two):
    check_resumed(two)


def check_equals_one_process(ranks, alone):
    first, second = ranks
    assert_same(first[0], second[0], atol=0)
    assert_same(first[0], tiny.weights(alone), atol=1e-6)
    names = ("report_loss", "alignment_loss", "hardness", "negatives_found")
    mine = logged(first[1], *names)
    # losses of 2 to 14 in float32: relative to their size
    torch.testing.assert_close(mine, logged(alone.state.log_history, *names), atol=1e-6, rtol=1e-6)
    assert torch.equal(logged(second[1], *names), mine)


@pytest.mark.slow
def test_two_ranks_train_as_one_process_with_the_whole_batch(two, tmp_path):
    for case, (kind, accumulated) in CASES.items():
        ranks = [rank[case] for rank in two[1]]
        assert_same(ranks[0][0], ranks[1][0], atol=0)
        if kind is tiny.MeanGenerator:  # its loss is the mean of two means
            continue
        alone = tiny.trainer(tmp_path, kind, gradient_accumulation_steps=accumulated)
        alone.train()
        check_equals_one_process(ranks, alone)


@pytest.mark.slow
@pytest.mark.parametrize("negatives", ["queue", "bank", "sharded bank"])
def test_negatives_kept_on_two_ranks_are_those_of_one_process(negatives, two, tmp_path):
    alone = tiny.with_negatives(negatives, tmp_path, 4)
    alone.train()
    check_equals_one_process([rank[negatives] for rank in two[1]], alone)
    if negatives == "sharded bank":  # which a checkpoint holds as a whole
        paths = (folder / "checkpoint-8" / OBJECTIVE_FILE for folder in (two[0] / negatives, tmp_path))
        parts, whole = (torch.load(path)["negatives.bank._extra_state"] for path in paths)
        order, expected = parts["keys"].argsort(), whole["keys"].argsort()
        assert torch.equal(parts["keys"][order], whole["keys"][expected])
        assert len(order) == 16
        for one, other in zip(parts["columns"], whole["columns"], strict=True):
            torch.testing.assert_close(one[order], other[expected], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHUNKS)
def test_chunks_on_two_ranks_train_as_one_process_with_the_whole_batch(name, two, tmp_path):
    alone = tiny.trainer(tmp_path, gradient_accumulation_steps=CHUNKS[name])
    alone.train()
    check_equals_one_process([rank[name] for rank in two[1]], alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_sharded_model_trains_as_one_process_with_the_whole_batch(name, two, tmp_path):
    alone = tiny.trainer(tmp_path, gradient_accumulation_steps=SHARDED[name][0], max_grad_norm=0.5)
    alone.train()
    check_equals_one_process([rank[name] for rank in two[1]], alone)


def sharded(two):
    return two[0] / "fsdp2", [rank["fsdp2"] for rank in two[1]]


@pytest.mark.slow
def test_own_loss_is_bit_equal_with_a_sharded_model(two):
    check_own_loss(sharded(two))


@pytest.mark.slow
def test_alignment_falls_with_a_sharded_model(two):
    check_alignment(sharded(two))


@pytest.mark.slow
def test_checkpoint_of_a_sharded_model_loads_into_the_bare_model(two):
    check_checkpoint(sharded(two))


@pytest.mark.slow
def test_what_has_not_been_tested_is_refused(two):
    refused = [rank["refused"] for rank in two[1]]
    assert refused[0] == refused[1]
    for name in ("fsdp", "full_shard", "accelerate"):
        assert "FSDP of accelerate" in refused[0][name]
    assert "sharded by hand" in refused[0]["fully_shard"]
    assert "DistributedConfig(dp_replicate_size=2) has not been tested" in refused[0]["replicas"]


@pytest.mark.slow
def test_iterable_data_set_with_texts_on_two_ranks(two, tmp_path):
    alone = tiny.trainer(tmp_path)
    alone.train()
    check_equals_one_process([rank["streamed"] for rank in two[1]], alone)
