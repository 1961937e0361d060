"""Specificity: whether a generated report fits its own study better than the most similar other studies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardneg_plugin.data.report_sections import without_marks
from hardneg_plugin.metrics.findings import Findings, findings_f1
from hardneg_plugin.metrics.records import PredictionRecord, findings_from_json
from hardneg_plugin.metrics.statistics import Floats
from hardneg_plugin.neighbours.groups import groups_of
from hardneg_plugin.neighbours.search import ChunkedSearch, NeighbourRule

PEERS = 15
"""How many other studies a study is compared with: chance is 1/16."""
TIE = 1e-6
"""Similarities this close are equal: the cosines of equal embeddings differ by rounding in float32."""


@dataclass(frozen=True)
class Peers:
    """The peers of each of N studies: the 15 other studies with the most similar references.

    Similarity is the TF-IDF cosine over words and pairs of words. Matches are left out: studies of the same patient, text or label
    set, which cannot be told apart.

    >>> peers = Peers.of(["no effusion", "left effusion", "right effusion"])
    >>> peers.specificity(["left effusion", "left effusion", ""]).round(2).tolist()  # wrong, right, and no word at all
    [0.0, 1.0, 0.33]
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

        references = [without_marks(text) for text in references]
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
        """Whether each of N generated reports is closer to its own reference than to those of its peers: `(N,)`, see `picks`."""
        if self._vectorizer is None:
            return np.full(len(self.index), np.nan)
        texts = self._vectorizer.transform(map(without_marks, generated))

        def similarity(references: Any) -> Floats:
            return np.asarray(texts.multiply(references).sum(axis=1)).reshape(-1)

        others = [similarity(self._references[column]) for column in np.maximum(self.index, 0).T]
        return self.picks(similarity(self._references), np.stack(others, axis=1))

    def findings_specificity(self, generated: Sequence[Findings], references: Sequence[Findings]) -> Floats:
        """As `specificity`, with the F1 of findings with all attributes as similarity: `(N,)`.

        Args:
            generated: findings of N generated reports.
            references: findings of their references.
        """
        own = [findings_f1(*pair)[1] for pair in zip(generated, references, strict=True)]
        others = [
            [findings_f1(text, references[peer])[1] for peer in peers]
            for text, peers in zip(generated, np.maximum(self.index, 0), strict=True)
        ]
        return self.picks(np.array(own), np.array(others).reshape(len(own), PEERS))

    def picks(self, own: Floats, others: Floats) -> Floats:
        """Whether each study's own similarity is higher than those of its peers, `(N,)`.

        1 if it is, 1/n if it shares the highest with n - 1 peers, so that an uninformative text scores at chance; else 0. NaN
        where a study has no peers.

        Args:
            own: `(N,)`, with the study itself.
            others: `(N, 15)`, with its peers, in the order of `index`.
        """
        others = np.where(self.index >= 0, others, -np.inf)
        highest = np.maximum(own, others.max(axis=1))
        share = 1 / (1 + (others >= highest[:, None] - TIE).sum(axis=1))
        return np.where((self.index >= 0).any(axis=1), np.where(own >= highest - TIE, share, 0.0), np.nan)


def stated_findings(records: Sequence[PredictionRecord]) -> tuple[list[Findings], list[Findings]] | None:
    """The findings of the generated reports and of the references; None unless all records have them."""
    if not all("findings" in record for record in records):
        return None
    sides = ("generated", "reference")
    generated, references = ([findings_from_json(record["findings"][side]) for record in records] for side in sides)  # type: ignore[literal-required]
    return generated, references
