"""A rank that gives no sign of life is named; one that works, has done its job, or was stopped with all others is not."""

import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from hardneg_plugin.apps.shared.signs_of_life import Silence


def silent_of(signs, patience=10.0, pause=1.0, times=None):
    """What each second of a record of signs gives: a list of the silent ranks."""
    silence = Silence(len(signs[0]), patience, pause)
    return [
        silence.of(dict(enumerate(now)), float(t)) for now, t in zip(signs, times or range(len(signs)), strict=True)
    ]


def test_a_rank_is_silent_only_after_all_of_the_patience():
    found = silent_of([(str(t), str(min(t, 3))) for t in range(16)])
    assert found == [[]] * 14 + [[1]] * 2  # last heard in second 3


def test_a_rank_that_comes_back_is_not_silent():
    assert silent_of([(str(t), str(t // 9)) for t in range(40)]) == [[]] * 40


def test_a_rank_that_has_done_its_job_may_be_silent():
    assert silent_of([(str(t), "done" if t > 3 else str(t)) for t in range(40)]) == [[]] * 40


def test_a_rank_that_was_never_heard_is_silent_too():
    assert silent_of([(str(t), "") for t in range(13)])[-1] == [1]


def test_after_all_were_stopped_together_the_patience_begins_anew():
    times = [0, 1, 2, 500, 501, 505, 510, 511]
    assert silent_of([(str(t), "1") for t in times], times=times) == [[]] * 7 + [[1]]


RANK = """
import os, sys, time
import torch.distributed as dist
from hardneg_plugin.apps.shared.signs_of_life import signs_of_life

number, port = int(sys.argv[1]), int(sys.argv[2])
os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
store = dist.TCPStore("localhost", port, 3, number == 0)
dist.init_process_group("gloo", store=store, rank=number, world_size=3)

def end(text, says):
    print(text, says, flush=True)
    os._exit(3)

with signs_of_life(3.0, end):
    print("ready", flush=True)
    time.sleep(90)
"""
"""Gives signs, as a rank in a long collective call."""


@pytest.mark.slow
@pytest.mark.parametrize(("stopped", "nodes"), [(2, None), (0, None), (0, "2")])
def test_a_stopped_process_is_named_once_and_the_others_end(monkeypatch, stopped, nodes):
    if nodes is not None:  # whose launcher on node 0 has the store, and is gone with it
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
        monkeypatch.setenv("GROUP_WORLD_SIZE", nodes)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(port)], stdout=subprocess.PIPE, text=True) for rank in range(3)]
    try:
        assert [rank.stdout.readline() for rank in ranks] == ["ready\n"] * 3
        time.sleep(6)
        assert [rank.poll() for rank in ranks] == [None] * 3  # they give signs, longer than the patience
        ranks[stopped].send_signal(signal.SIGSTOP)
        others = [number for number in range(3) if number != stopped]
        told = [ranks[number].communicate(timeout=60)[0].strip() for number in others]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    line = (
        rf"Rank {stopped} \(process {ranks[stopped].pid} on \S+\) has given no sign of life for 3 s \(rank_timeout\)\."
    )
    assert re.fullmatch(f"{line} True", told[0])
    assert re.fullmatch(f"{line} False", told[1])
    assert [ranks[number].returncode for number in others] == [3, 3]
