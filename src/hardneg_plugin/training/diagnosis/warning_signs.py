"""Signs that a training goes wrong, each told in words with the figures seen and what to do.

A sign is a function from figures to a message, None where all is well. `Watch` says which of them are to be told: after as many
checks in a row as its patience, once per run.
"""

from collections.abc import Mapping
from typing import Any

from hardneg_plugin.training.diagnosis.measures import Exchanged

FEW_STUDIES = 20
"""Below this many studies, equal embeddings and lost comparisons are no sign of anything (as of equal reports)."""
FEW_PAIRS = 4
"""Below this many exchanged studies, words that stay are no sign of anything."""
EQUAL_COSINE = 0.98
"""Mean cosine of all pairs above which embeddings are nearly equal: on average they are less than 12 degrees apart."""
FLAT_DIMENSIONS = 1.05
"""Effective dimensions below which embeddings vary along one line only: a second direction has less than 1/40 of the variance of
the first. Sound ones have few as well, for normal against abnormal is most of what there is: 1.3 to 2.4 on the built-in data."""
FEW_NEGATIVES = 0.5
"""Share of the hard negatives wanted below which most studies train without one."""
MANY_MATCHES = 0.5
"""Share of matches among pairs of different studies above which most of a batch is no contrast."""
HARD = 0.2
"""Hardness from which on a hardened negative should be seen to differ from the mined one."""
NO_BITE = 0.005
"""Difference of mean similarities below which hardening does nothing: at hardness 0.2, a tenth of what it does to a negative that
is 0.25 less similar than the own report."""
CHANCE = 0.6
"""Share of own reports closer than a random one, up to which that is chance: 0.5, and two standard errors of 100 studies."""
LEARNED_GAP = 0.05
"""Cosine by which own reports must be closer than those of others before it is asked why."""
LEAKING_SHARE = 0.1
"""Share of that gap below which the words have next to no part in it."""
IGNORED_SHARE = 0.005
"""Share of words that another image changes below which a decoder writes from its own words alone: 1 in 200, some five reports.
Of trained models on the built-in data it changes 1 in 8."""

PATIENCE = {"few_negatives": 1}
"""Checks in a row until a sign is told, where it is a matter of the data; the others may pass early in training."""
DEFAULT_PATIENCE = 3


def few_negatives(found: float, match_share: float) -> str | None:
    """That most studies have no valid hard negative: `train/negatives_found` and `train/false_negative_share`."""
    if found >= FEW_NEGATIVES and match_share <= MANY_MATCHES:
        return None
    return (
        f"Hard negatives were found for {found:.0%} of what was wanted, and {match_share:.0%} of all pairs of studies in a batch "
        "match (same patient, text or label set): most studies train without a hard negative. Make batches larger, take "
        "negatives=queue or negatives=bank, or leave out what matches too much: label sets of few labels, for one."
    )


def hardening_ineffective(hardness: float, own: float, negative: float, hardened: float, found: float) -> str | None:
    """That hardening leaves negatives as they are: mean similarities z·u, z·n and z·ñ in training, and negatives found."""
    # without negatives both means are 0
    if hardness <= HARD or found < FEW_NEGATIVES or abs(hardened - negative) >= NO_BITE:
        return None
    return (
        f"At hardness {hardness:.2f} the hardened negatives are no harder than the mined ones: mean similarity to the image "
        f"{hardened:.3f} and {negative:.3f}, own reports {own:.3f}. The guard holds them back where the mined negative comes "
        "within hardening.margin of the own report or beats it. Raise weights.alignment or lengthen schedule.warmup, so that own "
        "reports are found first; lower hardening.margin; or leave near-duplicates out by negatives.ceiling."
    )


def equal_embeddings(side: str, studies: int, cosine: float, dimensions: float) -> str | None:
    """That all image or all report embeddings of a split are nearly one (`side`: images or reports)."""
    if studies < FEW_STUDIES or (cosine <= EQUAL_COSINE and dimensions >= FLAT_DIMENSIONS):
        return None
    return (
        f"The embeddings of the {side} have collapsed: over {studies} validation studies the mean cosine of all pairs is "
        f"{cosine:.3f}, and they vary in {dimensions:.2f} effective dimensions. No negative can be told from the own report so. "
        "Raise weights.alignment, lower the learning rate or the hardness (schedule.peak), and see whether the features that "
        "enter the objective differ between studies at all."
    )


def at_chance(share: float, studies: int) -> str | None:
    """That images are no closer to their own report than to a random one."""
    if studies < FEW_STUDIES or share >= CHANCE:
        return None
    return (
        f"The alignment is at chance: for {share:.0%} of {studies} validation studies the own report is closer to the image than "
        "a random other one, and 50% is chance. Raise weights.alignment or the learning rate of the heads, lower the hardness "
        "(schedule.peak) or lengthen its rise (schedule.end), and check that images and reports are of the same studies."
    )


def ignores_text(exchanged: Exchanged) -> str | None:
    """That images are aligned with what the report embedding took from the image, not with its words."""
    text_gap, study_gap = exchanged.text_gap, exchanged.study_gap
    if text_gap is None or study_gap is None or exchanged.pairs < FEW_PAIRS or study_gap < LEARNED_GAP:
        return None
    if text_gap >= LEAKING_SHARE * study_gap:
        return None
    return (
        "The alignment ignores the text: read with the own image, another study's report is as close to it as the own one "
        f"(cosine lower by {text_gap:.3f}), while other studies are lower by {study_gap:.3f}. The decoder's states carry the "
        "image, and the objective is content with that: set model.report_feature=word_embeddings or text_only."
    )


def ignores_image(exchanged: Exchanged) -> str | None:
    """That a decoder writes the same words whatever the image."""
    if exchanged.pairs < FEW_PAIRS or exchanged.image_sensitivity >= IGNORED_SHARE:
        return None
    return (
        f"The generated text ignores the image: with the image of another study, {exchanged.image_sensitivity:.2%} of the "
        f"likeliest next words change over {exchanged.pairs} validation reports. See whether the visual extractor learns "
        "(visual_lr, frozen layers, the range of the images) and whether the images fit their reports; lower the learning rate "
        "of the decoder."
    )


class Watch:
    """Which signs were seen how often in a row, and which have been told; each is told once."""

    def __init__(self) -> None:
        self._in_a_row: dict[str, int] = {}
        self._told: set[str] = set()

    def due(self, signs: Mapping[str, str | None]) -> dict[str, str]:
        """Of what one check saw, by kind, the messages to be told now."""
        told = {}
        for kind, message in signs.items():
            self._in_a_row[kind] = 0 if message is None else self._in_a_row.get(kind, 0) + 1
            is_due = self._in_a_row[kind] >= PATIENCE.get(kind, DEFAULT_PATIENCE)
            if message is not None and is_due and kind not in self._told:
                self._told.add(kind)
                told[kind] = message
        return told

    def state_dict(self) -> dict[str, Any]:
        """So that a resumed run goes on counting and does not tell anything again."""
        return {"in_a_row": dict(self._in_a_row), "told": sorted(self._told)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `state_dict` gave it."""
        self._in_a_row, self._told = dict(state["in_a_row"]), set(state["told"])
