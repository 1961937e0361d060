"""What happens from outside is one line that says what to do."""

import errno
import os
import resource
import tempfile
from multiprocessing import resource_sharer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset

from hardneg_plugin.apps.shared.hydra_command import explain
from hardneg_plugin.apps.shared.surroundings import explain_surroundings
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_file, writing

KILLED = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's")
GONE = RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly")
FULL = OSError(errno.ENOSPC, "No space left on device")


class Broken(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise UserError(f"Study {index}: a: b cannot be read.") from ValueError("of Pillow")


def test_an_error_of_a_worker_comes_without_its_traceback():
    with pytest.raises(UserError) as raised:
        list(DataLoader(Broken(), num_workers=1))
    assert "Traceback" in str(raised.value)
    assert explain(raised.value, "train") == "Study 0: a: b cannot be read."


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (KILLED, "A worker process that loads studies was ended by the signal Bus, most likely for lack of memory"),
        (GONE, "A worker process that loads studies was ended, most likely for lack of memory or of space in /dev/shm"),
        (torch.OutOfMemoryError("CUDA out of memory."), "CUDA out of memory. Lower data.batch_size, or raise"),
        (MisconfigurationException("0.01 * 1 < 1."), "trainer: 0.01 * 1 < 1."),
        (OSError(errno.EROFS, "Read-only file system", "x/y"), "x/y: cannot be written (Read-only file system, "),
        (FULL, "run: cannot be written (No space left on device, "),
    ],
)
def test_what_happens_from_outside(error, told):
    assert explain_surroundings(error, Path("run")).startswith(told)


@pytest.mark.parametrize("line", ["Too many open files. Communication with the workers", "received 0 items of ancdata"])
def test_too_many_open_files_of_workers(line):
    assert explain_surroundings(RuntimeError(line), Path("run")).startswith("Too many open files: raise the limit by")


def test_a_worker_that_dies_while_its_tensors_are_fetched():
    for outside in (ConnectionResetError(104, "Connection reset by peer"), EOFError()):
        assert explain_surroundings(outside, Path("run")) is None  # not raised while they are fetched
    with pytest.raises(OSError) as raised, tempfile.TemporaryDirectory() as folder:
        resource_sharer._resource_sharer.get_connection((f"{folder}/gone", 1))  # type: ignore[attr-defined]
    assert explain_surroundings(raised.value, Path("run")).startswith("A worker process that loads studies was ended, ")


def test_the_file_that_the_output_goes_into_is_named_where_its_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: SimpleNamespace(f_bavail=0, f_frsize=4096))
    before = os.dup(1)
    try:
        with open(tmp_path / "train.log", "wb") as log:
            os.dup2(log.fileno(), 1)
            told = explain_surroundings(FULL, Path("run"))
    finally:
        os.dup2(before, 1)
        os.close(before)
    assert told.startswith(f"{tmp_path}/train.log: cannot be written (No space left on device, ")


def test_what_is_of_the_run_only_is_gone(tmp_path):
    below, outside = (
        FileNotFoundError(2, "No such file", str(tmp_path / name)) for name in ("run/logs/x", "studies/x")
    )
    assert "run/logs/x: its folder is gone" in explain_surroundings(below, tmp_path / "run")
    assert explain_surroundings(outside, tmp_path / "run") is None
    assert explain_surroundings(ValueError("a bug"), tmp_path) is None


@pytest.mark.parametrize(
    "write", [lambda file: torch.save(torch.zeros(9999), file), lambda file: file.write(b"0" * 9999)]
)
def test_a_disk_that_is_full_in_the_middle_of_a_file(tmp_path, write):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"whole")
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as raised, whole_file(path) as file:
            write(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert explain_surroundings(raised.value, Path("run")).startswith(f"{path}: cannot be written (File too large, ")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"whole"]


def test_the_free_space_is_told_where_the_remedy_is_known_too(tmp_path):
    with (
        pytest.raises(
            UserError, match=r"x: cannot be written \(No space left on device, [\d,.]+ MB free\)\. Do this\."
        ),
        writing(tmp_path / "x", "Do this."),
    ):
        raise FULL
