"""A run folder belongs to one process, and a run in it is never replaced unasked."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.taking import remove_run, remove_scores, take_evaluation_folder, take_run_folder


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outputs" / "run"


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


def refusal(folder, take=take_run_folder, **how):
    with pytest.raises(UserError) as caught, take(folder, is_named=True, **how):
        pass
    return str(caught.value)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_named_folder_belongs_to_one_at_a_time_and_no_lock_is_left(folder):
    with take_run_folder(folder, is_named=True) as taken:
        assert taken == folder
        busy = f"{folder}: another process is training in this folder. Wait until it has ended"
        assert refusal(folder) == f"{busy}, or set another hydra.run.dir."
        assert refusal(folder, overwrite=True) == f"{busy}, or set another hydra.run.dir."
        assert refusal(folder, resumes=True) == f"{busy}."
    assert names(folder) == []
    with take_run_folder(folder, is_named=True):
        pass


def test_default_names_get_a_number_while_the_folder_is_taken_or_holds_anything(folder):
    with ExitStack() as held:
        taken = [held.enter_context(take_run_folder(folder, is_named=False)) for _ in range(3)]
    assert [path.name for path in taken] == ["run", "run_2", "run_3"]
    make(folder, "config.yaml")
    with take_run_folder(folder, is_named=False) as free:
        assert free.name == "run_4"  # those that were made are not taken again
    assert names(folder.parent) == ["run/config.yaml"]


def test_many_at_once_get_a_folder_each(folder):
    taken, together, barrier = [], threading.Barrier(8), threading.Barrier(8)

    def take():
        together.wait()
        with take_run_folder(folder, is_named=False) as own:
            taken.append(own)
            barrier.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 8


def test_of_many_that_name_one_folder_one_gets_it(folder):
    outcomes, together, barrier = [], threading.Barrier(8), threading.Barrier(8)

    def take():
        together.wait()
        try:
            with take_run_folder(folder, is_named=True):
                outcomes.append("taken")
                barrier.wait()
        except UserError:
            outcomes.append("refused")
            barrier.wait()

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["refused"] * 7 + ["taken"]


def test_a_run_in_a_named_folder_is_replaced_only_if_asked(folder):
    make(folder, "config.yaml", "checkpoints/last.ckpt")
    assert refusal(folder) == (
        f"{folder} holds a run that is not finished. Continue it with hardneg-train resume={folder}, set another hydra.run.dir, or "
        "overwrite=true to replace it."
    )
    make(folder, "metrics.json")
    assert refusal(folder) == (
        f"{folder} holds a finished run. Set another hydra.run.dir, or overwrite=true to replace it; hardneg-train "
        f"resume={folder} trains it further."
    )
    for how in ({"overwrite": True}, {"resumes": True}):
        with take_run_folder(folder, is_named=True, **how):
            pass
    assert names(folder) == ["checkpoints/last.ckpt", "config.yaml", "metrics.json"]


@pytest.mark.parametrize("name", ["checkpoints/best.ckpt", "metrics.json", "predictions/test.jsonl"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_and_would_be_replaced_is_left_as_it_is(folder, name, overwrite):
    make(folder, name)
    assert refusal(folder, overwrite=overwrite).startswith(
        f"{folder} holds {name.partition('/')[0]} but no config.yaml, so it is no run of hardneg-train; it is left as it is. "
    )
    assert names(folder) == [name]


def test_other_files_are_not_in_the_way(folder):
    make(folder, "train.log", "notes.txt")  # the first is hardneg-compare's
    with take_run_folder(folder, is_named=True):
        pass
    assert names(folder) == ["notes.txt", "train.log"]


def test_a_run_is_removed_with_all_that_was_computed_from_it_and_nothing_else(folder, tmp_path):
    ours = [
        *("config.yaml", "overrides.yaml", "metrics.json", "checkpoints/best.ckpt", "logs/csv/version_0/metrics.csv"),
        *("predictions/test.jsonl", "tasks/vqa_test.json", "tasks.log", "page.html", "evaluation_1/metrics.json"),
    ]
    make(folder, *ours, "notes.txt", "train.log")
    make(tmp_path / "elsewhere", "last.ckpt")
    (folder / "logs/linked").symlink_to(tmp_path / "elsewhere")
    remove_run(folder)
    assert names(folder) == ["notes.txt", "train.log"]
    (folder / "checkpoints").symlink_to(tmp_path / "elsewhere")
    remove_run(folder)
    assert names(tmp_path / "elsewhere") == ["last.ckpt"]
    assert not (folder / "checkpoints").is_symlink()


def test_scores_are_replaced_only_if_asked_and_those_of_a_training_never(folder):
    make(folder, "metrics.json", "predictions/val.jsonl", "notes.txt")
    assert refusal(folder, take_evaluation_folder) == (
        f"{folder} holds metrics.json, predictions already. Set another hydra.run.dir, or overwrite=true to replace what is there."
    )
    with take_evaluation_folder(folder, is_named=True, overwrite=True):
        remove_scores(folder)
    assert names(folder) == ["notes.txt"]
    make(folder, "config.yaml")
    for overwrite in (False, True):
        refused = refusal(folder, take_evaluation_folder, overwrite=overwrite)
        assert refused == f"{folder} holds a run, whose scores would be replaced. Set another hydra.run.dir."


def test_a_link_in_place_of_the_lock_is_not_followed(folder, tmp_path):
    folder.mkdir(parents=True)
    (folder / ".lock").symlink_to(tmp_path / "planted")
    assert "cannot be written" in refusal(folder)
    assert not (tmp_path / "planted").exists()


def test_a_file_system_without_locks_is_warned_of_and_does_not_stop_a_training(folder, monkeypatch):
    def no_locks(descriptor, *, blocking):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("hardneg_plugin.folder_lock.lock_descriptor", no_locks)
    with (
        pytest.warns(UserWarning, match="cannot be locked: nothing keeps a second process away"),
        take_run_folder(folder, is_named=True),
    ):
        pass


HOLD = """
import os, sys, time
from pathlib import Path
from hardneg_plugin.runs.taking import take_run_folder
with take_run_folder(Path(sys.argv[1]), is_named=True):
    if os.fork() == 0:
        print("taken", flush=True)  # by the child, which has let go of the folder now
        time.sleep(60)  # a worker that outlives the training
        os._exit(0)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_kill_releases_the_folder_though_a_worker_lives_on(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout.readline() == "taken\n"
        assert "another process is training" in refusal(folder)
        process.kill()
        process.wait()
        began = time.monotonic()
        with take_run_folder(folder, is_named=True):
            assert time.monotonic() - began < 5
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the worker
        process.stdout.close()
