"""The Lightning data module over any source of studies, and the order in which training sees them."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hardneg_plugin.data.collate import StudyCollator
from hardneg_plugin.data.edited import ReportEdits
from hardneg_plugin.data.loader import TrainingLoader
from hardneg_plugin.data.neighbour_batches import NeighbourBatches
from hardneg_plugin.data.paired import PairedNegatives
from hardneg_plugin.data.studies import Sample, SplitName, Studies, StudySource
from hardneg_plugin.data.token_emphasis import EmphasisedStudies, TokenEmphasis
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.errors import require_count
from hardneg_plugin.knowledge import Knowledge


class SeededShuffle(Sampler[tuple[int, int]]):
    """Shuffled `(index, seed)` keys that follow from `(seed, epoch)` alone.

    The seed of a key draws the augmentation of that study. Neither order nor augmentation uses a global random state, so an
    epoch is the same for any number of workers and after a resume. Lightning calls `set_epoch` before each epoch, also
    through its distributed wrapper (from 2.6.1 on).

    Args:
        size: number of studies.
        seed: >= 0.

    >>> shuffle = SeededShuffle(3)
    >>> [index for index, seed in shuffle] == [index for index, seed in SeededShuffle(3)]
    True
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        require_count(size, "size of a shuffle", "a number of studies >= 0", least=0)
        require_count(seed, "seed of a shuffle", "an integer >= 0", least=0)
        self.size, self.seed, self.epoch = size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, >= 0, of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        # A pair as the seed: with seed + epoch, runs of neighbouring seeds would repeat each other's epochs.
        random = np.random.default_rng((self.seed, self.epoch))
        order, seeds = random.permutation(self.size), random.integers(2**63, size=self.size)
        return zip(order.tolist(), seeds.tolist(), strict=True)


class StudyDataModule(pl.LightningDataModule):
    """Batches of a source of studies: shuffled and augmented for training, in order and whole otherwise.

    Args:
        source: the data set.
        tokenizer: makes the tokenizer from the training reports, such as a partial of `WordTokenizer.from_reports`.
        batch_size: studies per training batch, per process.
        max_length: tokens kept of a report, including the leading and the closing 0; >= 2.
        num_workers: processes that load samples; 0: the training process loads them.
        seed: of order and augmentation, >= 0.
        eval_batch_size: studies per batch of validation, test and prediction; None: `batch_size`.
        pin_memory: page-locked batches, for faster copies to a GPU; None: where CUDA is available.
        edits: edited copies of the reports of training studies, for `edit_margin`; None: none.
        paired: the hard negatives of training batches, for `negatives=paired`; None: none.
        sampler: the order of training studies, where batches are made of neighbours; None: random.
        emphasis: of the tokens of training reports, for `token_weights=by_frequency` and others; None: none.
        knowledge: whose prompts the reports are read for, as `facts` of the batch; None: no `facts`.

    Raises:
        UserError: a number is out of its range.

    >>> from hardneg_plugin.data.phantom import PhantomStudies
    >>> from hardneg_plugin.data.tokenizer import WordTokenizer
    >>> data = StudyDataModule(PhantomStudies(8, 2, 2, size=32), WordTokenizer.from_reports, batch_size=4, max_length=20)
    >>> next(iter(data.train_dataloader()))["images"].shape
    torch.Size([4, 2, 1, 32, 32])
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
        edits: ReportEdits | None = None,
        sampler: NeighbourBatches | None = None,
        emphasis: TokenEmphasis | None = None,
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
            require_count(value, "data", f"`{key}` >= {lowest}", least=lowest)
        self.source = source
        self._make_tokenizer = tokenizer
        self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
        self._max_length, self._seed = max_length, seed
        self._num_workers, self._pin_memory = num_workers, pin_memory
        self._paired, self._edits, self._sampler, self._emphasis = paired, edits, sampler, emphasis
        self._knowledge = knowledge

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Made from the training reports at first access; assign a checkpoint's tokenizer to use that instead."""
        return self._make_tokenizer(self.source.split("train").reports)

    def setup(self, stage: str) -> None:
        """Make the tokenizer and, for training, the paired studies, so that errors show before training starts."""
        _ = self.tokenizer
        if stage == "fit":
            _ = self.training_studies

    @cached_property
    def training_studies(self) -> Studies:
        """The training split, with paired studies, edited reports and emphasis where there are any; made at first access."""
        studies: Studies = self.source.split("train")
        for more in (self._paired, self._edits):
            studies = studies if more is None else more.beside(studies)
        if self._emphasis is None:
            return studies
        return EmphasisedStudies(studies, self._emphasis.fitted(self.source, self.tokenizer), self.tokenizer)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Training studies under `SeededShuffle`, or in groups of neighbours; the last batch may be smaller."""
        studies = self.training_studies
        split = self.source.split("train")
        shuffle = (
            SeededShuffle(len(split), self._seed) if self._sampler is None else self._sampler.shuffle(split, self._seed)
        )
        return TrainingLoader(
            cast(Dataset[Sample], studies),
            batch_size=self._batch_size,
            sampler=shuffle,
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
            # For the workers' seeds: a draw from the global generator would come before or after the seeding of an epoch,
            # depending on whether the run was resumed there, and shift every dropout mask of the epoch.
            "generator": torch.Generator(),
            "pin_memory": torch.cuda.is_available() if self._pin_memory is None else self._pin_memory,
        }
