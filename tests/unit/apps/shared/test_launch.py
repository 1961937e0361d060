"""Which processes are started, and that they do not outlive who started them."""

import multiprocessing
import os
import time
from dataclasses import replace

import pytest
import torch

from hardneg_plugin.apps.shared import rank_main
from hardneg_plugin.apps.shared.failures import explain_failure
from hardneg_plugin.apps.shared.launch import carry_out, launch, resume_hint, to_launch
from hardneg_plugin.apps.shared.ranks import Job
from hardneg_plugin.errors import UserError


@pytest.fixture(autouse=True)
def _nobody_started_us(monkeypatch):
    for name in [*os.environ]:
        if name.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_")) or name in ("LOCAL_RANK", "NODE_RANK"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("settings", "processes"),
    [
        ({"devices": 1}, 0),
        ({"devices": "1"}, 0),
        ({"devices": "auto"}, 0),
        ({"devices": 3}, 3),
        ({"devices": "3", "num_nodes": 1}, 3),
        ({"devices": 1, "num_nodes": 2}, 1),
    ],
)
def test_processes_on_a_cpu(settings, processes):
    assert to_launch({"accelerator": "cpu", **settings}) == processes


@pytest.mark.parametrize(
    ("devices", "processes"), [(2, 2), ("2", 2), (-1, 4), ("-1", 4), ("auto", 4), ([1, 3], 2), ("0,1,3", 3), ([2], 0)]
)
def test_processes_on_four_gpus(monkeypatch, devices, processes):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for accelerator in ("gpu", "auto"):
        assert to_launch({"accelerator": accelerator, "devices": devices}) == processes


@pytest.mark.parametrize("settings", [{"accelerator": "cpu", "devices": -1}, {"accelerator": "gpu", "devices": "many"}])
def test_devices_that_mean_nothing(settings):
    with pytest.raises(UserError, match=rf"trainer\.devices={settings['devices']}"):
        to_launch(settings)


@pytest.mark.parametrize(
    ("environment", "is_one_of_many"),
    [
        ({"LOCAL_RANK": "1"}, True),
        ({"TORCHELASTIC_RUN_ID": "x"}, True),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train"}, True),
        ({"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "bash"}, False),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"}, False),
    ],
)
def test_who_started_us(monkeypatch, environment, is_one_of_many):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert to_launch({"accelerator": "cpu", "devices": 2}) == (0 if is_one_of_many else 2)


def test_several_machines_must_know_one_another(monkeypatch, tmp_path):
    monkeypatch.setenv("MASTER_ADDR", "node0")
    job = Job({"trainer": {"num_nodes": 2}}, str(tmp_path), [], {})
    with pytest.raises(UserError, match="MASTER_PORT, NODE_RANK"):
        launch(job, 2)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("NODE_RANK", "2", r"NODE_RANK: expected 0 to 1 with trainer\.num_nodes=2, but got 2"),
        ("NODE_RANK", "-1", "NODE_RANK: expected 0 to 1"),
        ("NODE_RANK", "first", "NODE_RANK: expected an integer, but got 'first'"),
        ("MASTER_PORT", "70000", "MASTER_PORT: expected 1 to 65535, but got 70000"),
    ],
)
def test_a_node_is_told_at_once_what_its_environment_has_wrong(monkeypatch, tmp_path, variable, value, message):
    for name, right in {"MASTER_ADDR": "127.0.0.2", "MASTER_PORT": "29500", "NODE_RANK": "1"}.items():
        monkeypatch.setenv(name, right)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=message):
        launch(Job({"trainer": {"num_nodes": 2}}, str(tmp_path), [], {}), 2)


def test_tasks_that_srun_has_not_started_do_not_wait_for_one_another(monkeypatch, tmp_path):
    for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    job = Job({"trainer": {"accelerator": "cpu", "devices": 1}, "rank_timeout": None}, str(tmp_path), [], {})
    done = []
    with pytest.raises(
        UserError, match=r"SLURM_NTASKS=2, but srun has not started this command.*: srun .* hardneg-train"
    ):
        carry_out(job, done.append)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    carry_out(job, done.append)
    assert done == [job]


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_two_ranks_of_a_node_say_that_a_connection_is_lost_and_each_its_own_error(monkeypatch, tmp_path, variable):
    job = Job({"trainer": {"accelerator": "cpu", "devices": 1}, "rank_timeout": None}, str(tmp_path), [], {})
    lost = RuntimeError("[/b/gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:51092")

    def ends(error):
        def task(_):
            raise error

        with pytest.raises((UserError, SystemExit)) as raised:
            carry_out(job, task)
        return raised.value

    for place in ("0", "1", "2", "11"):
        monkeypatch.setenv(variable, place)
        assert "10.0.0.2" in str(ends(lost)) if int(place) < 2 else ends(lost).code == 1
        assert str(ends(UserError("its own"))) == "its own"


def test_a_job_is_read_as_it_was_written(tmp_path):
    job = Job(
        {"optimizer": {"lr": 5e-5, "name": "ä"}, "plugins": [None, True]},
        "/runs/a b",
        ["seed=1"],
        {"version": 1},
        "evaluate",
    )
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
    assert job.config.optimizer.lr == 5e-5


def _tell(surroundings):
    os.write(1, f"{os.getcwd()} {os.environ.get('FIRST')} {os.environ.get('SECOND')}\n".encode())
    os.write(2, b"an error\n")


@pytest.mark.slow
def test_a_forked_rank_has_folder_environment_and_output_of_the_launcher_of_today(monkeypatch, tmp_path, capfd):
    for first, second in (("1", None), (None, "2")):  # the server has been started in the first round, or before
        folder = tmp_path / f"{first} {second}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        for name, value in (("FIRST", first), ("SECOND", second)):
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        rank = multiprocessing.get_context("forkserver").Process(target=_tell, args=(rank_main.Surroundings(),))
        rank.start()
        rank.join(60)
        assert rank.exitcode == 0
        assert capfd.readouterr() == (f"{folder} {first} {second}\n", "an error\n")


@pytest.mark.parametrize("how", ["the launcher is gone", "told to"])
def test_a_rank_ends_whatever_it_waits_for(how):
    reading, writing = os.pipe()
    sentinel, alive = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        worker = os.fork()
        if worker == 0:  # holds the pipe open as long as it lives
            os.close(alive)
            rank_main._end_with(sentinel)
            os.write(writing, b"%07d" % os.getpid())
            time.sleep(60)
            os.write(writing, b"outlived")
            os._exit(0)
        os.close(writing)
        time.sleep(60)
        os._exit(0)
    os.close(writing)
    os.close(alive)
    worker = int(os.read(reading, 7))
    os.kill(launcher if how == "the launcher is gone" else worker, 9 if how == "the launcher is gone" else 15)
    assert os.read(reading, 8) == b""  # closed: it has ended
    os.kill(launcher, 9)
    os.waitpid(launcher, 0)
    os.close(reading)
    os.close(sentinel)


@pytest.mark.parametrize(
    ("settings", "overrides", "end"),
    [
        ({"backbone": {"_target_": "hardneg_plugin.backbones.official.r2gen"}}, ["seed=1", "backbone=r2gen"], ""),
        ({"backbone": {"_target_": "mine.Decoder"}}, ["backbone._target_=mine.Decoder"], " trust=true"),
        ({}, ["hydra.verbose=true"], " trust=true"),
    ],
)
def test_the_command_to_go_on_says_trust_where_it_is_needed(tmp_path, settings, overrides, end):
    job = Job(settings, str(tmp_path / "run"), overrides, {})
    assert resume_hint(job) == ""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    assert resume_hint(job) == f"Resume with: hardneg-train resume={tmp_path}/run{end}"
    assert resume_hint(replace(job, command="evaluate")) == ""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("[/b/gloo/transport/tcp/pair.cc:547] Connection closed by peer [::ffff:10.0.0.2]:51092"),
            "The connection to a rank on 10.0.0.2 is lost: it ended, or its machine or network is gone. See what that node says.",
        ),
        (
            torch.distributed.DistBackendError("NCCL error: remote process exited or there was a network error"),
            "The connection to another rank is lost: it ended, or its machine or network is gone. See what that node says.",
        ),
        (
            RuntimeError("[/b/gloo/unbound_buffer.cc:77] Timed out waiting 60000ms for recv operation to complete"),
            "Another rank has not taken part in a collective call in time (collective_timeout). See what its node says.",
        ),
        (
            RuntimeError("Application timeout caused pair closure"),  # of the calls after it
            "Another rank has not taken part in a collective call in time (collective_timeout). See what its node says.",
        ),
        (RuntimeError("Connection closed by peer"), None),  # of whom?
        (RuntimeError("Timed out waiting 60000ms for a license"), None),  # of nothing that ranks do
        (ValueError("gloo: Connection closed by peer"), None),
    ],
)
def test_a_lost_connection_is_one_line_with_the_way_on(tmp_path, error, message):
    job = Job({}, str(tmp_path / "run"), [], {})
    assert explain_failure(error, job) == message
    if message is not None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "config.yaml").touch()
        assert explain_failure(error, job) == f"{message} Resume with: hardneg-train resume={tmp_path}/run"
