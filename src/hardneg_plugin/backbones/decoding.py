"""What decoding needs to know, and what it returns: options, reports, and the state of a decoder."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, get_args

from torch import Tensor

from hardneg_plugin.backbones.packed import Precision
from hardneg_plugin.errors import UserError, require_count, require_number


@dataclass(frozen=True)
class Decoding:
    """Options of decoding. The defaults are those of the released models.

    Args:
        beam_size: Beams per study, >= 1; 1 is greedy decoding. May exceed the number of tokens.
        max_length: Maximum number of tokens per report, >= 1; the end takes one.
        num_return: Reports per study, best first, >= 1; in a search at most `beam_size`.
        length_penalty: Reports are ranked by their summed log-probability over `length ** length_penalty`, the end
            counted; values above 0 favour longer reports.
        no_repeat_ngram_size: No sequence of this many tokens occurs twice in a report; 0 allows all.
        sample: Sample tokens instead of searching; ignores `beam_size` and `length_penalty`.
        temperature: Divides the log-probabilities before sampling, > 0.
        top_k: Sample from this many likeliest tokens, >= 1; None: from all.
        top_p: Sample from the fewest likeliest tokens of this total probability, in (0, 1]; None: from all.
        precision: Of the products with weights, on a CPU: bfloat16 is faster, and chooses a few other tokens; None: as the weights
            are. Not for models that search by the `generate` of transformers.

    Raises:
        UserError: If a value is out of range, or values contradict each other.

    >>> Decoding(beam_size=5, num_return=2).max_length
    60
    """

    beam_size: int = 3
    max_length: int = 60
    num_return: int = 1
    length_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        for name in ("beam_size", "max_length", "num_return"):
            require_count(getattr(self, name), f"decoding.{name}")
        size, top_k, top_p = self.no_repeat_ngram_size, self.top_k, self.top_p
        require_count(size, "decoding.no_repeat_ngram_size", "an integer >= 0", least=0)
        require_number(self.length_penalty, "decoding.length_penalty", "a number")
        require_number(self.temperature, "decoding.temperature", "a number > 0", above=0)
        if top_k is not None:
            require_count(top_k, "decoding.top_k", "a positive integer or None")
        if top_p is not None:
            require_number(top_p, "decoding.top_p", "a number in (0, 1] or None", above=0, most=1)
        if self.precision not in (None, *get_args(Precision)):
            raise UserError(f"decoding.precision: expected bfloat16 or None, but got {self.precision!r}.")
        if self.sample:
            return
        if self.num_return > self.beam_size:
            raise UserError(
                f"decoding.num_return: expected at most decoding.beam_size={self.beam_size} in a search, but got "
                f"{self.num_return}: increase decoding.beam_size, or set decoding.sample=true."
            )
        if (self.temperature, top_k, top_p) != (1.0, None, None):
            raise UserError("decoding.temperature, top_k and top_p apply to sampling only: set decoding.sample=true.")


class Decoded(NamedTuple):
    """R reports for each of B studies, best first; sampled ones in the order of sampling."""

    tokens: Tensor
    """`(B, R, max_length)` int64; 0 ends and pads."""
    log_probs: Tensor
    """`(B, R)` summed log-probabilities under the model, including the end; -inf where there are fewer than R reports."""
    attention: Tensor | None = None
    """`(B, R, layers, heads, max_length, P)`: attention of each token to the patches; None unless asked for.

    Patches lie view by view: `attention.unflatten(-1, (views, rows, columns))`. Meaningless past the end of a report.
    """


class DecoderState(ABC):
    """State of a decoder for k beams of each of B studies; `step` advances it in place."""

    @abstractmethod
    def select(self, parents: Tensor) -> None:
        """Let each beam continue another one of its study.

        Args:
            parents: `(B, k)` int64 in [0, k): beam `i` of study `b` takes the state of its beam `parents[b, i]`.
        """
