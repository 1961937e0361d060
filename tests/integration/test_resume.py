"""A run that is killed in the middle of an epoch and resumed ends where one that never stopped does, bit for bit."""

import signal
import subprocess
import sys

import pytest
import torch

PARTS = ("state_dict", "hard_negatives", "optimizer_states", "lr_schedulers", "epoch", "global_step")


def identical(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(identical(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(identical, one, other))
    return one == other


@pytest.mark.parametrize(
    ("processes", "memory"),  # each with a state of its own
    [
        (1, ["negatives=queue", "negatives.size=16"]),
        (2, ["negatives=bank", "hardening=alternating"]),
        (2, ["negatives=bank", "negatives.sharded=true", "negatives.device=cpu", "negatives.dtype=bfloat16"]),
    ],
    ids=["1", "2", "2 with parts of a bank"],
)
def test_a_run_killed_in_mid_epoch_resumes_exactly(
    cli, tiny, two_processes, fault, tmp_path, read_json, monkeypatch, processes, memory
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = [
        *tiny,
        "trainer.max_epochs=2",
        "backbone=transformer",  # with dropout, whose draws must be the same
        "backbone.feedforward_width=32",
        *memory,
        "data.batch_size=4",
        f"data.datamodule.source.train={27 * processes}",  # 7 steps per epoch, the last a smaller one
        "callbacks.last.every_n_train_steps=2",
        *(two_processes if processes == 2 else ["data.datamodule.num_workers=1"]),
    ]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    unbroken = cli("hardneg-train", *arguments, f"hydra.run.dir={whole}")
    assert unbroken.code == 0, unbroken.err

    to_be_killed = [*arguments, f"hydra.run.dir={broken}", fault("kill", processes - 1, 11)]
    if processes == 2:
        killed = cli("hardneg-train", *to_be_killed)
        assert killed.code == 1
        assert "Rank 1 was ended by SIGKILL" in killed.err
        assert killed.err.endswith(f"Resume with: hardneg-train resume={broken} trust=true\n")
        assert killed.err.count("\n") == 1
    else:
        command = [sys.executable, "-m", "hardneg_plugin.apps.train", *to_be_killed]
        assert subprocess.run(command, capture_output=True, cwd=tmp_path).returncode == -signal.SIGKILL
    left = torch.load(broken / "checkpoints/last.ckpt", weights_only=True)
    assert (left["epoch"], left["global_step"]) == (1, 10)  # of 7 steps per epoch

    resumed = cli("hardneg-train", f"resume={broken}", "trust=true", "callbacks.fault.kind=none")
    assert resumed.code == 0, resumed.err
    for name in ("last", "best"):
        expected, got = (torch.load(r / f"checkpoints/{name}.ckpt", weights_only=True) for r in (whole, broken))
        for part in PARTS:
            assert identical(expected[part], got[part]), (name, part)
    expected, got = (read_json(r / "metrics.json") for r in (whole, broken))
    for part in ("val", "test", "selected_by", "checkpoint"):
        assert got[part] == expected[part]
    assert got["training"]["steps"] == 14
    for split in ("val", "test"):
        predictions = f"predictions/{split}.jsonl"
        assert (broken / predictions).read_text() == (whole / predictions).read_text()
    if processes == 1:
        assert {path.name for path in (broken / "logs/csv").iterdir()} == {"version_0", "version_1"}
        # the run goes on under its own settings and may be given more of them
        longer = cli(
            "hardneg-train", f"resume={broken}", "trust=true", "callbacks.fault.kind=none", "trainer.max_epochs=3"
        )
        assert longer.code == 0, longer.err
        assert read_json(broken / "metrics.json")["training"]["steps"] == 21
