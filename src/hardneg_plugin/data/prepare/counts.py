"""How much was read, kept and dropped on the way to a prepared folder."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.data.studies import SPLITS, SplitName
from hardneg_plugin.errors import UserError
from hardneg_plugin.functional.match_keys import match_key


class PreparationCounts:
    """Counts what was read, kept and dropped."""

    def __init__(self) -> None:
        self.read = 0
        """Entries of the source."""
        self._dropped: Counter[str] = Counter()
        self._studies: Counter[str] = Counter()
        self._views: Counter[str] = Counter()
        self._size = 0
        self._seeded = 0
        self._without_patient = 0  # of those
        self._strays = 0  # studies in another split than the first of their patient: they leak from training to test
        self._split_of: dict[int, SplitName] = {}

    def drop(self, entry: DroppedEntry) -> None:
        """Count a study or view that is left out."""
        self._dropped[entry.reason] += 1

    def add(self, study: OriginalStudy, split: SplitName, *, views: int, size: int) -> None:
        """Count a study that is kept.

        Args:
            study: the study.
            split: where it is put.
            views: number of its views that are stored.
            size: bytes of these.
        """
        self._studies[split] += 1
        self._views[split] += views
        self._size += size
        self._seeded += study.split is None
        self._without_patient += study.split is None and study.patient is None
        if study.patient is not None:
            self._strays += self._split_of.setdefault(match_key(study.patient), split) != split

    def check(self, shares: Mapping[SplitName, float]) -> None:
        """Raise a UserError if a split has no studies; `shares` are those of a seeded split, for the message."""
        kept = self._studies.total()
        if not kept:
            reasons = [f"{count} {reason}" for reason, count in self._dropped.most_common(3)] or ["the source is empty"]
            raise UserError(
                f"Expected usable studies, but got none out of {self.read} ({'; '.join(reasons)}). Check source and section."
            )
        if empty := [name for name in SPLITS if not self._studies[name]]:
            name, remedy = empty[0], "Check the split of the source"
            if self._seeded:
                remedy = f"Set splits.{name} above {shares[name]}, or another seed"
            raise UserError(
                f"Expected studies in every split, but {name} has none of the {kept} that are kept. {remedy}."
            )

    def summary(self) -> dict[str, Any]:
        """The counts."""
        return {
            "read": self.read,
            "kept": {name: {"studies": self._studies[name], "views": self._views[name]} for name in SPLITS},
            "bytes": self._size,
            "split": {"of the source": self._studies.total() - self._seeded, "by the seed": self._seeded},
            "by_the_seed_without_a_patient": self._without_patient,
            "in_another_split_than_their_patient": self._strays,
            "dropped": dict(sorted(self._dropped.items())),
        }
