"""Boxes of anatomical regions in the user's images, for `regions=boxes`."""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.errors import UserError


class BoxTable:
    """Where the anatomical regions are in each view of a study.

    The file has a line of JSON per study: `{"id": "s1", "boxes": [[[top, left, bottom, right], null, ...], ...]}`. It has a list
    per view in the order of the images, each of R boxes in shares of the image's height and width: the same regions in every
    view and study, null where a region is missing. Studies without a line have no boxes.

    Args:
        file: in UTF-8.

    Raises:
        UserError: the file cannot be read, or a line is not of this form; with the line.
    """

    def __init__(self, file: str | Path) -> None:
        if isinstance(file, bool):
            raise UserError(
                "regions=boxes: this data needs a file of boxes: set data.datamodule.source.boxes=boxes.jsonl and regions.count to "
                "the number of regions (docs/DATA.md)."
            )
        self.file = Path(file)
        self.regions = 0
        """R."""
        self._views: dict[str, tuple[int, int]] = {}  # by study: its first view among all, and how many it has
        numbers = array("f")  # millions of boxes: lists of them would take thirty times the memory
        try:
            with self.file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip():
                        self._take(line, f"{self.file}, line {number}", numbers)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"Expected boxes in {self.file}, but it cannot be read ({error}).") from error
        if not self._views:
            raise UserError(f"Expected a line per study in {self.file}, but it is empty.")
        self._boxes = np.frombuffer(numbers, np.float32).reshape(-1, self.regions, 4)

    def of(self, study: str, views: int) -> NDArray[np.float32]:
        """The boxes of a study.

        Args:
            study: its id.
            views: its number of views V.

        Returns:
            `(V, R, 4)`, NaN where there is no box.
        """
        first, _ = self._views.get(study, (-1, views))
        if first < 0:
            return np.full((views, self.regions, 4), np.nan, np.float32)
        return self._boxes[first : first + views]

    def check(self, ids: Sequence[str], views: Sequence[int]) -> None:
        """Check the table against the studies of a data set.

        Args:
            ids: of the studies.
            views: number of views of each.

        Raises:
            UserError: none of the studies has boxes, or one has them for another number of views.
        """
        known = [(study, count) for study, count in zip(ids, views, strict=True) if study in self._views]
        if not known:
            raise UserError(
                f"Expected boxes of studies such as {ids[0]!r} in {self.file}, but got {next(iter(self._views))!r} and "
                f"{len(self._views) - 1} others, none of this data."
            )
        for study, count in known:
            if self._views[study][1] != count:
                raise UserError(
                    f"{self.file}: expected boxes for the {count} views of study {study!r}, but got {self._views[study][1]}. "
                    "Give a list for each view."
                )

    def _take(self, line: str, where: str, numbers: "array[float]") -> None:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: expected a JSON object, but it cannot be read ({error}).") from error
        views = content.get("boxes") if isinstance(content, dict) else None
        if not isinstance(views, list) or not views or type(content.get("id")) not in (str, int):
            raise UserError(
                f'{where}: expected {{"id": a text, "boxes": a list per view}}, but got {line.strip()[:80]!r}.'
            )
        study = str(content["id"])
        if study in self._views:
            raise UserError(f"{where}: expected each study once, but got {study!r} again.")
        self._views[study] = (len(numbers) // max(1, 4 * self.regions), len(views))
        for view in views:
            if not isinstance(view, list) or len(view) != (self.regions or len(view)) or not view:
                raise UserError(
                    f"{where}, study {study!r}: expected a list of {self.regions or 'some'} boxes for each view, as many as "
                    f"in all others, but got {len(view) if isinstance(view, list) else repr(view)}."
                )
            self.regions = len(view)
            for box in view:
                if box is not None and not _is_box(box):
                    raise UserError(
                        f"{where}, study {study!r}: expected [top, left, bottom, right] in shares of the image, in [0, 1], or "
                        f"null, but got {box!r}."
                    )
                numbers.extend([np.nan] * 4 if box is None else box)


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(type(end) in (int, float) for end in box):
        return False
    top, left, bottom, right = box
    return bool(0 <= top < bottom <= 1 and 0 <= left < right <= 1)
