"""Studies of validation and test that share a report, an image or a patient with training."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from hardneg_plugin.data.studies import SPLITS, SplitName, StudyColumns, StudySource
from hardneg_plugin.functional.match_keys import match_key

ImageKeys = Mapping[SplitName, Sequence[Collection[Hashable]]]
"""By split, for each study the keys of its images: equal images have equal keys."""


@runtime_checkable
class HasImageKeys(Protocol):
    """A source that can tell equal images without decoding them."""

    def image_keys(self) -> ImageKeys:
        """The keys of the images of each study."""
        ...


class SharedStudies(NamedTuple):
    """How many studies of a split have something in common with a study of training."""

    studies: int
    """All of the split."""
    reports: int
    """Those with the same report, but for case and white space."""
    images: int | None
    """Those with the same image in a view; None where images were not compared."""
    patients: int | None
    """Those of the same patient; None where no patients are known."""

    def __str__(self) -> str:
        parts = {"the exact report": self.reports, "an image": self.images, "the patient": self.patients}
        told = [f"{count} {what}" for what, count in parts.items() if count]
        return f"{', '.join(told)} of a training study" if told else "nothing"


def shared_with_training(
    splits: Mapping[SplitName, StudyColumns], image_keys: ImageKeys | None = None
) -> dict[SplitName, SharedStudies]:
    """What validation and test have in common with training.

    Args:
        splits: all three.
        image_keys: of their studies; None: images are not compared.
    """
    train = splits["train"]
    reports, patients = set(map(_key, train.reports)), {patient for patient in train.patients if patient is not None}
    images = {key for keys in image_keys["train"] for key in keys} if image_keys is not None else set()
    found: dict[SplitName, SharedStudies] = {}
    for name in SPLITS[1:]:
        split = splits[name]
        found[name] = SharedStudies(
            studies=len(split.ids),
            reports=sum(_key(report) in reports for report in split.reports),
            images=None if image_keys is None else sum(not images.isdisjoint(keys) for keys in image_keys[name]),
            patients=sum(patient in patients for patient in split.patients) if patients else None,
        )
    return found


def leakage_of(source: StudySource) -> dict[SplitName, SharedStudies]:
    """What the splits of a data set share with training; images are compared where it can tell them apart cheaply.

    Args:
        source: the data set.

    >>> from hardneg_plugin.data.phantom import PhantomStudies
    >>> leakage_of(PhantomStudies(3, 1, 1, size=32))["test"]
    SharedStudies(studies=1, reports=0, images=None, patients=0)
    """
    keys = source.image_keys() if isinstance(source, HasImageKeys) else None
    return shared_with_training({name: source.split(name) for name in SPLITS}, keys)


def leakage_warning(shared: Mapping[SplitName, SharedStudies]) -> str | None:
    """One line about what is on both sides of the split; None if nothing is.

    Args:
        shared: what `leakage_of` gave.

    >>> print(leakage_warning({"val": SharedStudies(9, 0, 0, None), "test": SharedStudies(64, 13, 2, None)}))
    On both sides of the split: of 64 studies in test 13 the exact report, 2 an image of a training study. Their scores show \
memory as well as skill: split by patient, and leave repeated images out.
    """
    told = [f"of {each.studies} studies in {name} {each}" for name, each in shared.items() if _leaks(each)]
    if not told:
        return None
    if any(each.images or each.patients for each in shared.values()):
        advice = "Their scores show memory as well as skill: split by patient, and leave repeated images out."
    else:
        advice = "Normal reports often repeat; scores of reports that do are no sign of skill."
    return f"On both sides of the split: {'; '.join(told)}. {advice}"


def _leaks(shared: SharedStudies) -> bool:
    return bool(shared.reports or shared.images or shared.patients)


def _key(report: str) -> int:
    return match_key(" ".join(report.lower().split()))
