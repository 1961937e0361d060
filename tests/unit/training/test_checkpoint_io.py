"""A kill at any moment leaves a whole checkpoint."""

import os
import signal
from pathlib import Path

import pytest
import torch

from hardneg_plugin.errors import UserError
from hardneg_plugin.training.checkpoint_io import WholeFileCheckpointIO


def test_a_kill_in_the_middle_of_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    path, io = tmp_path / "checkpoints" / "last.ckpt", WholeFileCheckpointIO()
    io.save_checkpoint({"step": 1, "weights": torch.ones(1000)}, path)
    process = os.fork()
    if process == 0:

        def half(checkpoint, file):
            file.write(b"half of it")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        torch.save = half
        io.save_checkpoint({"step": 2}, path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert len(list(path.parent.iterdir())) == 2  # the kill came while it was being written
    assert io.load_checkpoint(path)["step"] == 1

    io.save_checkpoint({"step": 3, "weights": torch.ones(1000)}, path)
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    assert io.load_checkpoint(path)["step"] == 3


def test_objects_are_not_unpickled_whatever_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"step": Path("x")}, tmp_path / "last.ckpt")
    for given in (None, False, True):
        with pytest.raises(Exception, match=r"[Ww]eights.only"):
            WholeFileCheckpointIO().load_checkpoint(tmp_path / "last.ckpt", weights_only=given)


@pytest.mark.parametrize("path", ["../victim", "checkpoints/../../victim", "link/victim", ".", "checkpoints/.."])
def test_nothing_is_written_or_removed_outside_of_the_folder(path, tmp_path):
    """Lightning removes the files of scores that were beaten, by the paths that the checkpoint has of them."""
    run, victim = tmp_path / "run", tmp_path / "victim"
    (run / "checkpoints").mkdir(parents=True)
    victim.write_text("precious")
    (run / "link").symlink_to(tmp_path)
    io = WholeFileCheckpointIO(within=run)
    for act in (io.remove_checkpoint, lambda path: io.save_checkpoint({}, path)):
        with pytest.raises(UserError, match="left as it is"):
            act(str(run / path))
    assert victim.read_text() == "precious"
    assert run.is_dir()
    inside = run / "checkpoints" / "last.ckpt"
    io.save_checkpoint({"step": 1}, inside)
    assert io.load_checkpoint(inside)["step"] == 1
    io.remove_checkpoint(inside)
    assert not inside.exists()
