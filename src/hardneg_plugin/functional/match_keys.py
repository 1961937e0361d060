"""Integer keys for what identifies a study, so that matches can be found on any device and any rank."""

from hashlib import blake2b

import torch
from torch import Tensor

UNKNOWN = -1
"""The key of something that is not known; it equals nothing, not even itself."""


def match_key(identity: str | None) -> int:
    """A non-negative 63-bit key of an identifier or text, the same in every process; `UNKNOWN` (-1) for None.

    >>> match_key("CXR1_1_IM-0001") == match_key("CXR1_1_IM-0001"), match_key(None)
    (True, -1)
    """
    if identity is None:
        return UNKNOWN
    return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big") >> 1


def token_keys(tokens: Tensor) -> Tensor:
    """Non-negative 63-bit keys of token rows `(B, T)` int64, out `(B,)`, on their device; padding with 0 changes nothing.

    A sum of tokens times a pseudo-random odd number per position, modulo 2^63: rows of different words get equal keys with a
    probability of about 2^-62.

    >>> keys = token_keys(torch.tensor([[0, 5, 7, 0, 0], [0, 5, 7, 0, 0], [0, 7, 5, 0, 0]]))
    >>> bool(keys[0] == keys[1]), bool(keys[0] == keys[2]), bool(keys[0] == token_keys(torch.tensor([[0, 5, 7]]))[0])
    (True, False, True)
    """
    position = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    # two rounds of multiply and shift, the finaliser of splitmix64; int64 arithmetic wraps around
    mixed = position * -7046029254386353131
    mixed = (mixed ^ (mixed >> 30)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 27)) | 1
    return (tokens * mixed).sum(dim=1) & 0x7FFF_FFFF_FFFF_FFFF


def find_keys(ordered: Tensor, keys: Tensor) -> Tensor:
    """Where keys of any shape stand in an ascending `(S,)` row of different keys; -1 where not, and for `UNKNOWN`.

    >>> find_keys(torch.tensor([3, 5, 9]), torch.tensor([[9, 4], [3, -1]]))
    tensor([[ 2, -1],
            [ 0, -1]])
    """
    if not len(ordered):
        return torch.full_like(keys, -1)
    position = torch.searchsorted(ordered, keys.contiguous()).clamp_max(len(ordered) - 1)
    return torch.where((ordered[position] == keys) & (keys != UNKNOWN), position, torch.full_like(position, -1))
