"""Training studies with further fields in their samples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from hardneg_plugin.data.studies import Sample, Studies


class ExtendedStudies(ABC):
    """A `Studies` with the columns of another, whose samples a subclass extends.

    Args:
        studies: the others.
    """

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self.ids: Sequence[str] = studies.ids
        self.reports: Sequence[str] = studies.reports

    @property
    def patients(self) -> Sequence[str | None]:
        """As the samples' `patient`."""
        return self._studies.patients

    @property
    def labels(self) -> Sequence[str | None]:
        """As the samples' `labels`."""
        return self._studies.labels

    def __len__(self) -> int:
        return len(self._studies)

    @abstractmethod
    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The study at an index; with `(index, seed)`, under what the seed draws."""
