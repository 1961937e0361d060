"""Warning signs of a failing training: messages with the figures and what to do.

A sign is a function from figures to a message, or None if all is well. `WarningTracker` decides when to warn: once per run, after a
number of validations in a row.
"""

from collections.abc import Mapping
from typing import Any

from hardneg_plugin.training.diagnosis.measures import ReportExchange
from hardneg_plugin.training.diagnosis.texts import GRAM, WrittenTexts

FEW_STUDIES = 20
"""Minimum number of studies to warn of equal embeddings or chance."""
FEW_PAIRS = 4
"""Minimum number of exchanged reports to warn of ignored images or text."""
EQUAL_COSINE = 0.98
"""Mean cosine of all pairs above which embeddings are nearly equal: less than 12 degrees apart on average."""
FLAT_DIMENSIONS = 1.05
"""Effective dimensions below which embeddings vary along one line: the second direction has less than 1/40 of the variance of the
first. Healthy embeddings have few, too, as normal against abnormal dominates: 1.3 to 2.4 on the built-in data."""
FEW_NEGATIVES = 0.5
"""Share of requested hard negatives below which most studies train without one."""
MANY_MATCHES = 0.5
"""Share of matches among pairs of different studies above which most of a batch is no negative."""
EFFECTIVE_HARDNESS = 0.2
"""Hardness above which hardened negatives should differ measurably from hard negatives."""
NO_HARDENING = 0.005
"""Difference of mean similarities below which hardening does nothing: at hardness 0.2, a tenth of its effect on a negative that is
0.25 less similar than the positive."""
CHANCE = 0.6
"""Share of positives closer than a random report, below which it is chance: 0.5 plus two standard errors of 100 studies."""
LEARNED_GAP = 0.05
"""Minimum study gap, a cosine, to warn of ignored text: below it nothing is learned yet."""
LEAKING_SHARE = 0.1
"""Share of the study gap that is text gap, below which the text is ignored."""
IGNORED_SHARE = 0.005
"""Image sensitivity below which a decoder ignores the image: 1 token in 200, or in some five reports. Trained models reach 1 in 8
on the built-in data."""

LOST_LIKELIHOOD = 0.1
"""Rise of the report loss on validation over its lowest, in nats per token, above which own reports have become less likely."""
REPEATING = 0.1
"""Share of repeated sequences, above that of the references, beyond which a model repeats itself."""

PATIENCE = {"few_negatives": 1}
"""Validations in a row before a warning, for signs that depend on the data; others may pass early in training."""
DEFAULT_PATIENCE = 3


def few_negatives(found: float, match_share: float) -> str | None:
    """Most studies have no valid hard negative.

    Args:
        found: `train/negatives_found`, in [0, 1].
        match_share: `train/false_negative_share`, in [0, 1].
    """
    if found >= FEW_NEGATIVES and match_share <= MANY_MATCHES:
        return None
    return (
        f"Hard negatives were found for {found:.0%} of the requested ones, and {match_share:.0%} of all pairs of studies in a "
        "batch match (same patient, text or label set): most studies train without a hard negative. Use larger batches, "
        "negatives=queue or negatives=bank, or drop match keys that match too much, such as label sets of few labels."
    )


def hardening_ineffective(
    hardness: float, positive: float, negative: float, hardened: float, found: float
) -> str | None:
    """Hardening leaves negatives as they are.

    Args:
        hardness: mean of the epoch, in [0, 1].
        positive, negative, hardened: mean similarities z·u, z·n and z·ñ in training.
        found: `train/negatives_found`, in [0, 1].
    """
    # without negatives both means are 0
    if hardness <= EFFECTIVE_HARDNESS or found < FEW_NEGATIVES or abs(hardened - negative) >= NO_HARDENING:
        return None
    return (
        f"At hardness {hardness:.2f} hardened negatives are no harder than the hard negatives: mean similarity to the image "
        f"{hardened:.3f} and {negative:.3f}, positives {positive:.3f}. The guard stops hardening where a hard negative is within "
        "hardening.margin of the positive or closer to the image. Raise weights.alignment or lengthen schedule.warmup, so that "
        "positives are aligned first; lower hardening.margin; or exclude near-duplicates by negatives.ceiling."
    )


def equal_embeddings(side: str, studies: int, cosine: float, dimensions: float) -> str | None:
    """All image or all report embeddings of a split are nearly equal.

    Args:
        side: images or reports.
        studies: their number.
        cosine: mean over all pairs.
        dimensions: effective dimensions.
    """
    if studies < FEW_STUDIES or (cosine <= EQUAL_COSINE and dimensions >= FLAT_DIMENSIONS):
        return None
    return (
        f"The embeddings of the {side} have collapsed: over {studies} validation studies the mean cosine of all pairs is "
        f"{cosine:.3f}, and they vary in {dimensions:.2f} effective dimensions, so negatives cannot be told from positives. Raise "
        "weights.alignment, lower the learning rate or the hardness (schedule.peak), and check that the features that enter the "
        "objective differ between studies."
    )


def at_chance(share: float, studies: int) -> str | None:
    """Images are no closer to their positive than to a random report.

    Args:
        share: of studies whose positive is closer, in [0, 1].
        studies: their number.
    """
    if studies < FEW_STUDIES or share >= CHANCE:
        return None
    return (
        f"The alignment is at chance: for {share:.0%} of {studies} validation studies the positive is closer to the image than "
        "a random report, and 50% is chance. Raise weights.alignment or the learning rate of the heads, lower the hardness "
        "(schedule.peak) or raise it more slowly (schedule.end), and check that images and reports belong to the same studies."
    )


def ignores_text(exchange: ReportExchange) -> str | None:
    """Images are aligned with what report embeddings took from the image, not with the text."""
    text_gap, study_gap = exchange.text_gap, exchange.study_gap
    if text_gap is None or study_gap is None or exchange.pairs < FEW_PAIRS or study_gap < LEARNED_GAP:
        return None
    if text_gap >= LEAKING_SHARE * study_gap:
        return None
    return (
        "The alignment ignores the text: another study's report, read with this image, is as close to the image as the positive "
        f"(cosine lower by {text_gap:.3f}), but read with its own image it is not (lower by {study_gap:.3f}). The decoder's states "
        "carry the image, which satisfies the objective: set model.report_feature=word_embeddings or text_only."
    )


def ignores_image(exchange: ReportExchange) -> str | None:
    """The decoder generates the same text for every image."""
    if exchange.pairs < FEW_PAIRS or exchange.image_sensitivity >= IGNORED_SHARE:
        return None
    return (
        f"The generated text ignores the image: with the image of another study, {exchange.image_sensitivity:.2%} of the "
        f"likeliest next tokens change over {exchange.pairs} validation reports. Check that the visual extractor learns "
        "(visual_lr, frozen layers, the range of the images) and that images belong to their reports; lower the learning rate "
        "of the decoder."
    )


def loses_likelihood(loss: float, lowest: float) -> str | None:
    """The own reports become less likely than they were, whatever else is gained.

    Args:
        loss: report loss on validation, in nats per token.
        lowest: of all validations so far.
    """
    if loss <= lowest + LOST_LIKELIHOOD:
        return None
    return (
        f"The validation reports were likelier before: the report loss is {loss:.3f} nats per token, and was {lowest:.3f}. The "
        "model overfits, or token weights and margins cost it the likelihood of its own reports. What reports say may get better "
        "all the same: see val/findings_attributes_F1 and val/specificity. If they fall too, train for fewer epochs, or lower "
        "token_weights.scale or weights.likelihood."
    )


def unusual_length(texts: WrittenTexts) -> str | None:
    """Generated reports are shorter or longer than references are."""
    shortest, longest = texts.usual
    if texts.studies < FEW_STUDIES or shortest <= texts.length <= longest:
        return None
    return (
        f"Generated reports have {texts.length:.1f} words on average, but 80% of the references have {shortest:.0f} to "
        f"{longest:.0f}. Check data.max_length and decoding.length_penalty; with token weights or a margin lower "
        "token_weights.scale or weights.likelihood."
    )


def repeats_itself(texts: WrittenTexts) -> str | None:
    """Generated reports say the same several times, and references do not."""
    if texts.studies < FEW_STUDIES or texts.repeated <= texts.repeated_in_references + REPEATING:
        return None
    return (
        f"{texts.repeated:.0%} of the sequences of {GRAM} words in generated reports were in their report before, and "
        f"{texts.repeated_in_references:.0%} of those in references. Early in training this is normal; later set "
        f"decoding.no_repeat_ngram_size={GRAM}, or lower token_weights.scale or weights.likelihood."
    )


class WarningTracker:
    """Counts signs in a row, and warns of each once.

    >>> tracker = WarningTracker()
    >>> [list(tracker.due({"at_chance": "message"})) for validation in range(4)]
    [[], [], ['at_chance'], []]
    """

    def __init__(self) -> None:
        self._in_a_row: dict[str, int] = {}
        self._warned: set[str] = set()

    def due(self, signs: Mapping[str, str | None]) -> dict[str, str]:
        """The messages to issue now, by kind, given the signs of one validation."""
        messages = {}
        for kind, message in signs.items():
            self._in_a_row[kind] = 0 if message is None else self._in_a_row.get(kind, 0) + 1
            is_due = self._in_a_row[kind] >= PATIENCE.get(kind, DEFAULT_PATIENCE)
            if message is not None and is_due and kind not in self._warned:
                self._warned.add(kind)
                messages[kind] = message
        return messages

    def state_dict(self) -> dict[str, Any]:
        """Counts and issued warnings, for a resumed run."""
        return {"in_a_row": dict(self._in_a_row), "warned": sorted(self._warned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self._in_a_row, self._warned = dict(state["in_a_row"]), set(state["warned"])
