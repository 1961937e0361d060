"""How much each token of a training report is emphasised, by the training reports alone.

Made once, before training, from the training split: every rank and a resumed run get the same values, and nothing has to be kept.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.data.extended_studies import ExtendedStudies
from hardneg_plugin.data.neighbour_batches import nearest_studies
from hardneg_plugin.data.studies import Sample, Studies, StudySource
from hardneg_plugin.data.tokenizer import Tokenizer
from hardneg_plugin.errors import UserError, require, require_count, require_number
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.neighbours.search import NeighbourRule

Emphasis = NDArray[np.float32]
Emphasise = Callable[[int, int, Sequence[int]], Emphasis]
"""From a study's index, the seed of its sample and the tokens of its report to the emphasis of each token, in [0, 1]. It can be
pickled, for workers that are spawned."""
Others = Literal["nearest", "random"]


class TokenEmphasis(Protocol):
    """What `StudyDataModule(emphasis=...)` accepts."""

    def fitted(self, source: StudySource, tokenizer: Tokenizer) -> Emphasise:
        """The emphasis for the training studies of a source.

        Args:
            source: of the studies.
            tokenizer: of their reports.
        """
        ...


class EmphasisedStudies(ExtendedStudies):
    """A `Studies` whose samples have the emphasis of each token.

    Args:
        studies: the training split, with or without paired studies.
        emphasise: of the same studies.
        tokenizer: as of the batches.

    >>> from hardneg_plugin.data.phantom import PhantomStudies
    >>> from hardneg_plugin.data.tokenizer import WordTokenizer
    >>> source = PhantomStudies(train=8, size=32)
    >>> tokenizer = WordTokenizer.from_reports(source.split("train").reports, min_count=1)
    >>> emphasise = InverseDocumentFrequency().fitted(source, tokenizer)
    >>> sample = EmphasisedStudies(source.split("train"), emphasise, tokenizer)[0]
    >>> len(sample["emphasis"]) == len(tokenizer.encode(sample["report"]))
    True
    """

    def __init__(self, studies: Studies, emphasise: Emphasise, tokenizer: Tokenizer) -> None:
        super().__init__(studies)
        self._emphasise, self._tokenizer = emphasise, tokenizer

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        """The study at an index; with `(index, seed)`, under what the seed draws."""
        index, seed = key if isinstance(key, tuple) else (key, 0)
        sample = self._studies[key]
        return {**sample, "emphasis": self._emphasise(index, seed, self._tokenizer.encode(sample["report"]))}


@dataclass(frozen=True)
class InverseDocumentFrequency:
    """A token that d of the N training reports have is emphasised by `log(N / d) / log N`: 1 in one report, 0 in all.

    >>> from hardneg_plugin.data.phantom import PhantomStudies
    >>> from hardneg_plugin.data.tokenizer import WordTokenizer
    >>> source = PhantomStudies(train=8, size=32)
    >>> tokenizer = WordTokenizer.from_reports(source.split("train").reports, min_count=1)
    >>> emphasise = InverseDocumentFrequency().fitted(source, tokenizer)
    >>> emphasise(0, 0, [0, *tokenizer.encode(".")[1:-1], 0]).tolist()  # in every report
    [0.0, 0.0, 0.0]
    """

    def fitted(self, source: StudySource, tokenizer: Tokenizer) -> Emphasise:
        """See `TokenEmphasis`."""
        reports = source.split("train").reports
        counts = np.zeros(tokenizer.vocab_size + 1)
        for report in reports:
            counts[_tokens(tokenizer, report)] += 1
        rarity = np.log(len(reports) / counts.clip(1)) / np.log(max(len(reports), 2))
        rarity[0] = 0  # begins and ends every report
        return partial(_of_tokens, rarity.astype(np.float32))


@dataclass(frozen=True)
class FindingWords:
    """A token is emphasised, by 1, if its share of the sentences that state a finding is above `ratio` times that of the others.

    Words that are mostly denied, such as "effusion", are not among them, and others that come with findings are, such as "left".

    Args:
        ratio: > 0.

    Raises:
        UserError: the ratio is out of its range.

    >>> from hardneg_plugin.data.phantom import PhantomStudies
    >>> from hardneg_plugin.data.tokenizer import WordTokenizer
    >>> source = PhantomStudies(train=400, size=32, regime="clinic")
    >>> tokenizer = WordTokenizer.from_reports(source.split("train").reports)
    >>> FindingWords().fitted(source, tokenizer)(0, 0, tokenizer.encode("mild cardiomegaly . no effusion .")).tolist()
    [0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    ratio: float = 5.0

    def __post_init__(self) -> None:
        require_number(self.ratio, "data.emphasis.ratio", "a number > 0", above=0)

    def fitted(self, source: StudySource, tokenizer: Tokenizer) -> Emphasise:
        """See `TokenEmphasis`.

        Raises:
            UserError: no findings can be read, or none are stated.
        """
        read_findings = source.read_findings
        if read_findings is None:
            raise UserError(
                "token_weights=finding_words reads findings out of the training reports, but this data has no reader: set one "
                "(data.datamodule.source.findings=english), or choose token_weights=by_frequency."
            )
        states = np.zeros((2, tokenizer.vocab_size + 1))
        sentences = [0, 0]
        cleaned = map(tokenizer.clean, source.split("train").reports)
        said = Counter(sentence.strip() for report in cleaned for sentence in re.split(r"\.(?=\s|$)", report))
        del said[""]
        for sentence, times in said.items():  # each is read once, however often it comes
            kind = int(bool(read_findings(sentence)))
            states[kind, _tokens(tokenizer, sentence)] += times
            sentences[kind] += times
        if not sentences[1]:
            raise UserError(
                "token_weights=finding_words: expected findings in the training reports, but read none in "
                f"{sentences[0]} sentences. Check that the reader is one for their language, or choose token_weights=by_frequency."
            )
        shares = states / np.maximum(sentences, 1)[:, None]
        emphasised = shares[1] > self.ratio * shares[0]
        emphasised[0] = False
        return partial(_of_tokens, emphasised.astype(np.float32))


@dataclass(frozen=True)
class LackedByOthers:
    """A token is emphasised by the share of k other training reports that lack it. Matches are never among them.

    Args:
        choice: "nearest" of all training reports; or "random", drawn anew for each sample.
        k: reports of each study, >= 1.
        table: of the nearest, as `hardneg-mine` writes it; None: mined at the start by the words of the reports.

    Raises:
        UserError: a value that is not one of these.

    >>> LackedByOthers(choice="random", k=8)
    LackedByOthers(choice='random', k=8, table=None)
    """

    choice: Others = "nearest"
    k: int = 4
    table: str | Path | None = None

    def __post_init__(self) -> None:
        require(self.choice in get_args(Others), "data.emphasis.choice", ", ".join(get_args(Others)), self.choice)
        require_count(self.k, "data.emphasis.k")
        require(
            self.table is None or self.choice == "nearest", "data.emphasis.table", "null for random reports", self.table
        )

    def fitted(self, source: StudySource, tokenizer: Tokenizer) -> Emphasise:
        """See `TokenEmphasis`.

        Raises:
            UserError: the table cannot be read, or is of other studies.
        """
        studies = source.split("train")
        has = [_tokens(tokenizer, report) for report in studies.reports]
        if self.choice == "nearest":
            nearest = nearest_studies(studies, self.k, self.table, "data.emphasis.table")
            return partial(_lacked, has, partial(_listed, nearest))
        rule = NeighbourRule(groups_of(studies.reports, studies.patients, studies.labels), k=self.k)
        return partial(_lacked, has, partial(_drawn, rule, np.arange(len(studies))))


def _of_tokens(emphasis: Emphasis, index: int, seed: int, tokens: Sequence[int]) -> Emphasis:
    of_tokens: Emphasis = emphasis[np.asarray(tokens)]
    return of_tokens


def _lacked(
    has: Sequence[NDArray[np.int32]],
    others: Callable[[int, int], Sequence[int]],
    index: int,
    seed: int,
    tokens: Sequence[int],
) -> Emphasis:
    column = np.asarray(tokens)[:, None]
    lacks = [(column != has[other]).all(1) for other in others(index, seed)]
    share: Emphasis = np.mean(lacks, axis=0, dtype=np.float32) if lacks else np.zeros(len(tokens), np.float32)
    return share


def _listed(nearest: Sequence[Sequence[int]], index: int, seed: int) -> Sequence[int]:
    return nearest[index]


def _drawn(rule: NeighbourRule, everyone: NDArray[np.int64], index: int, seed: int) -> Sequence[int]:
    """`rule.k` of all studies that do not match one."""
    allowed = everyone[~rule.is_match(np.full_like(everyone, index), everyone)]
    # apart from what the seed draws of the images and of paired studies
    random = np.random.default_rng((seed, index, 1))
    found: list[int] = random.choice(allowed, min(rule.k, len(allowed)), replace=False).tolist()
    return found


def _tokens(tokenizer: Tokenizer, text: str) -> NDArray[np.int32]:
    """The different tokens of a text, the 0 of its ends among them."""
    return np.unique(np.array(tokenizer.encode(text), dtype=np.int32))
