"""Training studies together with edited copies of their reports, for `edit_margin`."""

from dataclasses import dataclass

import numpy as np

from hardneg_plugin.data.extended_studies import ExtendedStudies
from hardneg_plugin.data.studies import Sample, Studies
from hardneg_plugin.errors import require_count
from hardneg_plugin.knowledge.edits import ReportEditor


@dataclass(frozen=True)
class ReportEdits:
    """How the reports of training studies are edited.

    Args:
        editor: of their kind of text.
        changes: the most findings that are changed, a positive integer.

    >>> from hardneg_plugin.data.phantom import PhantomEdits, PhantomStudies
    >>> studies = ReportEdits(PhantomEdits(), changes=2).beside(PhantomStudies(train=3, size=32).split("train"))
    >>> [text != studies.reports[0] for text in studies[0]["edited"]]
    [True, True]

    Raises:
        UserError: a number out of its range.
    """

    editor: ReportEditor
    changes: int = 3

    def __post_init__(self) -> None:
        require_count(self.changes, "edits.changes")

    def beside(self, studies: Studies) -> "EditedStudies":
        """The studies of a training split, each with edited copies of its report."""
        return EditedStudies(studies, self)


class EditedStudies(ExtendedStudies):
    """A `Studies` whose samples have `edited` copies of their reports; made by `ReportEdits.beside`.

    Args:
        studies: the training split.
        edits: makes the copies.
    """

    def __init__(self, studies: Studies, edits: ReportEdits) -> None:
        super().__init__(studies)
        self._edits = edits

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The study at an index; with `(index, seed)`, under what the seed draws: the augmentation, and the edits."""
        sample = self._studies[key]
        # the last number: other draws than those of paired studies
        random = np.random.default_rng((*reversed(key), 1) if isinstance(key, tuple) else (0, key, 1))
        copies: list[str | None] = []
        for n in range(1, self._edits.changes + 1):
            edited = self._edits.editor(sample["report"], n, random)
            # where a report offers fewer findings, as many as it offers
            copies.append(edited.text if edited is not None else copies[-1] if copies else None)
        return {**sample, "edited": copies}
