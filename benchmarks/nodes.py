"""Two nodes as network namespaces of one machine: do they equal one node, and what do they say when one of them is in trouble?

For Linux with `ip` and the rights of root. Each node is a namespace with its own address and one end of a virtual cable, so that
ports, interfaces and lost links are real; files are shared. Each case trains a tiny model on the phantom:

    equal    two nodes against one machine with two processes: all weights, bit for bit
    delay    the same with a delay on the link (needs the kernel's netem)
    pause    the link is down for 20 s, and the numbers are the same
    killed   node 1 is killed in training; what node 0 says, then both resume: weights as if nothing had happened
    lost     the link goes down for good; what each node says, and after how many seconds
    absent   node 1 never comes

Prints a table and a JSON line; exits with 1 if weights differ that should not.

    sudo python benchmarks/nodes.py [--cases equal killed lost] [--delay 50] [--patience 20]
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ADDRESSES = ("10.77.0.1", "10.77.0.2")
SETTINGS = [
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.precision=32-true",
    "trainer.max_epochs=3",
    "model.channels_last=false",
    "optimizer.fused=false",
    "visual.options.channels=[8,8,16,16]",
    "visual.options.stem_width=8",
    "backbone.width=32",
    "backbone.heads=2",
    "backbone.layers=1",
    "objective.width=16",
    "data.batch_size=4",
    "data.datamodule.source.train=400",
    "data.datamodule.source.val=4",
    "data.datamodule.source.test=4",
    "data.datamodule.source.size=32",
    "decoding.max_length=12",
    "metrics.caption.meteor=false",
    "metrics.rank_by_likelihood=[]",
    "baselines=false",
    "callbacks.progress_bar.refresh_rate=0",
]


@dataclass
class Node:
    """A running command; a thread of the operating system writes what it says into a file."""

    process: subprocess.Popen[bytes]
    said: Path
    began: float = field(default_factory=time.monotonic)

    @property
    def text(self) -> str:
        return self.said.read_text(encoding="utf-8", errors="replace")

    @property
    def last_line(self) -> str:
        lines = [line for line in self.text.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    def ended(self, within: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(within)
        return None

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Cluster:
    """Two namespaces, joined by a cable.

    Args:
        folder: for run folders and outputs.
        patience: `rank_timeout`, in seconds.
    """

    def __init__(self, folder: Path, patience: float) -> None:
        self.folder, self.patience = folder, patience
        self.names = tuple(f"hardneg{os.getpid()}n{number}" for number in (0, 1))
        self.nodes: list[Node] = []

    def __enter__(self) -> "Cluster":
        for name in self.names:
            ip("netns", "add", name)
        ends = [("netns", name) for name in self.names]
        ip("link", "add", "eth0", *ends[0], "type", "veth", "peer", "name", "eth0", *ends[1])
        for name, address in zip(self.names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                ip("-n", name, "link", "set", device, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        for name in self.names:
            ip("netns", "delete", name)

    def set_link(self, is_up: bool) -> None:
        ip("-n", self.names[1], "link", "set", "eth0", "up" if is_up else "down")

    def delay(self, milliseconds: float) -> None:
        for name in self.names:
            run("tc", "-n", name, "qdisc", "add", "dev", "eth0", "root", "netem", "delay", f"{milliseconds / 2}ms")

    def start(self, number: int, *arguments: str, alone: bool = False) -> Node:
        """The command on one node; `alone`: on no node, with two processes."""
        place = {"MASTER_ADDR": ADDRESSES[0], "MASTER_PORT": "29500", "NODE_RANK": str(number)}
        nodes = ["trainer.devices=2"] if alone else ["trainer.num_nodes=2"]
        inside = [] if alone else ["ip", "netns", "exec", self.names[number]]
        interface = {} if alone else {"GLOO_SOCKET_IFNAME": "eth0", **place}
        said = self.folder / f"said_{len(self.nodes)}"
        with said.open("wb") as file:
            process = subprocess.Popen(
                [
                    *inside,
                    sys.executable,
                    "-m",
                    "hardneg_plugin.apps.train",
                    *arguments,
                    *([] if resumes(arguments) else nodes),
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1", **interface},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.nodes.append(Node(process, said))
        return self.nodes[-1]

    def start_both(self, run_folder: str, *more: str) -> list[Node]:
        settings = [*self.settings, f"hydra.run.dir={self.folder / run_folder}", *more]
        return [self.start(number, *settings) for number in (0, 1)]

    @property
    def settings(self) -> list[str]:
        return [*SETTINGS, f"rank_timeout={self.patience:g}"]

    def until_training(self, run_folder: str) -> None:
        """Wait for the checkpoint of the first epoch."""
        until(lambda: (self.folder / run_folder / "checkpoints" / "last.ckpt").is_file())

    def weights(self, run_folder: str) -> dict[str, torch.Tensor]:
        checkpoint = torch.load(
            self.folder / run_folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=False
        )
        weights: dict[str, torch.Tensor] = checkpoint["state_dict"]
        return weights

    def differing(self, run_folder: str) -> int:
        """How many tensors differ from those of one machine, bit for bit."""
        one, two = self.weights("one"), self.weights(run_folder)
        return sum(not torch.equal(one[name], two[name]) for name in one.keys() | two.keys())


Row = dict[str, Any]


def equal(cluster: Cluster) -> Row:
    return compared(cluster, "equal", cluster.start_both("equal"))


def delay(cluster: Cluster) -> Row:
    return compared(cluster, "delay", cluster.start_both("delay"))


def pause(cluster: Cluster) -> Row:
    nodes = cluster.start_both("pause", "rank_timeout=120")
    cluster.until_training("pause")
    cluster.set_link(False)
    time.sleep(20)
    cluster.set_link(True)
    return compared(cluster, "pause", nodes)


def killed(cluster: Cluster) -> Row:
    first, second = cluster.start_both("killed")
    cluster.until_training("killed")
    second.kill()
    began = time.monotonic()
    code = first.ended(600)
    seconds = time.monotonic() - began
    resume = f"resume={cluster.folder / 'killed'}"
    row = compared(cluster, "killed", [cluster.start(number, resume) for number in (0, 1)])
    return row | {"seconds": seconds, "said": {"node 0": f"({code}) {first.last_line}"}}


def lost(cluster: Cluster) -> Row:
    nodes = cluster.start_both("lost")
    cluster.until_training("lost")
    cluster.set_link(False)
    began = time.monotonic()
    said, seconds = {}, 0.0
    for number, node in enumerate(nodes):
        code = node.ended(10 * cluster.patience + 120)
        seconds = max(seconds, time.monotonic() - began)
        said[f"node {number}"] = f"({code}) {node.last_line}"
    cluster.set_link(True)
    return {"seconds": seconds, "said": said}


def absent(cluster: Cluster) -> Row:
    node = cluster.start(0, *cluster.settings, f"hydra.run.dir={cluster.folder / 'absent'}")
    until(lambda: "Waiting" in node.text or node.process.poll() is not None)
    return {"seconds": time.monotonic() - node.began, "said": {"node 0": node.last_line}}


CASES: dict[str, Callable[[Cluster], Row]] = {
    case.__name__: case for case in (equal, pause, killed, lost, absent, delay)
}


def compared(cluster: Cluster, run_folder: str, nodes: list[Node]) -> Row:
    """The codes of both nodes, and how many tensors differ from those of one machine."""
    codes = [node.ended(1200) for node in nodes]
    row: Row = {"seconds": max(time.monotonic() - node.began for node in nodes), "codes": codes}
    if codes != [0, 0]:
        return row | {"said": {f"node {number}": node.last_line for number, node in enumerate(nodes)}, "differ": -1}
    return row | {"differ": cluster.differing(run_folder)}


def resumes(arguments: tuple[str, ...]) -> bool:
    return any(argument.startswith("resume=") for argument in arguments)


def until(is_so: Callable[[], bool], seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.2)


def ip(*arguments: str) -> None:
    run("ip", *arguments)


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextlib.contextmanager
def working_folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[name for name in CASES if name != "delay"])
    parser.add_argument("--delay", type=float, default=50.0, help="milliseconds there and back, of the case delay")
    parser.add_argument("--patience", type=float, default=20.0, help="rank_timeout in seconds")
    parser.add_argument("--folder", type=Path, help="keep run folders and outputs here")
    options = parser.parse_args()
    rows: dict[str, Row] = {}
    with working_folder(options.folder) as folder, Cluster(folder, options.patience) as cluster:
        one = cluster.start(0, *cluster.settings, f"hydra.run.dir={folder / 'one'}", alone=True)
        if one.ended(1200) != 0:
            sys.exit(one.text)
        for name in options.cases:
            if name == "delay":
                cluster.delay(options.delay)
            rows[name] = CASES[name](cluster)
            for node in cluster.nodes:
                node.kill()
            print(row_text(name, rows[name]), flush=True)
    print(json.dumps({"benchmark": "nodes", **rows}))
    sys.exit(any(row.get("differ", 0) for row in rows.values()))


def row_text(name: str, row: Row) -> str:
    weights = {None: "", 0: "weights of one machine, bit for bit", -1: "ended with an error"}
    differ = row.get("differ")
    result = weights.get(differ, f"{differ} tensors differ")
    said = "".join(f"\n    {who}: {text}" for who, text in row.get("said", {}).items())
    return f"{name:8} {row['seconds']:6.1f} s  {result}{said}"


if __name__ == "__main__":
    main()
