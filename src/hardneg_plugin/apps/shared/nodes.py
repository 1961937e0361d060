"""What the ranks of all nodes tell one another, and who says what."""

import os
import socket
from collections.abc import Sequence


def node() -> str:
    """The node of this process in words, such as "node 1, gpu07"."""
    number = next((os.environ[name] for name in ("GROUP_RANK", "SLURM_NODEID", "NODE_RANK") if name in os.environ), "0")
    return f"node {number}, {socket.gethostname()}"


def of_ranks_in_words(texts: Sequence[tuple[str, str]]) -> str:
    """What is true of which ranks; those of a node with one text together.

    Args:
        texts: the node and the text of each rank; an empty text says nothing.

    >>> of_ranks_in_words([("node 0, a", ""), ("node 1, b", "no disk"), ("node 1, b", "no disk")])
    'ranks 1, 2 (node 1, b): no disk'
    """
    ranks: dict[tuple[str, str], list[str]] = {}
    for number, (where, text) in enumerate(texts):
        if text:
            ranks.setdefault((where, text), []).append(str(number))
    return "; ".join(
        f"rank{'s' * (len(alike) > 1)} {', '.join(alike)} ({where}): {text}" for (where, text), alike in ranks.items()
    )
