"""The reports of `regime=clinic`: a reader's normal sentences, and what is said of findings in between."""

from collections.abc import Mapping, Sequence

from numpy.random import Generator

from hardneg_plugin.data.phantom.clinic import Statement
from hardneg_plugin.data.phantom.findings import Finding
from hardneg_plugin.data.phantom.grammar import PHRASES, PLACES, count_words, written
from hardneg_plugin.data.phantom.readers import READERS, wordings

LONGEST = 62
"""Words of a report, counting full stops: with begin and end, the 64 tokens of `data.max_length`."""

MORE_PHRASES: Mapping[str, Sequence[str]] = {
    "cardiomegaly": (
        "{grade} cardiac enlargement is noted",
        "the heart appears {grade}ly enlarged for this projection",
        "the cardiac silhouette shows {grade} enlargement relative to the thorax",
    ),
    "pleural effusion": (
        "pleural fluid layers on the {side}, {size} in amount",
        "the {side} sinus is filled by a {size} effusion",
        "{side} pleural effusion of {size} volume obscures the adjacent dome",
    ),
    "pneumothorax": (
        "{size} apical pneumothorax on the {side}",
        "the {side} lung has retracted from the ribs with a {size} pneumothorax",
    ),
    "consolidation": (
        "airspace consolidation occupies the {lobe} lobe",
        "dense consolidation with air bronchograms in the {lobe} lobe",
        "the {lobe} lobe shows patchy consolidation",
    ),
    "nodule": (
        "a solitary {calcified} nodule, {mm} mm across, projects over the {side} {zone} zone",
        "{mm} mm {calcified} nodule is noted within the {side} {zone} zone",
        "incidental {calcified} nodule of {mm} mm in the {side} {zone} zone",
    ),
    "atelectasis": (
        "streaky atelectasis crosses the {side} {band}",
        "subsegmental atelectasis is noted at the {side} {band}",
        "plate-like atelectasis with slight volume loss in the {side} {band}",
    ),
    "oedema": (
        "septal lines and hazy hila indicate pulmonary oedema",
        "interstitial markings are thickened, in keeping with oedema",
        "fluid overload with interstitial oedema",
    ),
    "hyperinflation": (
        "hyperinflation with a wide retrosternal space",
        "the lungs appear hyperinflated, as in chronic airway disease",
        "marked hyperinflation and flat diaphragms",
    ),
    "elevated hemidiaphragm": (
        "asymmetric elevation of the {side} hemidiaphragm",
        "the {side} hemidiaphragm remains elevated, as before",
        "chronic elevation of the {side} hemidiaphragm is again noted",
    ),
    "tortuous aorta": (
        "the descending aorta takes a tortuous course",
        "elongated and tortuous aorta",
        "tortuosity of the aorta, consistent with long-standing hypertension",
    ),
    "scoliosis": (
        "scoliosis toward the {direction} is noted",
        "the dorsal spine deviates, with scoliosis convex to the {direction}",
    ),
    "rib fracture": (
        "healing fracture of the {side} {number} rib",
        "a fracture line runs through the {number} rib on the {side}",
        "cortical step in the {side} {number} rib, consistent with fracture",
    ),
    "pacemaker": (
        "pacemaker generator overlies the {side} chest wall",
        "a pacemaker lies in {side} pectoral position",
    ),
    "central line": (
        "{side} central venous line ends in the superior vena cava",
        "a central catheter enters from the {side} side",
    ),
}
"""Further phrases of each finding, beside those of the grammar; each gives every attribute."""

NOUNS: Mapping[str, str] = {
    "cardiomegaly": "{grade} cardiomegaly",
    "pleural effusion": "{size} {side} pleural effusion",
    "pneumothorax": "{size} {side} pneumothorax",
    "consolidation": "{lobe} lobe consolidation",
    "nodule": "{calcified} {mm} mm nodule in the {side} {zone} zone",
    "atelectasis": "band-like atelectasis in the {side} {band}",
    "oedema": "interstitial oedema",
    "hyperinflation": "hyperinflation of both lungs",
    "elevated hemidiaphragm": "elevated {side} hemidiaphragm",
    "tortuous aorta": "tortuous aorta",
    "scoliosis": "scoliosis of the thoracic spine, convex to the {direction}",
    "rib fracture": "fracture of the {side} {number} rib",
    "pacemaker": "{side} chest wall pacemaker",
    "central line": "{side} central line",
}
STATEMENTS = (
    "there is {noun}",
    "{noun} is noted",
    "{noun} is again seen",
    "note is made of {noun}",
    "stable {noun}",
    "unchanged {noun}",
    "{noun}, new since the earlier film",
    "interval appearance of {noun}",
    "findings include {noun}",
    "redemonstration of {noun}",
)
"""How a reader states any finding, beside its own phrases."""
HEDGES = (
    "possible {noun}",
    "{noun} cannot be excluded",
    "questionable {noun}",
    "{noun} is suspected",
    "{noun} is possible",
)
"""How a reader says that a finding is only possible."""

SPARED = 0.2
"""Share of the normal sentences that a freely dictated report does without."""

BORROWED = 0.6
"""Share of its other normal sentences that are worded as any reader may word them."""


def write_clinic_report(statements: Mapping[Finding, Statement], rng: Generator) -> str:
    """A report of at most 62 words by one of the `READERS`.

    A finding that is stated or hedged replaces the first normal sentence that it rules out, or goes before what is left of
    that sentence, and removes the others. A finding that is left out changes nothing: its normal sentence stands.

    Args:
        statements: what to say of each finding; each finding with all of its attributes.
        rng: draws the reader and the wording.
    """
    reader = READERS[int(rng.choice(len(READERS), p=[reader.share for reader in READERS]))]
    lines = [(about, wordings(line)[0]) for about, line in reader.lines]
    if rng.random() >= reader.habit:
        lines = [(about, _freely(about, line, rng)) for about, line in reader.lines]
    said = {found: how for found, how in statements.items() if how != Statement.LEFT_OUT}
    waiting = sorted(said, key=lambda found: (PLACES[found.name], found))
    normal: list[int] = []  # where a sentence could be spared
    sentences: list[str] = []
    names = {found.name for found in said}
    for about, line in lines:
        here = [found for found in waiting if found.name in about]
        sentences += [dictate(found, said[found], rng) for found in here]
        waiting = [found for found in waiting if found not in here]
        rest = [name for name in about if name not in names]
        if line and (len(rest) == len(about) or ("{rest}" in line and rest)):
            normal.append(len(sentences))
            sentences.append(sentence(line.format(rest=listed(rest))))
    sentences += [dictate(found, said[found], rng) for found in waiting]
    while sum(map(count_words, sentences)) > LONGEST:
        del sentences[normal.pop()]
    return " ".join(sentences)


def _freely(about: Sequence[str], line: str, rng: Generator) -> str:
    """A normal sentence about the same findings: "" for none, one of the reader's own, or one of any reader's."""
    drawn = rng.random(2)
    if drawn[0] < SPARED:
        return ""
    lines = [line]
    if drawn[1] < BORROWED:
        lines = [other for reader in READERS for these, other in reader.lines if these == about]
    among = wordings(lines[int(rng.integers(len(lines)))])
    return among[int(rng.integers(len(among)))]


def dictate(found: Finding, how: Statement, rng: Generator) -> str:
    """One sentence that states a finding or calls it possible.

    Args:
        found: with all of its attributes.
        how: stated or hedged.
        rng: draws the wording.
    """
    words = {key: written(key, value) for key, value in found.attributes}
    noun = NOUNS[found.name].format(**words)
    if how == Statement.HEDGED:
        phrases = [hedge.format(noun=noun) for hedge in HEDGES]
    else:
        own = [*PHRASES[found.name], *MORE_PHRASES[found.name]]
        phrases = [phrase.format(**words, noun=noun) for phrase in (*own, *STATEMENTS)]
    return sentence(phrases[int(rng.integers(len(phrases)))])


def listed(names: Sequence[str]) -> str:
    """ "a", "a or b", "a, b or c"."""
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return text[0].upper() + text[1:] + "."
