"""The scores of reports as metrics of torchmetrics, to be used without the trainer: `update(preds, target)`."""

from collections.abc import Mapping, Sequence
from typing import Any

from hardneg_plugin.data.report_sections import without_marks
from hardneg_plugin.data.studies import FindingsReader
from hardneg_plugin.data.texts import visible_text
from hardneg_plugin.knowledge.findings import READERS
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.card_metric import CardMetric
from hardneg_plugin.metrics.clinical import ClinicalMetric
from hardneg_plugin.metrics.diversity import diversity
from hardneg_plugin.metrics.findings import Findings, findings_scores
from hardneg_plugin.metrics.findings_by_frequency import frequency_scores
from hardneg_plugin.metrics.informativeness import informativeness
from hardneg_plugin.metrics.peers import Peers
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import means


class TextMetric(CardMetric):
    """The base of metrics over pairs of a generated report and its reference.

    Over several processes the pairs of all are scored together, as one corpus. A sampler that repeats studies, to give every
    process equally many, would count them twice: hand their ids over, and each study counts once.
    """

    def update(self, preds: Sequence[str], target: Sequence[str], ids: Sequence[str] | None = None) -> None:
        """Add B reports.

        Args:
            preds: B generated reports.
            target: B references.
            ids: B study ids; None where no study comes twice.

        Raises:
            ValueError: the numbers differ, or one text comes in place of a list.
        """
        for name, texts in (("preds", preds), ("target", target)):
            if isinstance(texts, str):
                raise ValueError(f"Expected a list of texts as `{name}`, but got the one text {texts[:40]!r}.")
        self.remember(self.ids_of(ids, len(preds)), preds, target)


class CaptionMetric(TextMetric):
    """BLEU-1 to BLEU-4, METEOR, ROUGE-L and CIDEr, as pycocoevalcap computes them.

    Args:
        meteor: whether to compute METEOR, which needs Java.
        as_given: as of `CaptionScores`.

    >>> metric = CaptionMetric()
    >>> metric.update(preds=["no pleural effusion .", "clear lungs ."], target=["no pleural effusion .", "lungs are clear ."])
    >>> scores = metric.compute()
    >>> round(float(scores["BLEU-1"]), 3), round(float(scores["ROUGE-L"]), 3)
    (0.867, 0.779)
    """

    higher_is_better = True

    def __init__(self, *, meteor: bool = False, as_given: bool = False) -> None:
        super().__init__()
        self.scores = CaptionScores(meteor=meteor, as_given=as_given)

    def card_of(self, ids: list[str], *columns: Any) -> ScoreCard:
        """See `CaptionScores`."""
        return self.scores(*(columns if self.scores.as_given else map(_seen, columns)))


class FindingsMetric(TextMetric):
    """Precision, recall and F1 of the findings that reports state, by name and with side and zone; F1 of common and rare ones.

    Args:
        read: "english", the rules for English reports; or a function from a text to its findings, each `(name, attributes)`.

    >>> metric = FindingsMetric()
    >>> metric.update(["Small left effusion.", "Cardiomegaly."], ["Small right effusion.", "Cardiomegaly. No effusion."])
    >>> scores = metric.compute()
    >>> float(scores["findings_F1"]), float(scores["findings_attributes_F1"])  # the effusion is on the wrong side
    (1.0, 0.5)
    """

    higher_is_better = True

    def __init__(self, read: str | FindingsReader = "english") -> None:
        super().__init__()
        self.read = _reader(read)

    def card_of(self, ids: list[str], *columns: Any) -> ScoreCard:
        """See `findings_scores` and `frequency_scores`."""
        findings = _findings(self.read, columns)
        card = findings_scores(*findings)
        card.add(frequency_scores(*findings))
        return card


class InformativenessMetric(TextMetric):
    """What reports gain over reports without findings, by severity: 1 for the references, 0 for normal reports, below 0 for worse.

    Args:
        read: as of `FindingsMetric`.

    >>> metric = InformativenessMetric()
    >>> metric.update(["Left effusion.", "Clear lungs."], ["Right effusion.", "Clear lungs."])
    >>> float(metric.compute()["informativeness"])  # of the effusion the name is right, of name and side
    0.5
    """

    higher_is_better = True

    def __init__(self, read: str | FindingsReader = "english") -> None:
        super().__init__()
        self.read = _reader(read)

    def card_of(self, ids: list[str], *columns: Any) -> ScoreCard:
        """See `informativeness`."""
        return informativeness(*_findings(self.read, columns))


class SpecificityMetric(TextMetric):
    """Share of reports that are closer to their own reference than to those of the 15 studies with the most similar references.

    Args:
        read: as of `FindingsMetric`, to score by stated findings as well ("specificity_findings"); None: by words alone.

    >>> metric = SpecificityMetric()
    >>> metric.update(["left effusion", "left effusion"], ["left effusion", "right effusion"])
    >>> float(metric.compute()["specificity"])
    0.5
    """

    higher_is_better = True

    def __init__(self, read: str | FindingsReader | None = None) -> None:
        super().__init__()
        self.read = None if read is None else _reader(read)

    def card_of(self, ids: list[str], *columns: Any) -> ScoreCard:
        """See `Peers`."""
        generated, references = map(_seen, columns)
        peers = Peers.of(references)
        shares = {"specificity": peers.specificity(generated).tolist()}
        if self.read is not None:
            shares["specificity_findings"] = peers.findings_specificity(*_findings(self.read, columns)).tolist()
        return ScoreCard.of_means(shares)


class DiversityMetric(TextMetric):
    """Shares of distinct reports, words and pairs of words, and the mean number of words; references are not looked at.

    >>> metric = DiversityMetric()
    >>> metric.update(["no effusion .", "no effusion ."], ["no effusion .", "left effusion ."])
    >>> {name: float(value) for name, value in metric.compute().items()}
    {'unique_share': 0.5, 'distinct-1': 0.5, 'distinct-2': 0.5, 'length': 3.0}
    """

    def card_of(self, ids: list[str], *columns: Any) -> ScoreCard:
        """See `diversity`."""
        generated = _seen(columns[0])
        length = means({"length": [len(text.split()) for text in generated]})
        return ScoreCard(values=diversity(generated), statistics=[length])


class ClinicalTextMetric(TextMetric):
    """Any `ClinicalMetric`, such as `CheXbert` or `RadGraph`; rank 0 runs its model, once for all reports.

    Args:
        metric: the metric; `metric.check()` says before a training whether its packages and weights are there.

    >>> class Agreement:
    ...     def check(self): ...
    ...     def __call__(self, generated, references, ids):
    ...         return ScoreCard.of_means({"agreement": [float(a == b) for a, b in zip(generated, references)]})
    >>> metric = ClinicalTextMetric(Agreement())
    >>> metric.update(["clear lungs .", "effusion ."], ["clear lungs .", "no effusion ."])
    >>> float(metric.compute()["agreement"])
    0.5
    """

    def __init__(self, metric: ClinicalMetric) -> None:
        super().__init__()
        self.metric = metric

    def card_of(self, ids: list[str], *columns: Any) -> ScoreCard:
        """See `ClinicalMetric`."""
        generated, references = map(_seen, columns)
        return self.metric(generated, references, ids)


def _seen(texts: Sequence[str]) -> list[str]:
    """Texts as predictions files hold them."""
    return [without_marks(visible_text(text)) for text in texts]


def _reader(read: str | FindingsReader) -> FindingsReader:
    readers: Mapping[str, FindingsReader] = READERS
    if not isinstance(read, str):
        return read
    if read not in readers:
        raise ValueError(f"Expected one of {', '.join(readers)} or a function as `read`, but got {read!r}.")
    return readers[read]


def _findings(read: FindingsReader, columns: Sequence[Sequence[str]]) -> tuple[list[Findings], list[Findings]]:
    generated, references = ([read(text) for text in _seen(texts)] for texts in columns)
    return generated, references
