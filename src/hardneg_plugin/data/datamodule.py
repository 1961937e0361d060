"""The Lightning data module over any source of studies, and the order in which training sees them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.loader import TrainingLoader
from hardneg_plugin.data.paired import PairedNegatives
from hardneg_plugin.data.studies import Sample, SplitName, Studies, StudySource
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge import Knowledge


class SeededShuffle(Sampler[tuple[int, int]]):
    """Shuffled `(index, seed)` keys that follow from `(seed, epoch)` alone.

    The seed of a key draws the augmentation of that study. Since neither order nor augmentation touches a global random
    state, an epoch is the same whatever the number of workers and whether the run was resumed before it. Lightning
    calls `set_epoch` before each epoch, through its distributed wrapper too (from 2.6.1 on).

    Args:
        size: number of studies.
        seed: at least 0.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch, from 0, that the next iteration shuffles for."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # A pair as the seed: seed + epoch would repeat one run's epochs in another's.
        random = np.random.default_rng((self.seed, self.epoch))
        order, seeds = random.permutation(self.size), random.integers(2**63, size=self.size)
        return zip(order.tolist(), seeds.tolist(), strict=True)


class StudyDataModule(pl.LightningDataModule):
    """Batches of a source of studies: shuffled and augmented for training, in order and whole otherwise.

    Args:
        source: the data set.
        tokenizer: makes the tokenizer out of the training reports, such as a partial of `WordTokenizer.from_reports`.
        batch_size: studies per training batch, per process.
        max_length: tokens kept of a report, the leading 0 and the closing 0 included.
        num_workers: processes that load samples; 0 loads in the training process.
        seed: of order and augmentation, at least 0.
        eval_batch_size: studies per batch of validation, test and prediction; None is `batch_size`.
        pin_memory: page-locked batches, for faster copies to a GPU; None is whether CUDA is there.
        paired: the mined hard negatives that training batches carry; None: none.
        knowledge: whose prompts the reports are read for, so that batches say which of them hold; None: none.

    Raises:
        UserError: if a number is out of its range.
    """

    def __init__(
        self,
        source: StudySource,
        tokenizer: Callable[[Sequence[str]], Tokenizer],
        *,
        batch_size: int,
        max_length: int,
        num_workers: int = 0,
        seed: int = 0,
        eval_batch_size: int | None = None,
        pin_memory: bool | None = None,
        paired: PairedNegatives | None = None,
        knowledge: Knowledge | None = None,
    ) -> None:
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        for key, value, lowest in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("max_length", max_length, 2),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < lowest:
                raise UserError(f"Expected `{key}` of at least {lowest}, but got {value}.")
        self.source = source
        self._make_tokenizer = tokenizer
        self._tokenizer: Tokenizer | None = None
        self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
        self._max_length, self._seed = max_length, seed
        self._num_workers, self._pin_memory = num_workers, pin_memory
        self._paired = paired
        self._knowledge = knowledge
        self._training_studies: Studies | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Made of the training reports when first asked for; assign a checkpoint's tokenizer to use that instead."""
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer(self.source.split("train").reports)
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def setup(self, stage: str) -> None:
        """Have the tokenizer and, for training, the mined studies ready, so that a fault shows before anything starts."""
        _ = self.tokenizer
        if stage == "fit":
            _ = self.training_studies

    @property
    def training_studies(self) -> Studies:
        """What training sees: the training split, with its mined studies where there are such; made when first asked for."""
        if self._training_studies is None:
            studies = self.source.split("train")
            self._training_studies = studies if self._paired is None else self._paired.beside(studies)
        return self._training_studies

    def train_dataloader(self) -> DataLoader[Sample]:
        """Training studies under `SeededShuffle`; the last batch may be smaller."""
        studies = self.training_studies
        return TrainingLoader(
            cast(Dataset[Sample], studies),
            batch_size=self._batch_size,
            sampler=SeededShuffle(len(studies), self._seed),
            **self._loading(),
        )

    def val_dataloader(self) -> DataLoader[Sample]:
        """Validation studies in order."""
        return self.in_order("val")

    def test_dataloader(self) -> DataLoader[Sample]:
        """Test studies in order."""
        return self.in_order("test")

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Test studies in order."""
        return self.test_dataloader()

    def in_order(self, split: SplitName) -> DataLoader[Sample]:
        """All studies of a split in order, without augmentation."""
        studies = cast(Dataset[Sample], self.source.split(split))
        return DataLoader(studies, batch_size=self._eval_batch_size, **self._loading())

    def _loading(self) -> dict[str, Any]:
        return {
            "collate_fn": StudyCollator(self.tokenizer, self._max_length, self._knowledge),
            "num_workers": self._num_workers,
            "persistent_workers": self._num_workers > 0,
            # Its own, for the workers' seeds: a draw from the global one would fall before the seeding of an epoch or
            # after it, depending on whether the run was resumed there, and shift every dropout mask of the epoch.
            "generator": torch.Generator(),
            "pin_memory": torch.cuda.is_available() if self._pin_memory is None else self._pin_memory,
        }
