"""A kill at any moment leaves a whole checkpoint."""

import os
import signal

import torch

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
