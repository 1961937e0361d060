"""Multi-head attention whose keys and values can be kept: the image's per study, the words' per beam."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.linear import Linear
from hardneg_plugin.errors import UserError

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each `(B, heads, L, width / heads)`."""


class Attention(nn.Module):
    """Multi-head attention with separate projections; the heads are contiguous chunks of the width.

    Args:
        width: Width of inputs and outputs, a multiple of `heads`.
        heads: Number of heads.
        dropout: Share of the attention weights dropped in training.

    Raises:
        UserError: If `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"Expected `width` to be a multiple of `heads`, but got width {width} and heads {heads}.")
        self.heads = heads
        self.dropout = dropout
        self.query = Linear(width, width)
        self.key = Linear(width, width)
        self.value = Linear(width, width)
        self.output = Linear(width, width)

    def keys_values(self, x: Tensor) -> KeysValues:
        """Project `(B, L, width)` to what `forward` attends to."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, attended: KeysValues, mask: Tensor | None = None) -> Tensor:
        """Let each of `(B, Q, width)` attend to the keys and values.

        Args:
            x: `(B, Q, width)` queries: positions of a sequence, or the beams of a study.
            attended: From `keys_values`.
            mask: Bool, broadcastable to `(B, heads, Q, L)`, True where attention is allowed.
        """
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(self._split(self.query(x)), *attended, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much each of `(B, Q, width)` attends to each key: `(B, heads, Q, L)`, rows sum to 1; no dropout."""
        scores = self._split(self.query(x)) @ keys.mT / math.sqrt(keys.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1, dtype=torch.float32)

    def _split(self, x: Tensor) -> Tensor:
        chunks: Tensor = x.unflatten(-1, (self.heads, -1))
        return chunks.transpose(1, 2)


class BeamCache:
    """Keys and values of the words so far, per layer, with a mask that says which of them are whose past.

    Nothing is moved when beams are reordered. Beam `i` writes the key of word `t` into slot `(t, i)` and there it
    stays; the beams of a study attend to all slots of the study at once, and `mask` shows each its own ancestors only.

    Args:
        layers: Number of layers with self-attention.
        studies: Number of studies B.
        beams: Beams per study k.
        max_length: Most words.
        device: Where the caches live.
    """

    def __init__(self, layers: int, studies: int, beams: int, max_length: int, device: torch.device) -> None:
        self.length = 0
        self._shape = (max_length, beams)
        self._slots: list[KeysValues | None] = [None] * layers
        self._own = torch.eye(beams, dtype=torch.bool, device=device)
        self._lineage = torch.zeros(studies, beams, max_length, beams, dtype=torch.bool, device=device)

    def advance(self) -> None:
        """Make room for one more word per beam; call before the layers `extend`."""
        if self.length == self._shape[0]:
            raise ValueError(f"Expected at most {self.length} steps (`max_length` of `start`), but got one more.")
        self._lineage[:, :, self.length] = self._own
        self.length += 1

    @property
    def mask(self) -> Tensor:
        """`(B, 1, k, length * k)` bool: which slots each beam may attend to."""
        return self._lineage[:, None, :, : self.length].flatten(3)

    def extend(self, layer: int, new: KeysValues) -> KeysValues:
        """Store a layer's `(B, heads, k, d)` for the current word; return its `(B, heads, length * k, d)` so far."""
        slots = self._slots[layer]
        if slots is None:
            # Only now is the dtype known: under autocast it is not that of the weights.
            studies, heads, _, width = new[0].shape
            shape = (studies, heads, *self._shape, width)
            slots = self._slots[layer] = (new[0].new_empty(shape), new[1].new_empty(shape))
        for kept, fresh in zip(slots, new, strict=True):
            kept[:, :, self.length - 1] = fresh
        keys, values = (kept[:, :, : self.length].flatten(2, 3) for kept in slots)
        return keys, values

    def select(self, parents: Tensor) -> None:
        """Let each beam go on from another of its study: `parents` `(B, k)`."""
        self._lineage = self._lineage.gather(1, parents[..., None, None].expand_as(self._lineage))
