"""Multi-head attention with a cache of keys and values: the image's per study, the tokens' per beam."""

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hardneg_plugin.backbones.linear import DecodingLinear
from hardneg_plugin.errors import UserError

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each `(B, heads, L, width / heads)`."""

FEW_QUERIES = 8
"""Up to this many queries, two plain products on a CPU are up to twice as fast as fused attention, given `for_steps`."""


def for_steps(keys_values: KeysValues) -> KeysValues:
    """The same keys and values, laid out in memory as single steps read them."""
    keys, values = keys_values
    return keys.mT.contiguous().mT, values.contiguous()


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`(..., L, width)` to `(..., heads, L, width / heads)`.

    Args:
        x: contiguous chunks of its width are the heads.
        heads: divides the width.
    """
    chunks: Tensor = x.unflatten(-1, (heads, -1))
    return chunks.transpose(-3, -2)


class Attention(nn.Module):
    """Multi-head attention with separate projections; the heads are contiguous chunks of the width.

    Args:
        width: Width of inputs and outputs, a multiple of `heads`.
        heads: Number of heads.
        dropout: Share of the attention weights dropped in training.

    Raises:
        UserError: If `heads` does not divide `width`.

    >>> attention = Attention(width=8, heads=2, dropout=0.0)
    >>> x, attended = torch.rand(2, 3, 8), attention.keys_values(torch.rand(2, 5, 8))
    >>> attention(x, attended).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise UserError(f"Expected `width` to be a multiple of `heads`, but got width {width} and heads {heads}.")
        self.heads = heads
        self.dropout = dropout
        self.query, self.key, self.value, self.output = (DecodingLinear(width, width) for _ in range(4))

    def keys_values(self, x: Tensor) -> KeysValues:
        """Project `(B, L, width)` to the keys and values that `forward` takes."""
        return split_heads(self.key(x), self.heads), split_heads(self.value(x), self.heads)

    def forward(self, x: Tensor, attended: KeysValues, mask: Tensor | None = None) -> Tensor:
        """Attend from each query: `(B, Q, width)`.

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
            queries = split_heads(self.query(x), self.heads)
            # on a CPU the backward of fused attention is ten times slower in bf16 than in float32
            is_slow = x.device.type == "cpu" and queries.dtype == torch.bfloat16 and torch.is_grad_enabled()
            with sdpa_kernel(SDPBackend.MATH) if is_slow else nullcontext():
                mixed = F.scaled_dot_product_attention(queries, *attended, attn_mask=mask, dropout_p=dropout)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out

    def weights(self, x: Tensor, keys: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention weights `(B, heads, Q, L)` without dropout; rows sum to 1.

        Args:
            x: `(B, Q, width)` queries.
            keys: `(B, heads, L, width / heads)`, from `keys_values`.
            mask: As in `forward`.
        """
        scores = (split_heads(self.query(x), self.heads) * keys.shape[-1] ** -0.5) @ keys.mT
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        weights: Tensor = scores.softmax(-1, dtype=torch.float32)
        return weights


class BeamCache:
    """Keys and values of the tokens so far, per layer, with a mask of each beam's ancestors.

    Reordering beams moves nothing: beam `i` writes the key of token `t` into slot `(t, i)`, the beams of a study attend to all
    slots of the study at once, and `mask` shows each beam only its ancestors.

    Args:
        layers: Number of layers with self-attention.
        studies: Number of studies B.
        beams: Beams per study k.
        max_length: Maximum number of tokens.
        device: Of keys, values and mask.

    >>> cache = BeamCache(layers=1, studies=2, beams=3, max_length=10, device=torch.device("cpu"))
    >>> cache.advance()
    >>> keys, values = cache.extend(0, (torch.rand(2, 4, 3, 8), torch.rand(2, 4, 3, 8)))
    >>> keys.shape, cache.mask.shape
    (torch.Size([2, 4, 3, 8]), torch.Size([2, 1, 3, 3]))
    """

    def __init__(self, layers: int, studies: int, beams: int, max_length: int, device: torch.device) -> None:
        self.length = 0
        self._shape = (max_length, beams)
        self._slots: list[KeysValues | None] = [None] * layers
        self._identity = torch.eye(beams, dtype=torch.bool, device=device)
        self._ancestors = torch.zeros(studies, beams, max_length, beams, dtype=torch.bool, device=device)

    def advance(self) -> None:
        """Make room for one more token per beam; call it before `extend`."""
        if self.length == self._shape[0]:
            raise ValueError(
                f"Expected at most {self.length} steps (`max_length` of `start`), but got {self.length + 1}."
            )
        self._ancestors[:, :, self.length] = self._identity
        self.length += 1

    @property
    def mask(self) -> Tensor:
        """`(B, 1, k, length * k)` bool: which slots each beam may attend to."""
        return self._ancestors[:, None, :, : self.length].flatten(3)

    def extend(self, layer: int, new: KeysValues) -> KeysValues:
        """Store keys and values of the current token, and return those of all tokens so far.

        Args:
            layer: Index of the layer.
            new: Keys and values `(B, heads, k, d)`.

        Returns:
            Keys and values `(B, heads, length * k, d)`.
        """
        slots = self._slots[layer]
        if slots is None:
            # allocated here, as under autocast the dtype is not that of the weights
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
        """Let each beam continue another one of its study: `parents` `(B, k)` int64."""
        self._ancestors = self._ancestors.gather(1, parents[..., None, None].expand_as(self._ancestors))

    def keep(self, studies: Tensor) -> None:
        """Go on with some studies: `studies` `(n,)` int64."""
        self._ancestors = self._ancestors[studies]
        self._slots = [slots and (slots[0][studies], slots[1][studies]) for slots in self._slots]
