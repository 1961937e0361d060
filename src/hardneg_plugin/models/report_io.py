"""From images as people have them to what a generator takes, and from what it decodes to reports that can be read."""

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
"""One image: a file, a Pillow image of 8 bits, or gray values of 0 to 255, `(H, W)` or `(1, H, W)` uint8."""

Images: TypeAlias = "View | Sequence[View | Sequence[View]]"
"""One image, or a list with a study in each place: its image, or the list of its views."""


@dataclass(frozen=True)
class WrittenReport:
    """What a generator wrote about one study; `str(report)` is its text."""

    text: str
    attention: Tensor | None = None
    """`(words, views, rows, columns)`: how much each of the words attended to each patch of each view, by the mean over layers
    and heads; of sum 1 for each word. None unless asked for."""

    def __str__(self) -> str:
        return self.text

    @property
    def words(self) -> list[str]:
        """The words that the rows of `attention` belong to."""
        return self.text.split()

    def views(self) -> list[tuple[int, float]]:
        """For each word the view, from 0, that it attended to most, and what share of its attention that got.

        Raises:
            ValueError: there is no attention; it must be asked for.
        """
        if self.attention is None:
            raise ValueError("Expected a report written with attention=True, but this one has no attention.")
        if not len(self.attention):
            return []
        shares, views = self.attention.sum((2, 3)).max(dim=1)
        return list(zip(views.tolist(), shares.tolist(), strict=True))


def studies_of(images: Images) -> list[list[View]]:
    """The views of each study.

    Raises:
        UserError: a study has no view.
    """
    studies = [
        list(study) if isinstance(study, list | tuple) else [study]
        for study in (images if isinstance(images, list | tuple) else [images])
    ]
    for index, study in enumerate(studies):
        if not study:
            raise UserError(f"Expected at least one view of each study, but study {index} has none.")
    return cast(list[list[View]], studies)


def read_views(study: Sequence[View], size: int) -> Tensor:
    """The views of a study as evaluation sees them: all of each image, `(V, 1, size, size)` uint8.

    Raises:
        UserError: an image cannot be read, or is of no kind that is known.
    """
    return torch.stack([resize_to_square(_gray(view, size), crop=size)[0] for view in study])


def report_of(tokenizer: Tokenizer, tokens: list[int], maps: Tensor | None = None) -> WrittenReport:
    """The report that a row of tokens spells.

    Args:
        tokenizer: that of the generator.
        tokens: words, then zeros.
        maps: `(len(tokens), views, rows, columns)`, the attention with which each was written; None: not asked for.

    Where a word is made of several tokens, its attention is their mean.
    """
    text = tokenizer.decode(tokens)
    if maps is None:
        return WrittenReport(text)
    of_words = tokens_of_words(tokenizer, tokens)
    attention = maps.new_zeros(len(of_words), *maps.shape[1:])
    for word, own in enumerate(of_words):
        if own:
            attention[word] = maps[own].mean(0)
    return WrittenReport(text, attention)


def tokens_of_words(tokenizer: Tokenizer, tokens: list[int]) -> list[list[int]]:
    """For each word that a row of tokens spells the places of its tokens; a word may have none that is its own."""
    rows: list[list[int]] = [[] for _ in tokenizer.decode(tokens).split()]
    begun = 0
    for index in range(len(tokens) if 0 not in tokens else tokens.index(0)):
        words = min(len(tokenizer.decode(tokens[: index + 1]).split()), len(rows))
        # a token that begins no word goes on with the last one; one that begins several counts for each
        for word in range(begun if words > begun else words - 1, words):
            if word >= 0:
                rows[word].append(index)
        begun = max(begun, words)
    return rows


def _gray(view: View, size: int) -> Tensor:
    """`(1, H, W)` uint8."""
    if isinstance(view, str | Path):
        return read_grayscale(Path(view), shorter_side=size)
    if isinstance(view, Image.Image):
        if view.mode.startswith(("I", "F")):
            raise UserError(
                f"Expected an image of 8 bits, but got one of mode {view.mode}, whose range is not known: give the path of "
                "its file, or scale it to 0..255."
            )
        upright = ImageOps.exif_transpose(view)
        # by way of RGBA, as a palette with transparency warns on its way to "L"
        upright = upright.convert("RGBA") if upright.mode == "P" else upright
        view = np.array(upright.convert("L"))
    if not isinstance(view, np.ndarray | Tensor):
        raise UserError(
            f"Expected an image as a path, a Pillow image, an array or a tensor, but got {type(view).__name__}."
        )
    values = torch.tensor(view) if isinstance(view, np.ndarray) else view  # a copy: Pillow's arrays are read-only
    values = values[None] if values.dim() == 2 else values
    if values.dtype != torch.uint8 or values.dim() != 3 or len(values) != 1 or not values.numel():
        raise UserError(
            f"Expected gray values (H, W) or (1, H, W) of 0 to 255 as uint8, but got {tuple(view.shape)} {view.dtype}."
        )
    return values.cpu()
