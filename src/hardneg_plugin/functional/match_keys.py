"""Integer keys for what identifies a study, so that matches can be found on any device and any rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor

from hardneg_plugin.errors import UserError

UNKNOWN = -1
"""The key of an identity that is not known; it equals nothing, not even itself."""

Identity = Tensor | Sequence[str | int | None]
"""Of B studies: strings or integers, a `(B,)` integer tensor, or `(B, T)` token ids."""


@dataclass(frozen=True)
class MatchKeys:
    """Keys of B studies' identities, by which matches are found.

    >>> keys = MatchKeys.of(2, study_ids=["CXR1", "CXR2"], texts=["No effusion.", "No effusion."])
    >>> bool(keys.study[0] == keys.study[1]), bool(keys.columns[0, 2] == keys.columns[1, 2])
    (False, True)
    """

    columns: Tensor
    """`(B, 4)` int64 keys of study, patient, report text and label set; `UNKNOWN` where not known."""
    has_study_ids: bool = True
    """Whether the host says who its studies are."""

    @classmethod
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def of(
        cls,
        studies: int,
        device: torch.device | None = None,
        *,
        study_ids: Identity | None = None,
        patient_ids: Identity | None = None,
        texts: Identity | None = None,
        labels: Identity | None = None,
    ) -> "MatchKeys":
        """Make keys of identities; those that are None are unknown.

        Args:
            studies: B.
            device: of the keys.
            study_ids, patient_ids, texts, labels: as of `PairEmbeddings`.

        Raises:
            ValueError: an identity of another number of studies.
        """
        identities = {"study_ids": study_ids, "patient_ids": patient_ids, "texts": texts, "labels": labels}
        columns = [_keys_of(name, identity, studies, device) for name, identity in identities.items()]
        return cls(torch.stack(columns, dim=1), study_ids is not None)

    @property
    def study(self) -> Tensor:
        """The column of the study itself, `(B,)`."""
        return self.columns[:, 0]

    def __len__(self) -> int:
        """B."""
        return len(self.columns)

    def __getitem__(self, rows: slice) -> "MatchKeys":
        """The keys of some of the studies."""
        return MatchKeys(self.columns[rows], self.has_study_ids)

    def require_study_ids(self, setting: str) -> None:
        """Raise a UserError where studies are unknown: a study's earlier embedding would count as another study's."""
        if not self.has_study_ids:
            raise UserError(f"{setting} needs to know the studies: give PairEmbeddings(study_ids=...).")


def _keys_of(name: str, identity: Identity | None, studies: int, device: torch.device | None) -> Tensor:
    if identity is None:
        return torch.full((studies,), UNKNOWN, device=device)
    if len(identity) != studies:
        raise ValueError(f"Expected `{name}` for {studies} studies, but got {len(identity)}.")
    if isinstance(identity, Tensor):
        values = identity.to(device=device, dtype=torch.int64)
        return values if values.ndim == 1 else token_keys(values)
    keys = torch.tensor([match_key(None if row is None else str(row)) for row in identity])
    return keys.to(device, non_blocking=True)


def match_key(identity: str | None) -> int:
    """A non-negative 63-bit key of an identifier or text, the same in every process; `UNKNOWN` for None.

    >>> match_key("CXR1_1_IM-0001") == match_key("CXR1_1_IM-0001"), match_key(None)
    (True, -1)
    """
    if identity is None:
        return UNKNOWN
    return int.from_bytes(blake2b(identity.encode(), digest_size=8).digest(), "big") >> 1


def token_keys(tokens: Tensor) -> Tensor:
    """Non-negative 63-bit keys of token rows `(B, T)` int64, out `(B,)`, on their device; padding with 0 changes nothing.

    A sum of tokens times a pseudo-random odd number per position, modulo 2^63: different rows get equal keys with a probability of
    about 2^-62.

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
    """The positions of keys in a sorted row of keys.

    Args:
        ordered: `(S,)` int64, ascending, all different.
        keys: int64 of any shape.

    Returns:
        Positions of the shape of `keys`; -1 for a key that is not among them, and for `UNKNOWN`.

    >>> find_keys(torch.tensor([3, 5, 9]), torch.tensor([[9, 4], [3, -1]]))
    tensor([[ 2, -1],
            [ 0, -1]])
    """
    if not len(ordered):
        return torch.full_like(keys, -1)
    position = torch.searchsorted(ordered, keys.contiguous()).clamp_max(len(ordered) - 1)
    return torch.where((ordered[position] == keys) & (keys != UNKNOWN), position, torch.full_like(position, -1))
