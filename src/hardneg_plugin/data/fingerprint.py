"""A short mark of a data set, by which two results can be told to be of the same studies."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from hardneg_plugin.data.studies import SPLITS, Studies, StudySource


@runtime_checkable
class HasImageMarks(Protocol):
    """A split that knows without reading them which images a study has."""

    def image_marks(self) -> Iterator[str]:
        """For each study a text that changes with its images, such as a checksum."""
        ...


def fingerprint(source: StudySource) -> dict[str, Any]:
    """The number of studies of each split, and a hash over their ids, reports, patients, label sets and images.

    Images take part where their split has `image_marks`; none is read.

    Args:
        source: the data set.

    >>> from hardneg_plugin.data.phantom import PhantomStudies
    >>> fingerprint(PhantomStudies(3, 1, 1, size=32))["studies"]
    {'train': 3, 'val': 1, 'test': 1}
    """
    digest = hashlib.sha256()
    studies = {}
    for name in SPLITS:
        split = source.split(name)
        studies[name] = len(split)
        _feed(digest, [name, len(split)])
        for row in zip(*_columns(split), strict=True):
            _feed(digest, row)
    return {"studies": studies, "sha256": digest.hexdigest()}


def _columns(split: Studies) -> Iterator[Sequence[Any] | Iterator[str]]:
    yield from (split.ids, split.reports, split.patients, split.labels)
    if isinstance(split, HasImageMarks):
        yield split.image_marks()


def _feed(digest: Any, values: Sequence[Any]) -> None:
    # repr tells None from a text, and where a text ends
    digest.update(repr(tuple(values)).encode(errors="surrogatepass"))
