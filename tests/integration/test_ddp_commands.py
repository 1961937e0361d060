"""One command for many processes: what they write and print is what one process would, and a failure is told once.

Starting processes takes most of the time here, so each run is looked at from all sides.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("hardneg-train")
# an odd number of studies, and of batches in order, for two processes
SETTINGS = ["data.batch_size=4", "data.datamodule.source.test=9"]


def check_whole(run, read_json):
    """A run folder of two processes, written by one."""
    metrics = read_json(run / "metrics.json")
    assert metrics["training"]["processes"] == 2
    assert metrics["training"]["steps"] == 3  # 24 studies, 4 for each of 2 processes
    ids = [json.loads(line)["id"] for line in (run / "predictions/test.jsonl").read_text().splitlines()]
    assert ids == [f"phantom-test-{i:06d}" for i in range(9)]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert [path.name for path in (run / "logs/csv").iterdir()] == ["version_0"]
    return metrics


def test_a_sweep_runs_each_job_once_in_two_processes_and_one_process_scores_it_the_same(
    cli, tiny, two_processes, tmp_path, read_json
):
    settings = [s for s in tiny if s != "baselines=false"] + SETTINGS
    sweep = tmp_path / "sweep"
    result = cli("hardneg-train", "--multirun", *settings, *two_processes, f"hydra.sweep.dir={sweep}", "seed=1,2")
    assert result.code == 0, result.err
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0", "1"]
    first, second = (check_whole(sweep / job, read_json) for job in ("0", "1"))
    assert first["test"] != second["test"]
    assert set(first["baselines"]) == {"most frequent report", "report of the most similar image"}
    assert result.out.count("Test split") == result.out.count("Run folder") == 2
    assert result.err == ""

    run = f"run={sweep}/0"
    one, two = tmp_path / "one", tmp_path / "two"
    assert cli("hardneg-evaluate", run, f"hydra.run.dir={one}").code == 0
    assert read_json(one / "metrics.json")["test"] == pytest.approx(first["test"])
    shared = cli("hardneg-evaluate", run, f"hydra.run.dir={two}", *two_processes)
    assert (shared.code, shared.err) == (0, "")
    assert shared.out.count("test split of") == 1
    for name in ("metrics.json", "predictions/test.jsonl"):
        assert (two / name).read_bytes() == (one / name).read_bytes()
    broken = cli("hardneg-evaluate", run, "checkpoint=none.ckpt", f"hydra.run.dir={tmp_path}/broken", *two_processes)
    assert broken.code == 2
    assert broken.err.startswith("hardneg-evaluate: error: checkpoint: expected best")
    assert broken.err.count("\n") == 1
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("kind", ["user", "bug", "interrupt"])
def test_what_happens_to_one_process_ends_all_and_is_told_once(cli, tiny, two_processes, fault, tmp_path, kind):
    run = tmp_path / "run"
    arguments = [*tiny, *SETTINGS, *two_processes, f"hydra.run.dir={run}", fault(kind, 1, 1)]
    result = cli("hardneg-train", *arguments)
    assert "Test split" not in result.out
    assert not (run / "metrics.json").exists()
    if kind == "user":
        assert result.code == 2
        assert result.err == "hardneg-train: error: data.root: study 7 of rank 1 is broken.\n"
    elif kind == "bug":
        assert result.code == 1
        assert result.err.startswith("Rank 1 ended with an error:\nTraceback")
        assert result.err.endswith("ZeroDivisionError: a defect\n")
        assert result.err.count("Traceback") == 1
    else:
        assert result.code == 130
        assert result.err == f"Interrupted. Resume with: hardneg-train resume={run} trust=true\n"  # for the fault


@pytest.mark.slow
def test_a_process_that_is_stopped_is_named_after_the_timeout(cli, tiny, two_processes, fault, tmp_path):
    run = tmp_path / "run"
    arguments = [*tiny, *SETTINGS, *two_processes, f"hydra.run.dir={run}", "rank_timeout=5", fault("stop", 1, 1)]
    result = cli("hardneg-train", *arguments)
    assert result.code == 1
    assert re.fullmatch(
        r"Rank 1 \(process \d+ on \S+\) has given no sign of life for 5 s \(rank_timeout\)\. The others were ended too\. "
        rf"Resume with: hardneg-train resume={run} trust=true\n",
        result.err,
    )


@pytest.mark.slow
def test_a_process_that_works_for_long_is_waited_for_until_the_timeout_of_collectives(
    cli, tiny, two_processes, fault, tmp_path
):
    run = tmp_path / "run"
    arguments = [*tiny, *SETTINGS, *two_processes, f"hydra.run.dir={run}", "collective_timeout=5", fault("busy", 1, 1)]
    result = cli("hardneg-train", *arguments)
    assert result.code == 1
    assert result.err == (
        "Another rank has not taken part in a collective call in time (collective_timeout). See what its node says. "
        f"Resume with: hardneg-train resume={run} trust=true\n"
    )


def test_processes_that_srun_started_end_in_one_run_folder(tiny, two_processes, tmp_path, read_json):
    settings = [*tiny, *SETTINGS, *two_processes]
    allocation = {
        "SLURM_JOB_ID": str(os.getpid()),  # which makes the port
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
        "SLURM_STEP_NODELIST": "localhost",
    }
    processes = [
        subprocess.Popen(
            # as with clocks that differ
            [COMMAND, *settings, f"hydra.run.dir={tmp_path}/run_{rank}"],
            env={**os.environ, **allocation, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert [path.name for path in tmp_path.iterdir()] == ["run_0"]
    check_whole(tmp_path / "run_0", read_json)
    assert ["Test split" in out for out, _ in printed] == [True, False]
    assert printed[1] == ("", "")


def test_what_all_processes_that_torchrun_started_find_wrong_is_said_once(tiny, two_processes, tmp_path):
    run = tmp_path / "run"
    arguments = [*tiny, *two_processes, "hardening.margin=-1", f"hydra.run.dir={run}"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    result = subprocess.run([*torchrun, COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("hardneg-train")]
    assert len(lines) == 1, result.stderr
    assert "margin" in lines[0]
    assert not run.exists()
