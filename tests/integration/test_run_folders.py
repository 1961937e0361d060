"""A run folder is one run's: a second training in it is refused, goes elsewhere, or replaces all of the first."""

import subprocess
import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from hardneg_plugin.runs.taking import take_run_folder

COMMAND = Path(sys.executable).with_name("hardneg-train")
WRONG = ["negatives=bank", "negatives.table=nothing.parquet"]
"""What is noticed once the folder is taken."""


@pytest.fixture
def one_second(monkeypatch):
    """All runs begin in the same second."""
    clock = SimpleNamespace(now=lambda: datetime(2026, 1, 2, 3, 4, 5))
    monkeypatch.setattr("hydra.core.utils.datetime", clock)
    return "2026-01-02_03-04-05"


def seed_of(run):
    return OmegaConf.load(run / "config.yaml").seed


def refusal(result):
    assert result.code == 2, result.out
    assert result.err.count("\n") == 1
    return result.err.partition(": error: ")[2].rstrip("\n")


def files(run):
    return {path.relative_to(run).as_posix(): path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_runs_of_one_second_get_a_folder_each(cli, tiny, two_processes, tmp_path, one_second, read_json):
    outputs = tmp_path / "outputs"
    with take_run_folder(outputs / one_second, is_named=True):  # by a run that has written nothing yet
        assert cli("hardneg-train", *tiny, "seed=1").code == 0
    assert cli("hardneg-train", *tiny, "seed=2").code == 0
    shared = cli("hardneg-train", *tiny, "seed=3", *two_processes)
    assert shared.code == 0, shared.err
    assert "Run folder    " + str(outputs / f"{one_second}_3") in shared.out
    seeds = {path.name.removeprefix(one_second): seed_of(path) for path in outputs.iterdir()}
    assert seeds == {"": 2, "_2": 1, "_3": 3}
    for run in outputs.iterdir():
        assert read_json(run / "metrics.json")["provenance"]["command"].endswith(" " + f"seed={seed_of(run)}") or (
            run.name.endswith("_3")
        )
        assert {path.name for path in (run / "logs/csv").iterdir()} == {"version_0"}
        assert {path.name for path in run.iterdir()} == {
            *("config.yaml", "overrides.yaml", "metrics.json", "checkpoints", "logs", "predictions"),
        }
    assert "nothing.parquet" in refusal(cli("hardneg-train", *tiny, *WRONG))
    assert len(list(outputs.iterdir())) == 3  # and no empty folder


def test_jobs_of_two_sweeps_of_one_second_are_not_mixed(cli, tiny, tmp_path, one_second):
    smoke = [*tiny, "trainer.limit_train_batches=1", "metrics.rank_by_likelihood=[]"]
    for seeds in ("1,2", "3,4"):
        assert cli("hardneg-train", "--multirun", *smoke, f"seed={seeds}").code == 0
    sweep = tmp_path / "outputs" / one_second
    assert {path.name: seed_of(path) for path in sweep.iterdir() if path.is_dir()} == {
        "0": 1,
        "1": 2,
        "0_2": 3,
        "1_2": 4,
    }


def test_a_run_is_never_replaced_unasked_and_then_as_a_whole(cli, tiny, two_processes, tmp_path, read_json):
    run, named = tmp_path / "run", f"hydra.run.dir={tmp_path}/run"
    assert cli("hardneg-train", *tiny, "seed=1", named).code == 0
    assert cli("hardneg-evaluate", run, "split=val").code == 0
    (run / "notes.txt").write_text("mine")
    before = files(run)
    finished = (
        f"{run} holds a finished run. Set another hydra.run.dir, or overwrite=true to replace it; hardneg-train resume={run} "
        "trains it further."
    )
    assert refusal(cli("hardneg-train", *tiny, "seed=2", named)) == finished
    assert refusal(cli("hardneg-train", *tiny, "seed=2", named, *two_processes)) == finished
    # nor before the new one can begin
    assert "nothing.parquet" in refusal(cli("hardneg-train", *tiny, *WRONG, named, "overwrite=true"))
    assert "overwrite=true replaces a run" in refusal(cli("hardneg-train", f"resume={run}", "overwrite=true"))
    with take_run_folder(run, is_named=True, resumes=True):
        held = f"{run}: another process is training in this folder. Wait until it has ended."
        assert refusal(cli("hardneg-train", f"resume={run}")) == held
    assert refusal(cli("hardneg-evaluate", run, named)) == (
        f"{run} holds a run, whose scores would be replaced. Set another hydra.run.dir."
    )
    assert files(run) == before

    metrics = read_json(run / "metrics.json")
    replaced = cli("hardneg-train", *tiny, "seed=2", named, "overwrite=true")
    assert replaced.code == 0, replaced.err
    after = files(run)
    kept = {name for name in before if before[name] == after.get(name)}
    assert kept == {"notes.txt"}
    assert not list(run.glob("evaluation_*"))
    assert {path.name for path in (run / "logs/csv").iterdir()} == {"version_0"}
    assert len(list((run / "logs/tensorboard").glob("events.*"))) == 3  # of fit, val and test
    assert read_json(run / "metrics.json")["test"] != metrics["test"]
    assert seed_of(run) == 2
    assert "overwrite" not in (run / "overrides.yaml").read_text()

    (run / "metrics.json").unlink()
    assert refusal(cli("hardneg-train", *tiny, "seed=3", named)).startswith(
        f"{run} holds a run that is not finished. Continue it with hardneg-train resume={run}, "
    )
    assert cli("hardneg-train", f"resume={run}").code == 0


def test_scores_in_a_named_folder_are_replaced_only_if_asked(cli, tiny, tmp_path):
    run, scores = tmp_path / "run", tmp_path / "scores"
    assert cli("hardneg-train", *tiny, f"hydra.run.dir={run}").code == 0
    evaluate = ["hardneg-evaluate", run, f"hydra.run.dir={scores}"]
    assert cli(*evaluate).code == 0
    assert refusal(cli(*evaluate, "split=val")) == (
        f"{scores} holds metrics.json, predictions already. Set another hydra.run.dir, or overwrite=true to replace what is there."
    )
    assert cli(*evaluate, "split=val", "overwrite=true").code == 0
    assert set(files(scores)) == {"metrics.json", "predictions/val.jsonl"}


def test_processes_that_torchrun_started_are_refused_together_and_told_once(cli, tiny, two_processes, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 1")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    command = [*torchrun, COMMAND, *tiny, *two_processes, f"hydra.run.dir={run}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("hardneg-train")]
    assert len(lines) == 1, result.stderr
    assert f"{run} holds a run that is not finished." in lines[0]
    assert set(files(run)) == {"config.yaml"}
