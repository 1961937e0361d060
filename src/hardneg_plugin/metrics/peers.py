"""Specificity: does a generated report pick its own study among the closest others?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.metrics.findings import Findings, findings_f1
from hardneg_plugin.metrics.records import PredictionRecord, findings_from_json
from hardneg_plugin.metrics.statistics import Floats
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.neighbours.search import ChunkedSearch, NeighbourRule

PEERS = 15
"""Closest other studies that a study is told from: chance is 1/16."""
TIE = 1e-6
"""Similarities this close are equal."""


@dataclass(frozen=True)
class Peers:
    """The closest other studies of each of N, and how similar texts are to the references of all.

    Closest are the references of the highest TF-IDF cosine (words and pairs of words). Left out are matches: studies of the same
    patient, the same text, or the same label set, which nobody could tell apart.
    """

    index: NDArray[np.int64]
    """`(N, 15)`, closest first; -1 where there are fewer."""
    _vectorizer: Any
    _references: Any  # (N, terms), sparse

    @classmethod
    def of(
        cls,
        references: Sequence[str],
        patients: Sequence[str | None] | None = None,
        labels: Sequence[str | None] | None = None,
    ) -> "Peers":
        """The peers of N studies among themselves.

        Args:
            references: N texts.
            patients: N patient identifiers; None where unknown.
            labels: N canonical label sets; None where unknown.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer  # a second to import

        # every word counts, "no" and single digits included; a text without words resembles no other
        vectorizer = TfidfVectorizer(token_pattern=r"(?u)\S+", ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
        if not any(text.split() for text in references):
            return cls(np.full((len(references), PEERS), -1, dtype=np.int64), None, None)
        rows = vectorizer.fit_transform(references).tocsr()
        rows.sort_indices()
        rule = NeighbourRule(groups_of(references, patients, labels), k=PEERS)
        return cls(ChunkedSearch()(rows, rule).index, vectorizer, rows)

    @classmethod
    def of_records(cls, records: Sequence[PredictionRecord]) -> "Peers":
        """The peers of the studies of a predictions file."""
        return cls.of(
            [record["reference"] for record in records],
            [record.get("patient") for record in records],
            [record.get("labels") for record in records],
        )

    def specificity(self, generated: Sequence[str]) -> Floats:
        """Whether each of N generated texts is closer to its own reference than to those of all its peers: `(N,)`, see `picks`."""
        if self._vectorizer is None:
            return np.full(len(self.index), np.nan)
        texts = self._vectorizer.transform(generated)
        own = np.asarray(texts.multiply(self._references).sum(axis=1)).reshape(-1)
        others = [
            np.asarray(texts.multiply(self._references[column]).sum(axis=1)).reshape(-1)
            for column in np.maximum(self.index, 0).T
        ]
        return self.picks(own, np.stack(others, axis=1))

    def findings_specificity(self, generated: Sequence[Findings], references: Sequence[Findings]) -> Floats:
        """The same by what the texts state: by F1 of findings with all attributes."""
        own = [findings_f1(*pair)[1] for pair in zip(generated, references, strict=True)]
        others = [
            [findings_f1(text, references[peer])[1] for peer in peers]
            for text, peers in zip(generated, np.maximum(self.index, 0), strict=True)
        ]
        return self.picks(np.array(own), np.array(others).reshape(len(own), PEERS))

    def picks(self, own: Floats, others: Floats) -> Floats:
        """Whether each study's own similarity `(N,)` is the highest among its peers' `(N, 15)`.

        1 if so, 1/n if it shares the highest with n - 1 peers, so that a text that tells nothing scores at chance; else 0. NaN
        where a study has no peers.
        """
        others = np.where(self.index >= 0, others, -np.inf)
        highest = np.maximum(own, others.max(axis=1))
        share = 1 / (1 + (others >= highest[:, None] - TIE).sum(axis=1))
        return np.where((self.index >= 0).any(axis=1), np.where(own >= highest - TIE, share, 0.0), np.nan)


def stated_findings(records: Sequence[PredictionRecord]) -> tuple[list[Findings], list[Findings]] | None:
    """What the generated texts and the references state; None unless it is known of all."""
    if not all("findings" in record for record in records):
        return None
    sides = ("generated", "reference")
    generated, references = ([findings_from_json(record["findings"][side]) for record in records] for side in sides)  # type: ignore[literal-required]
    return generated, references
