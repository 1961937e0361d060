"""How commands end where a disk, a folder, a file or a split is not what it should be: a result, or one line."""

import logging
import resource
import shutil
from contextlib import contextmanager

import pytest
import torch

from tests.integration.test_bad_input import one_line, write_studies

SPLITS = {"val": "test", "test": "val"}


@pytest.mark.slow
@pytest.mark.parametrize("limited", SPLITS)
def test_a_split_without_batches_is_left_out(cli, tiny, tmp_path, read_json, limited):
    run, other = tmp_path / "run", SPLITS[limited]
    result = cli("hardneg-train", *tiny, f"trainer.limit_{limited}_batches=0", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    metrics = read_json(run / "metrics.json")
    assert metrics[other]["BLEU-1"] >= 0
    assert limited not in metrics | metrics["intervals"]
    assert [path.name for path in (run / "predictions").iterdir()] == [f"{other}.jsonl"]
    assert f"{other.capitalize()} split" in result.out
    assert metrics["checkpoint"] == (None if limited == "val" else "checkpoints/best.ckpt")


@pytest.mark.slow
def test_without_any_split_the_checkpoint_is_left(cli, tiny, tmp_path, read_json):
    run = tmp_path / "run"
    none = ["trainer.limit_val_batches=0", "trainer.limit_test_batches=0"]
    result = cli("hardneg-train", *tiny, *none, "baselines=true", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    metrics = read_json(run / "metrics.json")
    assert (metrics["intervals"], metrics["baselines"]) == ({}, {})
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 3


@contextmanager
def files_of_at_most(size):
    """As on a disk that is full: a file cannot grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    # handlers that earlier tests left behind write into a file of pytest, which is limited too
    logging.raiseExceptions = False
    try:
        yield
    finally:
        logging.raiseExceptions = True
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def unfinished(folder):
    return [str(file) for file in folder.rglob(".*")] + [str(file) for file in folder.rglob("*.part")]


@pytest.mark.slow
def test_a_full_disk_is_told_with_path_and_free_space_and_the_run_goes_on_from_there(cli, tiny, tmp_path, read_json):
    run = tmp_path / "run"
    with files_of_at_most(100_000):  # above the logs, below a checkpoint
        line = one_line(cli("hardneg-train", *tiny, f"hydra.run.dir={run}"))
    assert f"{run}/checkpoints/best.ckpt: cannot be written (File too large, " in line
    assert " MB free). Make room." in line
    assert line.endswith(f"Resume with: hardneg-train resume={run}")
    assert unfinished(run) == []
    result = cli("hardneg-train", f"resume={run}")
    assert result.code == 0, result.err

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with files_of_at_most(1500):
        line = one_line(cli("hardneg-evaluate", copy, f"hydra.run.dir={copy}/again"))
        assert f"{copy}/again/predictions/test.jsonl: cannot be written (File too large, " in line
        line = one_line(cli("hardneg-score", run / "predictions/test.jsonl", f"output={tmp_path}/scores.json"))
        assert f"{tmp_path}/scores.json: cannot be written (File too large, " in line
        line = one_line(cli("hardneg-page", run, f"output={tmp_path}/page.html"))
        assert f"{tmp_path}/page.html: cannot be written (File too large, " in line
    assert unfinished(copy) == unfinished(tmp_path) == []
    assert not list(copy.glob("again/*.json"))


@pytest.mark.slow
def test_logs_that_are_gone_end_a_run_in_a_line(cli, tiny, fault, tmp_path):
    run = tmp_path / "run"
    removal = f"+callbacks.removal={{_target_: faults.Removal, path: {run}/logs}}"
    result = cli("hardneg-train", *tiny, "trainer.max_epochs=3", removal, f"hydra.run.dir={run}")
    line = one_line(result)
    assert f"{run}/logs/csv/version_0/metrics.csv: its folder is gone" in line
    assert line.endswith(f"Resume with: hardneg-train resume={run} trust=true")
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] in (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gone", "cut short", "workers killed"])
def test_what_happens_to_loader_workers_is_a_line(cli, tiny_model, fault, tmp_path, what):
    root = tmp_path / "studies"
    root.mkdir()
    write_studies(root)
    image = root / "images" / "train1" / "0.png"
    target = {"gone": f"faults.Removal, path: {image}", "cut short": f"faults.Removal, path: {image}, cut: true"}
    result = cli(
        "hardneg-train",
        *tiny_model,
        "data=annotations",
        f"data.root={root}",
        "data.min_count=1",
        "data.batch_size=2",
        "data.datamodule.source.resize=40",
        "data.datamodule.source.crop=32",
        "data.datamodule.num_workers=2",
        "trainer.max_epochs=3",
        f"+callbacks.fault={{_target_: {target.get(what, 'faults.WorkerKill')}}}",
        f"hydra.run.dir={tmp_path}/run",
    )
    line = one_line(result)
    if what == "workers killed":
        assert "A worker process that loads studies was ended" in line
        assert "set fewer data.datamodule.num_workers, or 0. Resume with: hardneg-train" in line
    else:
        assert f"error: Study 'train1': Expected a whole PNG, JPEG or DICOM, but {image} cannot be read (" in line


@pytest.mark.slow
@pytest.mark.parametrize(("size", "reason"), [(0, "it is empty"), (5000, "it is cut short")])
def test_a_broken_checkpoint_names_the_other_one_as_the_way_out(cli, tiny, tmp_path, size, reason):
    run = tmp_path / "run"
    assert cli("hardneg-train", *tiny, f"hydra.run.dir={run}").code == 0
    last, best = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt"
    whole = last.read_bytes()
    last.write_bytes(whole[:size])
    more = ["trainer.max_epochs=2", f"resume={run}"]
    line = one_line(cli("hardneg-train", *more))
    assert f"checkpoint {last} cannot be read: {reason}. best.ckpt, of epoch 1, can be read: " in line
    assert line.endswith(f"training goes on from there after cp {best} {last}")
    assert f"cannot be read: {reason}. best.ckpt" in one_line(cli("hardneg-evaluate", run, "checkpoint=last"))
    shutil.copy(best, last)
    result = cli("hardneg-train", *more)
    assert result.code == 0, result.err
    assert torch.load(last, weights_only=True)["epoch"] == 1
    best.write_bytes(whole[:size])
    line = one_line(cli("hardneg-evaluate", run))
    assert line.endswith(f"{reason}. last.ckpt, of epoch 2, can be read: other commands take it by checkpoint=last.")
    last.unlink()
    assert one_line(cli("hardneg-evaluate", run)).endswith(f"best.ckpt cannot be read: {reason}.")
