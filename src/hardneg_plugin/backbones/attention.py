"""Multi-head attention whose keys and values can be kept: the image's per study, the words' per beam."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hardneg_plugin.backbones.linear import Linear
from hardneg_plugin.errors import UserError

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each `(B, heads, L, width / heads)`."""

FEW_QUERIES = 8
"""Up to so many queries, two plain products are up to twice as fast on a CPU as the fused attention, given `for_steps`."""


def for_steps(keys_values: KeysValues) -> KeysValues:
    """The same keys and values, the keys laid out in memory the way the products of single steps read them."""
    keys, values = keys_values
    return keys.mT.contiguous().mT, values


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
        if x.device.type == "cpu" and x.shape[1] <= FEW_QUERIES and not (self.training or torch.is_grad_enabled()):
            keys, values = attended
            mixed = self.weights(x, keys, mask).to(values.dtype) @ values
        else:
            dropout = self.dropout if self.training else 0.0
            queries = self._split(self.query(x))
            # the fused attention's backward is ten times as slow in bf16 on a CPU as in float32
            is_slow = x.device.type == "cpu" and queries.dtype == torch.bfloat16 and torch.is_grad_enabled()
            with sdpa_kernel(SDPBackend.MATH) if is_slow else nullcontext():
                mixed = F.scaled_dot_product_attention(queries, *attended, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """How much each of `(B, Q, width)` attends to each key: `(B, heads, Q, L)`, rows sum to 1; no dropout."""
        scores = (self._split(self.query(x)) * keys.shape[-1] ** -0.5) @ keys.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights: Tensor = scores.softmax(-1, dtype=torch.float32)
        return weights

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
            slots = self._slots[layer] = (
                new[0].new_empty(studies, heads, width, *self._shape),  # laid out as `for_steps` would
                new[1].new_empty(studies, heads, *self._shape, width),
            )
        keys, values = slots
        keys[:, :, :, self.length - 1] = new[0].mT
        values[:, :, self.length - 1] = new[1]
        return keys[:, :, :, : self.length].flatten(3).mT, values[:, :, : self.length].flatten(2, 3)

    def select(self, parents: Tensor) -> None:
        """Let each beam go on from another of its study: `parents` `(B, k)`."""
        self._lineage = self._lineage.gather(1, parents[..., None, None].expand_as(self._lineage))
