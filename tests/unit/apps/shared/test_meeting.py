"""Launchers of several nodes meet, in threads of this process on loopback addresses; who is missing, or wrong, is said."""

import re
import socket
import threading
import time

import pytest

from hardneg_plugin.apps.shared import meeting
from hardneg_plugin.apps.shared.meeting import Node, check_same, loopback_warning, meet, saying_that_it_waits
from hardneg_plugin.errors import UserError

ADDRESS = "127.0.0.2"


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind((ADDRESS, 0))
        return free.getsockname()[1]


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """Nodes have ten attempts a second, and say after .3 seconds what they would after ten; every meeting here is the first."""
    for name, value in (("PAUSE", 0.1), ("SAID_AFTER", 0.3), ("SAID_EVERY", 0.6), ("LINGER", 1.0)):
        monkeypatch.setattr(meeting, name, value)
    monkeypatch.setattr(meeting, "_MEETINGS", iter([0] * 9))


def meet_in_threads(*nodes, timeout=20.0):
    """What each node finds: its store, or the message of its error."""
    found = {}
    hold = threading.Barrier(len(nodes))

    def run(place, node):
        try:
            found[place] = meet(node, timeout, lambda text: None)
        except UserError as error:
            found[place] = str(error)
        hold.wait(30)  # as launchers do, which work then

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    return [found[place] for place in range(len(nodes))]


def node(number, port, nodes=2, devices=1, token=None):
    return Node(number, nodes, ADDRESS, port, devices, token or f"host{number} 1")


def test_three_nodes_meet_whoever_comes_first(port):
    stores = meet_in_threads(*(node(number, port, nodes=3) for number in (2, 1, 0)))
    assert [len(kept) for kept in stores] == [1, 1, 2]  # the server, too
    stores[0][0].set("said", "by node 2")
    assert [kept[-1].get("said") for kept in stores] == [b"by node 2"] * 3


@pytest.mark.parametrize(
    ("number", "waits_for"),
    [(0, r"1 of 2 nodes at {} \(missing: 1\)"), (1, r"node 0 of 2 at {} \(refused: nothing listens there yet\)")],
)
def test_for_whom_a_node_waits_is_said_and_after_the_timeout_it_ends(port, number, waits_for):
    said, waits_for = [], waits_for.format(f"{ADDRESS}:{port}")
    with pytest.raises(UserError, match=rf"Waited 1\.2 s \(rendezvous_timeout\) for {waits_for}\. Start"):
        meet(node(number, port), 1.2, lambda text: said.append((time.monotonic(), text)))
    times, texts = zip(*said, strict=True)
    assert set(texts) == {f"Waiting for {waits_for}.".replace("\\", "")}
    assert len(texts) == 2
    assert times[1] - times[0] == pytest.approx(0.6, abs=0.3)


def test_nodes_of_different_devices_and_numbers_are_refused_on_both(port):
    for first, second, setting in (
        (node(0, port, devices=2), node(1, port), "trainer.devices"),
        (node(0, port, nodes=2), node(1, port, nodes=3), "trainer.num_nodes"),
    ):
        values = (2, 1) if setting == "trainer.devices" else (2, 3)
        text = (
            f"{setting}: expected the same number on all nodes, but node 0 (host0) has {values[0]} and node 1 (host1) has "
            f"{values[1]}."
        )
        assert meet_in_threads(first, second) == [text, text]


def test_a_number_that_is_given_twice(port):
    there = {1: ("a 1", 2, 8)}
    check_same(node(1, port, token="a 1"), there)
    with pytest.raises(UserError, match="NODE_RANK=1 is given twice, on a and on b: give each node its own number"):
        check_same(node(1, port, token="b 1"), there)


def test_a_second_node_0_elsewhere_is_told_where_it_waits(port, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("", 0))
        taken = probe.getsockname()[1]
        probe.listen()
        with pytest.raises(UserError, match=f"MASTER_PORT={taken} is in use on this machine: name a free port"):
            meet(node(0, taken), 1, lambda text: None)
    said = []
    monkeypatch.setattr(meeting, "ATTEMPT", 0.5)
    with pytest.raises(UserError, match="no address of this machine"):
        meet(Node(0, 2, "192.0.2.1", port, 1), 1, said.append)  # of no machine (RFC 5737)
    assert re.fullmatch(
        rf"Waiting for node 0 of 2 at 192\.0\.2\.1:{port} \(.*\); 192\.0\.2\.1 is no address of this machine: "
        r"does another one have NODE_RANK=0 too\?",
        said[0],
    )


def test_a_host_name_that_nobody_knows(port):
    with pytest.raises(UserError, match="the host name is not known here"):
        meet(Node(1, 2, "no-such-host.invalid", port, 1), 0.2, lambda text: None)


def test_a_host_name_that_is_a_loopback_address(port, monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu07")
    of_hosts = {"gpu07": "127.0.1.1", "node0": "10.0.0.1", ADDRESS: ADDRESS}
    monkeypatch.setattr(socket, "gethostbyname", of_hosts.__getitem__)
    elsewhere = Node(1, 2, "node0", port, 1)
    assert loopback_warning(elsewhere).startswith(
        "The host name gpu07 resolves to 127.0.1.1, where other machines do not reach"
    )
    assert loopback_warning(node(1, port)) is None  # all on one machine
    of_hosts["gpu07"] = "10.0.0.2"
    assert loopback_warning(elsewhere) is None
    of_hosts["gpu07"] = "127.0.1.1"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    assert loopback_warning(elsewhere) is None


def test_a_host_name_that_is_not_known_is_the_matter_of_the_meeting(port, monkeypatch):
    def unknown(name):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(socket, "gethostbyname", unknown)
    assert loopback_warning(Node(1, 2, "no.such.host", port, 1)) is None


def test_what_takes_long_is_said_again_and_again_until_it_ends():
    said = []
    with saying_that_it_waits("waiting", said.append):
        time.sleep(0.65)
        assert said == ["waiting"]
        time.sleep(0.6)
        assert said == ["waiting"] * 2
    time.sleep(0.8)
    assert len(said) == 2
