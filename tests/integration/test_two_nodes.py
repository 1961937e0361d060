"""Two nodes, as two launchers on loopback addresses of this machine: what differs, or goes wrong, on one of them."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("hardneg-train")
NODES = [
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.num_nodes=2",
    "trainer.precision=32-true",
]
pytestmark = pytest.mark.slow


@pytest.fixture
def node(tmp_path):
    """Start the command of one node: its number, its arguments and further variables."""
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    started = []

    def start(number, *arguments, **variables):
        place = {"MASTER_ADDR": "127.0.0.2", "MASTER_PORT": str(port), "NODE_RANK": str(number)}
        path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [COMMAND, *arguments],
            env={**os.environ, "PYTHONPATH": path, **place, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def ends(processes):
    """Exit code, output and error output of each."""
    printed = [process.communicate(timeout=240) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, printed, strict=True)]


def test_nodes_with_other_studies_and_arguments_are_named_before_any_step(node, tiny, tmp_path):
    run = tmp_path / "run"
    source = "data.datamodule.source._target_=faults.OtherStudiesOnNode1"
    arguments = [*tiny, *NODES, source, f"hydra.run.dir={run}"]
    first, second = ends([node(0, *arguments), node(1, *arguments, "optimizer.lr=0.5")])
    line = re.escape(
        "hardneg-train: error: Ranks differ from rank 0, and nothing was computed: rank 1 (node 1, "
        f"{socket.gethostname()}): val has 4 studies instead of 6, 2 reports of train differ, the first at study "
        "'phantom-train-000000'. To go on, give all nodes the same data and packages.\n"
    )
    for code, _, err in (first, second):
        assert code == 2
        assert re.fullmatch(line, err), err
    assert "Not used are those of rank 1" in first[1]
    assert "optimizer.lr=0.5" in first[1]
    assert not run.exists()


def test_the_end_of_another_node_is_one_line_with_the_way_on(node, tiny, tmp_path):
    run = tmp_path / "run"
    arguments = [
        *tiny,
        *NODES,
        "trainer.max_epochs=500",
        "callbacks.last.every_n_train_steps=1",
        f"hydra.run.dir={run}",
    ]
    first = node(0, *arguments)
    for line in first.stderr:  # alone, it says so
        assert re.fullmatch(r"Waiting for 1 of 2 nodes at 127\.0\.0\.2:\d+ \(missing: 1\)\.\n", line)
        break
    second = node(1, *arguments)
    while not (run / "checkpoints" / "last.ckpt").exists():
        assert first.poll() is None, first.communicate()
        assert second.poll() is None, second.communicate()
        time.sleep(0.2)
    second.kill()
    killed = time.monotonic()
    ((code, _, err),) = ends([first])
    assert code == 1
    assert re.fullmatch(
        r"The connection to (a rank on [\d.]+|another rank) is lost: it ended, or its machine or network is gone\. See what that "
        rf"node says\. Resume with: hardneg-train resume={re.escape(str(run))}\n",
        err,
    ), err
    assert time.monotonic() - killed < 60
