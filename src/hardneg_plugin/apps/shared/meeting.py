"""The launchers of all nodes meet before they start ranks: who is missing is said, and what was given wrongly."""

import errno
import itertools
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

import torch.distributed as dist

from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.terminal import say

SAID_AFTER, SAID_EVERY = 10.0, 60.0
"""Seconds until a launcher says for whom it waits, and between two such lines."""
PAUSE = 0.5
"""Seconds between two looks."""
ATTEMPT = 3.0
"""Seconds that one attempt to connect may take."""
LINGER = 3.0
"""Seconds that the store of node 0 stays for the others to see what is wrong."""
TIMEOUT = timedelta(seconds=30)
"""Of one request to the store."""
_MEETINGS = itertools.count()


@dataclass(frozen=True)
class Node:
    """One of the machines of a job, by its environment.

    Args:
        number: from 0.
        nodes: how many there are.
        address, port: where node 0 listens.
        devices: ranks on this node.
        token: host and process, which no other node has.

    Raises:
        UserError: `number` or `port` is out of range.
    """

    number: int
    nodes: int
    address: str
    port: int
    devices: int
    token: str = field(default_factory=lambda: f"{socket.gethostname()} {os.getpid()}")

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.nodes:
            raise UserError(
                f"NODE_RANK: expected 0 to {self.nodes - 1} with trainer.num_nodes={self.nodes}, but got {self.number}."
            )
        if not 0 < self.port < 65536:
            raise UserError(f"MASTER_PORT: expected 1 to 65535, but got {self.port}.")

    @classmethod
    def of_environment(cls, nodes: int, devices: int) -> "Node":
        """This node, by MASTER_ADDR, MASTER_PORT and NODE_RANK.

        Args:
            nodes: how many there are.
            devices: ranks on this node.

        Raises:
            UserError: a variable is missing or wrong.
        """
        if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if not os.environ.get(name)]:
            raise UserError(
                f"trainer.num_nodes={nodes}: expected the addresses of the nodes in the environment, but it has no "
                f"{', '.join(missing)}. Run the same command on each node with MASTER_ADDR and MASTER_PORT (the first node and a "
                f"free port of it) and NODE_RANK (0 to {nodes - 1}), or on all of them with srun."
            )
        numbers = {}
        for name in ("MASTER_PORT", "NODE_RANK"):
            try:
                numbers[name] = int(os.environ[name])
            except ValueError:
                raise UserError(f"{name}: expected an integer, but got {os.environ[name]!r}.") from None
        return cls(numbers["NODE_RANK"], nodes, os.environ["MASTER_ADDR"], numbers["MASTER_PORT"], devices)

    @property
    def endpoint(self) -> str:
        """Where node 0 listens, as HOST:PORT."""
        return f"{self.address}:{self.port}"


def meet(own: Node, timeout: float, tell: Callable[[str], None] | None = None) -> list[dist.TCPStore]:
    """Wait until all nodes are there, and say for whom.

    Args:
        own: this node.
        timeout: seconds.
        tell: takes a line; None: standard error.

    Returns:
        The connection to the store of node 0, and on node 0 the store itself before it; ranks find one another by it while it is
        kept.

    Raises:
        UserError: a node did not come in time, or gave something else than this one.
    """
    meeting = next(_MEETINGS)
    tell = tell or _say
    start, said_at = time.monotonic(), SAID_AFTER
    server = [_server(own)] if own.number == 0 else []
    store: dist.TCPStore | None = None
    while True:
        waits_for = ""
        try:
            store = store or _connected(own)
            there = _there(own, store, meeting)
            try:
                check_same(own, there)
            except UserError:
                time.sleep(LINGER * (own.number == 0))
                raise
            if len(there) == own.nodes:
                return [*server, store]
            missing = [str(number) for number in range(own.nodes) if number not in there]
            waits_for = f"{len(missing)} of {own.nodes} nodes at {own.endpoint} (missing: {', '.join(missing)})"
        except (OSError, RuntimeError) as error:  # node 0 is not there yet, or ended a job before
            store = None
            waits_for = f"node 0 of {own.nodes} at {own.endpoint} ({_why(error)})"
        waited = time.monotonic() - start
        if waited >= timeout:
            raise UserError(
                f"Waited {timeout:g} s (rendezvous_timeout) for {waits_for}{_hint(own) or '.'} Start the same command on each "
                "node, with one MASTER_ADDR and MASTER_PORT, which no firewall closes, and a NODE_RANK of its own."
            )
        if waited >= said_at:
            tell(f"Waiting for {waits_for}{_hint(own) or '.'}")
            said_at += SAID_EVERY
        time.sleep(PAUSE)


@contextmanager
def saying_that_it_waits(text: str, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Say a line after `SAID_AFTER` seconds, and again each `SAID_EVERY`, until the block ends.

    Args:
        text: the line.
        tell: takes it; None: standard error.
    """
    done = threading.Event()

    def watch() -> None:
        pause = SAID_AFTER
        while not done.wait(pause):
            (tell or _say)(text)
            pause = SAID_EVERY

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _say(text: str) -> None:
    say(text, file=sys.stderr, flush=True)


def check_same(own: Node, there: Mapping[int, tuple[str, int, int]]) -> None:
    """Check that the nodes that are there were started alike.

    Args:
        own: this node.
        there: token, number of nodes and devices of each, by its number.

    Raises:
        UserError: they were not.

    >>> check_same(Node(0, 2, "node0", 29500, 8, "a 1"), {0: ("a 1", 2, 8), 1: ("b 1", 2, 8)})
    """
    if own.number in there and (other := there[own.number][0]) != own.token:
        raise UserError(
            f"NODE_RANK={own.number} is given twice, on {_host(other)} and on {_host(own.token)}: give each node its own number."
        )
    least = min(there, default=0)
    for number, (_, *given) in sorted(there.items()):
        for setting, value, expected in zip(
            ("trainer.num_nodes", "trainer.devices"), given, there[least][1:], strict=True
        ):
            if value != expected:
                raise UserError(
                    f"{setting}: expected the same number on all nodes, but node {least} ({_host(there[least][0])}) has {expected} "
                    f"and node {number} ({_host(there[number][0])}) has {value}."
                )


def _host(token: str) -> str:
    return token.partition(" ")[0]


def loopback_warning(own: Node) -> str | None:
    """Where the ranks of this node would listen at an address that other machines do not reach; None: all is well."""
    name = socket.gethostname()
    if os.environ.get("GLOO_SOCKET_IFNAME") or _is_loopback(own.address) or not _is_loopback(name):
        return None
    return (
        f"The host name {name} resolves to {socket.gethostbyname(name)}, where other machines do not reach this one: set "
        "GLOO_SOCKET_IFNAME to the network interface that they reach, such as eth0 (NCCL_SOCKET_IFNAME for GPUs)."
    )


def _server(own: Node) -> dist.TCPStore:
    """The store of node 0, which torchrun's launcher opens again in this process."""
    try:
        return dist.TCPStore("localhost", own.port, None, True, TIMEOUT, wait_for_workers=False, multi_tenant=True)
    except RuntimeError as error:
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise UserError(
                f"MASTER_PORT={own.port} is in use on this machine: name a free port, the same on all nodes. Another command may "
                "have been given NODE_RANK=0 too."
            ) from error
        raise


def _connected(own: Node) -> dist.TCPStore:
    with socket.create_connection((own.address, own.port), ATTEMPT):
        pass  # its error says more than that of the store
    return dist.TCPStore(own.address, own.port, None, False, TIMEOUT, wait_for_workers=False)


def _there(own: Node, store: dist.TCPStore, meeting: int) -> dict[int, tuple[str, int, int]]:
    keys = [f"hardneg_plugin/meeting/{meeting}/{number}" for number in range(own.nodes)]
    store.compare_set(keys[own.number], "", f"{own.token}|{own.nodes}|{own.devices}")
    there = {}
    for number, key in enumerate(keys):
        if store.check([key]):
            token, nodes, devices = store.get(key).decode().split("|")
            there[number] = (token, int(nodes), int(devices))
    return there


def _why(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused: nothing listens there yet"
    if isinstance(error, socket.gaierror):
        return "the host name is not known here"
    if isinstance(error, TimeoutError) or getattr(error, "errno", None) in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return "unreachable from here"
    return first_line(error)


def _hint(own: Node) -> str:
    """Of a number that is likely wrong: the first node listens at an address of its own."""
    if own.number == 0:
        try:
            with socket.socket() as trial:
                trial.bind((own.address, 0))
        except OSError:
            return f"; {own.address} is no address of this machine: does another one have NODE_RANK=0 too?"
    return ""


def _is_loopback(name: str) -> bool:
    with suppress(OSError):  # not known: the meeting says so
        return socket.gethostbyname(name).startswith("127.")
    return False
