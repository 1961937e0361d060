"""What every rank must have alike before a step is made: studies, vocabulary, packages, code and checkpoint."""

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch.distributed as dist

import hardneg_plugin
from hardneg_plugin.apps.shared.nodes import node, of_ranks_in_words
from hardneg_plugin.data.studies import SPLITS, SplitName, Studies, StudySource
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.distributed import of_all_ranks, world_size
from hardneg_plugin.errors import SharedError
from hardneg_plugin.runs.provenance import versions

COLUMNS = ("ids", "reports", "labels", "patients")


@dataclass(frozen=True)
class Inputs:
    """Counts and digests of what a rank has read.

    Args:
        studies: their number in each split.
        columns: a digest of each column of each split.
        vocabulary: its size and a digest.
        versions: of packages, by name.
        code: a digest of the files of this package.
    """

    studies: Mapping[str, int]
    columns: Mapping[tuple[SplitName, str], str]
    vocabulary: tuple[int, str]
    versions: Mapping[str, str]
    code: str

    @classmethod
    def of(cls, source: StudySource, tokenizer: Tokenizer) -> "Inputs":
        """Those of this process; texts are read, images are not.

        Args:
            source: the data set.
            tokenizer: of the reports.
        """
        splits = {name: source.split(name) for name in SPLITS}
        return cls(
            {name: len(split) for name, split in splits.items()},
            {(name, column): _digest(_rows(split, column)) for name, split in splits.items() for column in COLUMNS},
            (tokenizer.vocab_size, _digest([repr(tokenizer.state())])),
            {"Python": platform.python_version(), **versions()},
            _digest_of_code(),
        )


def check_same_inputs(source: StudySource, tokenizer: Tokenizer) -> None:
    """Check that all ranks have the same studies, vocabulary, packages and code; one collective if they do.

    Args:
        source: the data set.
        tokenizer: of the reports.

    Raises:
        SharedError: on all ranks; it says which rank on which node differs from rank 0 in what.
    """
    if world_size() == 1:
        return
    own = Inputs.of(source, tokenizer)
    of_ranks = of_all_ranks(own)
    first = of_ranks[0]
    if all(each == first for each in of_ranks):
        return
    # the same on all ranks, which take part in one broadcast for each
    differing = [key for key in own.columns if any(each.columns[key] != first.columns[key] for each in of_ranks)]
    rows = {key: _from_first([*_rows(source.split(key[0]), key[1])]) for key in differing}
    found = list(differences(own, first))
    for (name, column), expected in rows.items():
        if own.studies[name] == first.studies[name] and own.columns[name, column] != first.columns[name, column]:
            found.append(first_difference(source.split(name), name, column, expected))
    _raise_differences(", ".join(found), "give all nodes the same data and packages")


def check_same_file(path: Path) -> None:
    """Check that all ranks see the same file under a path; one collective.

    Args:
        path: of a checkpoint, the same on all ranks.

    Raises:
        SharedError: on all ranks; it says which rank on which node has another file or none.
    """
    if world_size() == 1:
        return
    own = _digest_of_file(path)
    of_ranks = of_all_ranks(own)
    if any(each != of_ranks[0] for each in of_ranks):
        text = "" if own == of_ranks[0] else f"{'no file' if own is None else 'another file'} {path}"
        _raise_differences(text, "put the run folder on a file system that all nodes share")


def differences(own: Inputs, first: Inputs) -> list[str]:
    """What differs, without the columns of the studies.

    Args:
        own: of a rank.
        first: of rank 0.

    >>> first = Inputs({"val": 6}, {}, (90, "a"), {"torch": "2.10"}, "b")
    >>> differences(Inputs({"val": 4}, {}, (89, "c"), {}, "b"), first)
    ['val has 4 studies instead of 6', 'the vocabulary has 89 tokens instead of 90', 'torch is missing instead of 2.10']
    """
    found = [
        f"{name} has {count} studies instead of {first.studies[name]}"
        for name, count in own.studies.items()
        if count != first.studies[name]
    ]
    if own.vocabulary[0] != first.vocabulary[0]:
        found.append(f"the vocabulary has {own.vocabulary[0]} tokens instead of {first.vocabulary[0]}")
    elif own.vocabulary != first.vocabulary:
        found.append(f"the vocabulary differs, with {own.vocabulary[0]} tokens on both")
    for name in sorted({*own.versions, *first.versions}):
        version, expected = (each.versions.get(name, "missing") for each in (own, first))
        if version != expected:
            found.append(f"{name} is {version} instead of {expected}")
    if own.code != first.code:
        found.append("the code of hardneg_plugin differs")
    return found


def first_difference(split: Studies, name: str, column: str, expected: Sequence[str]) -> str:
    """Where a column of a split first differs from that of rank 0.

    Args:
        split: of this rank.
        name: of the split.
        column: of `COLUMNS`.
        expected: the rows of rank 0, as many.
    """
    own = list(_rows(split, column))
    places = [index for index, (row, other) in enumerate(zip(own, expected, strict=True)) if row != other]
    where = f"{len(places)} {column} of {name} differ, the first at study"
    if column == "ids":
        return f"{where} {places[0] + 1}: {own[places[0]]} instead of {expected[places[0]]}"
    return f"{where} {split.ids[places[0]]!r}"


def _rows(split: Studies, column: str) -> Iterable[str]:
    """A text for each study: its id, or a digest of another column."""
    values = getattr(split, column)
    # repr tells None from a text
    return map(repr, values) if column == "ids" else (_digest([repr(value)]) for value in values)


def _digest(rows: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for row in rows:
        digest.update(row.encode(errors="surrogatepass") + b"\0")
    return digest.hexdigest()


def _digest_of_code() -> str:
    folder = Path(hardneg_plugin.__file__).parent
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _digest_of_file(path: Path) -> str | None:
    digest = hashlib.blake2b(digest_size=8)
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return None
    return digest.hexdigest()


def _raise_differences(text: str, remedy: str) -> NoReturn:
    """Raise one error on all ranks, of what each has found; a collective call."""
    found = of_ranks_in_words(of_all_ranks((node(), text)))
    raise SharedError(f"Ranks differ from rank 0, and nothing was computed: {found}. To go on, {remedy}.")


def _from_first(value: Any) -> Any:
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]
