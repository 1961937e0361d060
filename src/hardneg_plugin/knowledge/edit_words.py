"""The words of edits of English reports: opposite degrees and zones, and how a finding is stated where a report denies it."""

import re
from collections.abc import Mapping, Sequence

OTHER_DEGREES: Mapping[str, Sequence[str]] = {
    "tiny": ("large",),
    "small": ("large",),
    "large": ("small",),
    "minimal": ("severe",),
    "mild": ("severe",),
    "slight": ("marked",),
    "moderate": ("mild", "severe"),
    "marked": ("slight",),
    "severe": ("mild",),
    "minimally": ("markedly",),
    "mildly": ("markedly",),
    "slightly": ("markedly",),
    "moderately": ("mildly", "markedly"),
    "markedly": ("slightly",),
    "severely": ("mildly",),
}
"""What each word of size or severity may turn into."""

DEGREE = re.compile(rf"\b(?:{'|'.join(OTHER_DEGREES)})\b")
SIDE = re.compile(r"\b(?:left|right)\b")
BOTH_SIDES = re.compile(r"\b(?:bilateral\w*|both|bibasilar|biapical)\b")

OTHER_ZONES: Mapping[str, Sequence[str]] = {
    "upper": ("lower",),
    "lower": ("upper",),
    "middle": ("upper", "lower"),
    "mid": ("upper", "lower"),
    "apex": ("base",),
    "apices": ("bases",),
    "apical": ("basilar",),
    "base": ("apex",),
    "bases": ("apices",),
    "basal": ("apical",),
    "basilar": ("apical",),
}
"""What each word of a zone may turn into."""

ZONE = re.compile(
    r"\b(?:(?:upper|lower|middle|mid)(?= (?:lobes?|lungs?|zones?)\b)|apex|apices|apical|bases?|basal|basilar)\b"
)

STATED: Mapping[str, Sequence[str]] = {
    "cardiomegaly": ("the heart is {adverb} enlarged", "there is {degree} cardiomegaly"),
    "pleural effusion": ("there is a {size} {side} pleural effusion", "{size} {side} pleural effusion"),
    "pneumothorax": ("there is a {size} {side} pneumothorax", "{size} {side} pneumothorax is seen"),
    "consolidation": (
        "there is airspace consolidation in the {side} {lobe} lobe",
        "there is consolidation in the {side} {lobe} lobe",
        "{side} {lobe} lobe consolidation",
    ),
    "airspace disease": ("there is {side} {lobe} lobe airspace disease", "airspace disease in the {side} {lobe} lobe"),
    "opacity": (
        "there is an airspace opacity in the {side} {lobe} lobe",
        "there is a focal opacity in the {side} {lobe} lobe",
        "focal opacity in the {side} {lobe} lobe",
    ),
    "infiltrate": ("there is an infiltrate in the {side} {lobe} lobe", "{side} {lobe} lobe infiltrate"),
    "pneumonia": ("there is {side} {lobe} lobe pneumonia", "pneumonia in the {side} {lobe} lobe"),
    "atelectasis": (
        "there is {degree} {side} {lobe} lobe atelectasis",
        "{degree} atelectasis in the {side} {lobe} lobe",
    ),
    "pulmonary edema": ("there is {degree} pulmonary edema", "{degree} pulmonary edema"),
    "pulmonary congestion": (
        "there is {degree} pulmonary vascular congestion",
        "{degree} pulmonary vascular congestion",
    ),
    "heart failure": ("findings of congestive heart failure",),
    "nodule": ("there is a {size} nodule in the {side} {lobe} lobe", "{size} {side} {lobe} lobe nodule"),
    "mass": ("there is a {size} mass in the {side} {lobe} lobe", "{size} {side} {lobe} lobe mass"),
    "rib fracture": ("there is a fracture of a {side} rib",),
    "degenerative changes of the spine": ("there are {degree} degenerative changes of the spine",),
    "scarring": ("there is scarring in the {side} {lobe} lobe", "{side} {lobe} lobe scarring"),
    "pleural thickening": ("there is {degree} {side} pleural thickening",),
    "hyperinflation": ("the lungs are hyperinflated",),
    "interstitial disease": ("there are increased interstitial markings",),
}
"""By entity; each place-holder gets one of `VALUES`. Some name a second entity, too."""

VALUES: Mapping[str, Sequence[str]] = {
    "degree": ("mild", "moderate", "severe"),
    "adverb": ("mildly", "moderately", "markedly"),
    "size": ("small", "moderate", "large"),
    "side": ("left", "right"),
    "lobe": ("upper", "lower"),
}

DENIED = ("there {is_} no {}", "no {}", "no evidence of {}")
PLURAL = re.compile(r"[^is]s(?: of .*)?$")

DENIAL = re.compile(
    r"(?:there (?:is|are) )?(?:no|negative for)(?: (?:definite )?(?:evidence|signs?|findings) (?:of|for|to suggest))? "
)
"""How a sentence begins that does nothing but deny."""

LISTED = re.compile(r",? (?:or|and|nor) |, ")
"""Between the findings that it denies."""

RULES_OUT: Mapping[str, re.Pattern[str]] = {
    "lung": re.compile(
        r"\b(?:lungs?|airspaces?|lung (?:fields|volumes))\b.*\bclear\b|\bclear (?:lungs?|lung fields)\b"
    ),
    "heart": re.compile(
        r"\b(?:heart|cardiac|cardio\w+)\b.*\b(?:normal|unremarkable)\b|\bnormal\b.*\b(?:heart|cardiac|cardio\w+)\b"
    ),
    "any": re.compile(r"\b(?:normal|unremarkable|negative) (?:chest|examination|exam|study)\b|\bno acute\b"),
}
"""Sentences that a stated finding would contradict: one of the lungs, of the heart, or any."""
