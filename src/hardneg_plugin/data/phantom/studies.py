"""The built-in data set: procedural chest studies with known findings and places."""

import mmap
from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hardneg_plugin.data.phantom.findings import Finding, canonical
from hardneg_plugin.data.phantom.reading import read_findings
from hardneg_plugin.data.phantom.regimes import REGIMES, Regime, Statements
from hardneg_plugin.data.phantom.regions import region_boxes
from hardneg_plugin.data.phantom.render import VIEWS, Mark, Stream, find_marks, render
from hardneg_plugin.data.studies import SPLITS, Sample, SplitName
from hardneg_plugin.errors import UserError

SMALLEST = 32
"""Smallest size of the images in pixels."""

SHIFT, EXPOSURE = 0.04, 0.1
"""Largest shift of an augmentation (share of the image's side) and largest change of brightness."""


class PhantomSplit(Dataset[Sample]):
    """One split of `PhantomStudies`: a `Studies` that also knows each study's findings and where they show.

    Args:
        name: the split.
        count: number of studies, >= 0.
        size: height and width of the images in pixels.
        seed: of the whole data set.
        normal_share: probability, in [0, 1], that a study has no finding.
        cache: keep a study's images once drawn, for this process and every worker forked from it.
        boxes: whether samples have `boxes` of the anatomy's regions.
        regime: how studies are drawn and reported.
    """

    def __init__(
        self,
        name: SplitName,
        count: int,
        size: int,
        seed: int,
        normal_share: float,
        cache: bool,
        boxes: bool = False,
        regime: Regime = REGIMES["uniform"],
    ) -> None:
        self.size, self.seed, self.normal_share, self.regime = size, seed, normal_share, regime
        # Each split numbers its studies from another start, so that splits never share one, whatever their lengths.
        self.first = SPLITS.index(name) << 32
        self.ids: Sequence[str] = [f"phantom-{name}-{index:06d}" for index in range(count)]
        draws = [default_rng((*self._stream(index), 0)) for index in range(count)]
        self.findings: Sequence[frozenset[Finding]] = [regime.draw(rng, normal_share) for rng in draws]
        """The findings of each study, which its images show."""
        written = [regime.write(*pair) for pair in zip(self.findings, draws, strict=True)]
        self.statements: Sequence[Statements] = [statements for statements, _ in written]
        """What the report says of each finding of its study."""
        self.reports: Sequence[str] = [report for _, report in written]
        self._cache = _SharedImages(count, size) if cache else None
        self._boxes = boxes

    @property
    def patients(self) -> Sequence[str | None]:
        """Every study has another patient."""
        return self.ids

    @property
    def labels(self) -> Sequence[str | None]:
        """As the samples' `labels`."""
        return [canonical(findings) for findings in self.findings]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The study at an index; with `(index, seed)`, shifted and exposed a little differently, as drawn by the seed."""
        index, seed = key if isinstance(key, tuple) else (key, None)
        index = range(len(self))[index]
        images = self._cache.get(index) if self._cache else None
        if images is None:
            images = torch.from_numpy(render(self._stream(index), self.findings[index], self.size)).unsqueeze(1)
            if self._cache:
                self._cache.put(index, images)
        shifts = np.zeros((len(VIEWS), 2), np.int64)
        if seed is not None:
            images, shifts = _augmented(images, default_rng(seed))
        sample = Sample(
            id=self.ids[index],
            images=images,
            report=self.reports[index],
            patient=self.ids[index],
            labels=canonical(self.findings[index]),
        )
        if self._boxes:
            boxes = region_boxes(self._stream(index), self.findings[index], self.size)
            moved = boxes + np.tile(shifts, 2)[:, None] / self.size
            sample["boxes"] = torch.from_numpy(moved.astype(np.float32))
        return sample

    def marks(self, index: int) -> list[Mark]:
        """Where each finding of a study shows, by view: its box `(y0, x0, y1, x1)` and its mask `(H, W)`.

        Every finding has a mark in the frontal view, and one in the lateral view if it shows there. Marks are without
        augmentation.
        """
        index = range(len(self))[index]
        return find_marks(self._stream(index), self.findings[index], self.size)

    def _stream(self, index: int) -> Stream:
        return self.seed, self.first + index


class PhantomStudies:
    """Procedural chest studies without any file: a frontal and a lateral view, a report, and known findings.

    The same arguments give the same studies in every process; a longer split begins with the studies of a shorter one.

    Args:
        train, val, test: number of studies of each split, >= 0.
        size: height and width of the images in pixels, >= 32.
        seed: another seed gives another population; >= 0.
        normal_share: share of the studies without any finding, in [0, 1]; None: the usual one of the regime.
        cache: keep images once drawn: 2 * size² bytes a study, shared by the workers of a data loader.
        boxes: samples also have `boxes` of the anatomy's regions (`REGIONS`).
        regime: "uniform", all findings equally often, each stated, in random wording; or "clinic", findings and reports as
            in a clinic: few and rare findings, a few readers who repeat themselves, findings that are hedged or left out.

    Raises:
        UserError: an argument is out of its range.

    >>> studies = PhantomStudies(train=3, size=32).split("train")
    >>> studies[0]["images"].shape, studies.ids[0]
    (torch.Size([2, 1, 32, 32]), 'phantom-train-000000')
    """

    read_findings = staticmethod(read_findings)

    def __init__(
        self,
        train: int = 2000,
        val: int = 250,
        test: int = 500,
        size: int = 128,
        seed: int = 0,
        normal_share: float | None = None,
        cache: bool = True,
        boxes: bool = False,
        regime: str = "uniform",
    ) -> None:
        if regime not in REGIMES:
            raise UserError(f"PhantomStudies: expected `regime` to be one of {', '.join(REGIMES)}, but got {regime!r}.")
        normal_share = REGIMES[regime].normal_share if normal_share is None else normal_share
        self._counts: dict[SplitName, int] = {"train": train, "val": val, "test": test}
        for name, number in {"train": train, "val": val, "test": test, "size": size, "seed": seed}.items():
            least = SMALLEST if name == "size" else 0
            if number < least:
                raise UserError(f"PhantomStudies: expected `{name}` >= {least}, but got {number}.")
        if not 0 <= normal_share <= 1:
            raise UserError(f"PhantomStudies: expected `normal_share` in [0, 1], but got {normal_share}.")
        self._arguments = (size, seed, normal_share, cache, boxes, REGIMES[regime])
        self._splits: dict[SplitName, PhantomSplit] = {}

    def split(self, name: SplitName) -> PhantomSplit:
        """One split; the same object at every call, so that its images are drawn once."""
        if name not in self._counts:
            raise UserError(f"PhantomStudies: expected a split of {', '.join(self._counts)}, but got {name!r}.")
        if name not in self._splits:
            self._splits[name] = PhantomSplit(name, self._counts[name], *self._arguments)
        return self._splits[name]


class _SharedImages:
    """The images of a split in memory shared by forked workers; two that draw the same study write the same values."""

    def __init__(self, count: int, size: int) -> None:
        self.images = _shared_bytes(count, len(VIEWS), 1, size, size)
        self.done = _shared_bytes(count)

    def get(self, index: int) -> Tensor | None:
        return self.images[index].clone() if self.done[index] else None

    def put(self, index: int, images: Tensor) -> None:
        self.images[index] = images
        self.done[index] = 1  # last, after the images


def _shared_bytes(*shape: int) -> Tensor:
    # An anonymous mapping is shared over a fork like /dev/shm, but without its size limit, and takes pages when written.
    count = int(np.prod(shape))
    return torch.frombuffer(mmap.mmap(-1, max(1, count)), dtype=torch.uint8)[:count].view(shape)


def _augmented(images: Tensor, rng: Generator) -> tuple[Tensor, NDArray[np.int64]]:
    """Shift and expose the images of a study a little, never flip them: sides matter.

    Returns:
        `(V, 1, H, W)` uint8, and the shifts in pixels, `(V, 2)` as (down, right).
    """
    reach = int(SHIFT * images.shape[-1])
    gain = 1 + rng.uniform(-EXPOSURE, EXPOSURE)
    starts = rng.integers(0, 2 * reach + 1, (len(images), 2))
    moved = [
        np.pad(view[0], reach, mode="edge")[dy : dy + view.shape[1], dx : dx + view.shape[2]]
        for view, (dy, dx) in zip(images.numpy(), starts, strict=True)
    ]
    exposed = np.clip(np.stack(moved) * gain + 0.5, 0, 255).astype(np.uint8)
    return torch.from_numpy(exposed).unsqueeze(1), reach - starts
