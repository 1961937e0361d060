"""Input and output of `ReportGenerator.generate`: from image files or arrays to tensors, from tokens to reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.data.transforms import resize_to_square
from hardneg_plugin.errors import UserError

View: TypeAlias = "str | Path | Image.Image | np.ndarray[Any, Any] | Tensor"
"""One image: a path, a Pillow image of 8 bits, or gray values `(H, W)` or `(1, H, W)` uint8."""

Images: TypeAlias = "View | Sequence[View | Sequence[View]]"
"""One image, or a list of studies, each an image or a list of views."""


@dataclass(frozen=True)
class GeneratedReport:
    """The generated report of one study; `str(report)` is its text.

    >>> report = GeneratedReport("no effusion", attention=torch.tensor([[[[0.2]], [[0.8]]], [[[0.5]], [[0.5]]]]))
    >>> report.words, report.attention.shape
    (['no', 'effusion'], torch.Size([2, 2, 1, 1]))
    """

    text: str
    attention: Tensor | None = None
    """`(words, views, rows, columns)`: attention of each word to the patches, averaged over layers and heads; each word sums to 1.
    None unless asked for."""

    def __str__(self) -> str:
        return self.text

    @property
    def words(self) -> list[str]:
        """The words of the text, to which the rows of `attention` belong."""
        return self.text.split()

    def views(self) -> list[tuple[int, float]]:
        """For each word the index of the view with most of its attention, and the share of attention on that view.

        Raises:
            ValueError: the report has no attention.
        """
        if self.attention is None:
            raise ValueError("Expected a report generated with attention=True, but this one has no attention.")
        if not len(self.attention):
            return []
        shares, views = self.attention.sum((2, 3)).max(dim=1)
        return list(zip(views.tolist(), shares.tolist(), strict=True))


def group_views(images: Images) -> list[list[View]]:
    """A list of views for each study.

    Raises:
        UserError: a study has no view.
    """
    studies = [
        list(study) if isinstance(study, list | tuple) else [study]
        for study in (images if isinstance(images, list | tuple) else [images])
    ]
    for index, study in enumerate(studies):
        if not study:
            raise UserError(f"Expected at least one view for each study, but study {index} has none.")
    return cast(list[list[View]], studies)


def read_views(study: Sequence[View], size: int) -> Tensor:
    """The views of a study, resized as in evaluation: `(V, 1, size, size)` uint8.

    Args:
        study: V images.
        size: height and width, in pixels.

    Raises:
        UserError: an image cannot be read, or has an unsupported type.
    """
    return torch.stack([resize_to_square(_gray(view, size), crop=size)[0] for view in study])


def generated_report(tokenizer: Tokenizer, tokens: list[int], maps: Tensor | None = None) -> GeneratedReport:
    """The report of a row of tokens.

    Args:
        tokenizer: of the generator.
        tokens: T tokens, padded with 0.
        maps: `(T, views, rows, columns)`, the attention of each token; None: no attention.

    The attention of a word of several tokens is their mean.
    """
    text = tokenizer.decode(tokens)
    if maps is None:
        return GeneratedReport(text)
    positions = token_positions(tokenizer, tokens)
    attention = maps.new_zeros(len(positions), *maps.shape[1:])
    for word, of_word in enumerate(positions):
        if of_word:
            attention[word] = maps[of_word].mean(0)
    return GeneratedReport(text, attention)


def token_positions(tokenizer: Tokenizer, tokens: list[int]) -> list[list[int]]:
    """For each word of the decoded text the positions of its tokens in the row; may be empty.

    Args:
        tokenizer: of the generator.
        tokens: a row of tokens, padded with 0.
    """
    rows: list[list[int]] = [[] for _ in tokenizer.decode(tokens).split()]
    started = 0
    for index in range(len(tokens) if 0 not in tokens else tokens.index(0)):
        words = min(len(tokenizer.decode(tokens[: index + 1]).split()), len(rows))
        # a token that starts no word belongs to the last one; one that starts several belongs to each
        for word in range(started if words > started else words - 1, words):
            if word >= 0:
                rows[word].append(index)
        started = max(started, words)
    return rows


def _gray(view: View, size: int) -> Tensor:
    """`(1, H, W)` uint8."""
    if isinstance(view, str | Path):
        return read_grayscale(Path(view), shorter_side=size)
    if isinstance(view, Image.Image):
        if view.mode.startswith(("I", "F")):
            raise UserError(
                f"Expected an image of 8 bits, but got mode {view.mode}, whose range is unknown: give the path of its file, or "
                "scale it to 0..255."
            )
        upright = ImageOps.exif_transpose(view)
        # via RGBA, as a palette with transparency warns when converted to "L"
        upright = upright.convert("RGBA") if upright.mode == "P" else upright
        view = np.array(upright.convert("L"))
    if not isinstance(view, np.ndarray | Tensor):
        raise UserError(
            f"Expected an image as a path, a Pillow image, an array or a tensor, but got {type(view).__name__}."
        )
    values = torch.tensor(view) if isinstance(view, np.ndarray) else view  # a copy: Pillow's arrays are read-only
    values = values[None] if values.dim() == 2 else values
    if values.dtype != torch.uint8 or values.dim() != 3 or len(values) != 1 or not values.numel():
        raise UserError(f"Expected gray values (H, W) or (1, H, W) uint8, but got {tuple(view.shape)} {view.dtype}.")
    return values.cpu()
