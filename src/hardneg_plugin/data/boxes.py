"""Boxes of the anatomy in the images of one's own studies, for `regions=boxes`."""

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.errors import UserError


class BoxTable:
    """Where the regions of the anatomy are in each view of a study.

    The file has a line of JSON per study: `{"id": "s1", "boxes": [[[top, left, bottom, right], null, ...], ...]}`, a list per view
    in the order of its images, in it R boxes in shares of the image's height and width, the same regions in every view and study,
    null for one that is not there. Studies that have no line have no boxes.

    Args:
        file: in UTF-8.

    Raises:
        UserError: it cannot be read, or a line is not of this form; with the line.
    """

    def __init__(self, file: str | Path) -> None:
        if isinstance(file, bool):
            raise UserError(
                "regions=boxes: such data say where boxes are in a file of yours: set data.datamodule.source.boxes=boxes.jsonl and "
                "regions.count to the number of regions (docs/DATA.md)."
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
        """The boxes of a study `(V, R, 4)`, NaN where there is none."""
        first, _ = self._views.get(study, (-1, views))
        if first < 0:
            return np.full((views, self.regions, 4), np.nan, np.float32)
        return self._boxes[first : first + views]

    def check(self, ids: Sequence[str], views: Sequence[int]) -> None:
        """Raise a UserError unless some of these studies have boxes, and those that do have them for all their views."""
        known = [(study, count) for study, count in zip(ids, views, strict=True) if study in self._views]
        if not known:
            raise UserError(
                f"Expected boxes of studies such as {ids[0]!r} in {self.file}, but got those of {next(iter(self._views))!r} and "
                f"{len(self._views) - 1} others: they are of other data."
            )
        for study, count in known:
            if self._views[study][1] != count:
                raise UserError(
                    f"{self.file}: study {study!r} has {count} views in the data, but boxes for {self._views[study][1]}: give a "
                    "list for each."
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
            raise UserError(f"{where}: study {study!r} is there for the second time.")
        self._views[study] = (len(numbers) // max(1, 4 * self.regions), len(views))
        for view in views:
            if not isinstance(view, list) or len(view) != (self.regions or len(view)) or not view:
                raise UserError(
                    f"{where}, study {study!r}: expected a list of {self.regions or 'some'} boxes for each view, as many as "
                    f"elsewhere, but got {len(view) if isinstance(view, list) else repr(view)}."
                )
            self.regions = len(view)
            for box in view:
                if box is not None and not _is_box(box):
                    raise UserError(
                        f"{where}, study {study!r}: expected [top, left, bottom, right] in shares of the image, from 0 to 1, or "
                        f"null, but got {box!r}."
                    )
                numbers.extend([np.nan] * 4 if box is None else box)


def _is_box(box: Any) -> bool:
    if not isinstance(box, list) or len(box) != 4 or not all(type(end) in (int, float) for end in box):
        return False
    top, left, bottom, right = box
    return bool(0 <= top < bottom <= 1 and 0 <= left < right <= 1)
