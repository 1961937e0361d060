import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from filelock import FileLock, lock_descriptor

from hardneg_plugin import folder_lock
from hardneg_plugin.errors import UserError
from hardneg_plugin.folder_lock import hold_folder

WORDS = {"command": "hardneg-x", "busy": "another hardneg-x", "remedy": "Set another y."}
HOLD_AND_START_A_CHILD = """
import subprocess, sys
from pathlib import Path
from hardneg_plugin.folder_lock import hold_folder
with hold_folder(Path(sys.argv[1]), command="hardneg-x", busy="another", remedy="Set another y.") as lock:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=sys.stdin, pass_fds=(lock,))
    print(child.pid, flush=True)
    child.wait()
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "some" / "folder"


def is_held(folder):
    try:
        with hold_folder(folder, **WORDS):
            return False
    except UserError as error:
        message = str(error)
    return message == f"{folder}: another hardneg-x is at work on this folder. Wait for it, or set another y."


def test_one_at_a_time(folder):
    with hold_folder(folder, **WORDS):
        assert is_held(folder)
    assert not is_held(folder)
    with pytest.raises(ZeroDivisionError), hold_folder(folder, **WORDS):
        1 / 0  # noqa: B018
    assert not is_held(folder)


def test_a_folder_of_something_else_is_left_as_it_is(folder):
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    message = f"{folder} exists and is not a folder of hardneg-x; it is left as it is. Set another y."
    with pytest.raises(UserError) as caught, hold_folder(folder, **WORDS):
        pass
    assert str(caught.value) == message
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    with (
        pytest.raises(UserError, match=r"cannot be written .* Set another y"),
        hold_folder(folder / "thesis.tex", **WORDS),
    ):
        pass


@pytest.mark.slow
def test_a_child_holds_the_folder_after_its_parent_was_killed(folder):
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLD_AND_START_A_CHILD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    assert is_held(folder)
    os.kill(child, signal.SIGKILL)
    while is_held(folder):
        time.sleep(0.01)
    parent.stdin.close()
    parent.stdout.close()


def test_why_not_file_lock(tmp_path):
    """Its release frees a lock that another process has inherited; closing the descriptor does not."""
    path = tmp_path / "lock"
    lock = FileLock(path)
    with lock:
        inherited = os.dup(lock._context.lock_file_fd)  # one open file, as in a child
    with open(path, "w") as other:
        assert lock_descriptor(other.fileno(), blocking=False)
    os.close(inherited)
    with hold_folder(tmp_path, **WORDS) as descriptor:
        inherited = os.dup(descriptor)
    assert is_held(tmp_path)
    os.close(inherited)
    assert not is_held(tmp_path)


def test_a_folder_that_another_process_removes_meanwhile_is_made_again(folder, monkeypatch):
    """Between opening the lock and locking it: what is locked then is no longer the file in the folder."""
    removed = []

    def lock_once_removed(descriptor, *, blocking):
        if not removed:
            (folder / "lock").unlink()
            folder.rmdir()
            removed.append(descriptor)
        return lock_descriptor(descriptor, blocking=blocking)

    monkeypatch.setattr(folder_lock, "lock_descriptor", lock_once_removed)
    with hold_folder(folder, **WORDS) as descriptor:
        assert os.path.samestat(os.fstat(descriptor), os.stat(folder / "lock"))
        assert is_held(folder)
    assert removed


def test_many_that_make_and_remove_the_folder_never_hold_it_together(folder):
    inside, most, done = 0, 0, []

    def work():
        nonlocal inside, most
        while len(done) < 60:
            try:
                with hold_folder(folder, **WORDS):
                    inside += 1
                    most = max(most, inside)
                    done.append(inside)
                    inside -= 1
                    (folder / "lock").unlink()
                    with suppress(OSError):  # another has made its lock there
                        folder.rmdir()
            except UserError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@pytest.mark.parametrize("name", ["data.prepare.work_folder", "comparison.planned_runs"])
def test_the_commands_that_hold_folders_import_no_fcntl(name, monkeypatch):
    module = f"hardneg_plugin.{name}"
    monkeypatch.setitem(sys.modules, "fcntl", None)  # an import of it fails, as on Windows
    for loaded in (module, "hardneg_plugin.folder_lock"):
        monkeypatch.delitem(sys.modules, loaded, raising=False)
    assert importlib.import_module(module).hold_folder
