"""From findings to a report: one sentence per finding, among sentences about normal anatomy."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.random import Generator

from hardneg_plugin.data.phantom.findings import Finding, Value

SHORTEST, LONGEST = 10, 60
"""Words of a report, counting full stops."""

WORDS: Mapping[str, Mapping[Value, str]] = {
    "calcified": {False: "noncalcified", True: "calcified"},
    "number": {4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth"},
    "band": {"mid": "mid zone", "base": "base"},
}
"""How a value is written if not as itself."""


def written(key: str, value: Value) -> str:
    """The words of an attribute's value.

    Args:
        key: of the attribute.
        value: of it.
    """
    return WORDS.get(key, {}).get(value, str(value))


PHRASES: Mapping[str, Sequence[str]] = {
    "cardiomegaly": (
        "there is {grade} cardiomegaly",
        "{grade} cardiomegaly is present",
        "the heart is {grade}ly enlarged",
        "the cardiac silhouette is {grade}ly enlarged",
        "{grade} enlargement of the heart is seen",
    ),
    "pleural effusion": (
        "there is a {size} {side} pleural effusion",
        "a {size} pleural effusion is seen on the {side}",
        "{size} {side}-sided pleural effusion is present",
        "the {side} costophrenic angle is blunted by a {size} pleural effusion",
        "a {size} amount of pleural fluid is seen on the {side}",
    ),
    "pneumothorax": (
        "there is a {size} {side} pneumothorax",
        "a {size} pneumothorax is seen on the {side}",
        "{size} {side}-sided pneumothorax is present",
        "a {side} pleural line is seen, with a {size} pneumothorax",
    ),
    "consolidation": (
        "there is focal consolidation in the {lobe} lobe",
        "{lobe} lobe consolidation is present, suspicious for pneumonia",
        "consolidation is seen in the {lobe} lobe",
        "the {lobe} lobe is consolidated",
    ),
    "nodule": (
        "there is a {mm} mm {calcified} nodule in the {side} {zone} zone",
        "a {calcified} nodule of {mm} mm is seen in the {side} {zone} zone",
        "{calcified} nodule in the {side} {zone} zone, measuring {mm} mm",
        "in the {side} {zone} zone there is a {calcified} {mm} mm nodule",
    ),
    "atelectasis": (
        "there is band-like atelectasis in the {side} {band}",
        "band-like atelectasis is seen in the {side} {band}",
        "an opacity in the {side} {band} is consistent with atelectasis",
        "linear atelectasis is present in the {side} {band}",
    ),
    "oedema": (
        "there is pulmonary oedema",
        "perihilar haze is consistent with pulmonary oedema",
        "interstitial oedema is present in both lungs",
        "findings are consistent with interstitial oedema",
    ),
    "hyperinflation": (
        "the lungs are hyperinflated with flattened diaphragms",
        "there is hyperinflation of both lungs",
        "hyperinflation is present, consistent with emphysema",
        "both lungs are hyperinflated",
    ),
    "elevated hemidiaphragm": (
        "the {side} hemidiaphragm is elevated",
        "there is elevation of the {side} hemidiaphragm",
        "elevated {side} hemidiaphragm is seen",
        "elevation of the {side} hemidiaphragm is present",
    ),
    "tortuous aorta": (
        "the aorta is tortuous",
        "there is a tortuous thoracic aorta",
        "tortuosity of the thoracic aorta is seen",
        "the thoracic aorta is tortuous",
    ),
    "scoliosis": (
        "there is scoliosis of the thoracic spine, convex to the {direction}",
        "scoliosis is present, convex to the {direction}",
        "the thoracic spine shows scoliosis to the {direction}",
        "{direction} convex scoliosis is seen",
    ),
    "rib fracture": (
        "there is a fracture of the {side} {number} rib",
        "a {side} {number} rib fracture is seen",
        "the {number} rib on the {side} is fractured",
        "displaced fracture of the {side} {number} rib is present",
    ),
    "pacemaker": (
        "there is a {side}-sided pacemaker",
        "a {side} chest wall pacemaker is present",
        "a pacemaker is seen on the {side}",
        "{side} pacemaker with a lead in the heart",
    ),
    "central line": (
        "there is a {side} central line",
        "a {side}-sided central venous catheter is present",
        "a central line from the {side} is seen",
        "the tip of a {side} central venous catheter is seen",
    ),
}
"""All phrases for each finding; each gives every attribute."""

PLACES: Mapping[str, float] = {
    "central line": 1,
    "pacemaker": 1,
    "cardiomegaly": 2,
    "tortuous aorta": 3,
    "consolidation": 4,
    "nodule": 4,
    "atelectasis": 4,
    "hyperinflation": 4,
    "oedema": 5,
    "pleural effusion": 6,
    "pneumothorax": 6,
    "elevated hemidiaphragm": 7,
    "scoliosis": 8,
    "rib fracture": 8,
}
"""The usual place of each finding in a report: devices, heart, mediastinum, lungs, pleura, diaphragm, bones."""

ORDER_SPREAD = 1.0
"""Standard deviation of a sentence around its usual place: neighbours often swap, distant sentences seldom."""

LUNG_FINDINGS = frozenset({"consolidation", "nodule", "atelectasis", "oedema", "hyperinflation"})
PLEURAL_FINDINGS = frozenset({"pleural effusion", "pneumothorax"})

NORMAL: Sequence[tuple[float, frozenset[str], Sequence[str]]] = (
    (2, frozenset({"cardiomegaly"}), (
        "the heart is normal in size",
        "heart size is normal",
        "the heart is not enlarged",
        "the cardiac silhouette is within normal limits",
        "no cardiomegaly",
    )),
    (3, frozenset({"tortuous aorta"}), (
        "the mediastinum is unremarkable",
        "mediastinal contours are normal",
        "the thoracic aorta is normal",
        "the aorta is not tortuous",
    )),
    (4, LUNG_FINDINGS | PLEURAL_FINDINGS, (
        "the lungs are clear",
        "both lungs are clear without consolidation, pleural effusion or pneumothorax",
        "no focal consolidation, pleural effusion or pneumothorax is seen",
        "there is no consolidation, pneumothorax or pleural effusion",
    )),
    (4, LUNG_FINDINGS, (
        "there is no focal consolidation or nodule",
        "no nodule or consolidation is identified",
        "the lungs are well expanded without consolidation",
    )),
    (6, frozenset({"pleural effusion"}), (
        "no pleural effusion",
        "there is no pleural effusion",
        "the costophrenic angles are clear",
        "pleural effusion is not seen",
    )),
    (6, frozenset({"pneumothorax"}), (
        "no pneumothorax",
        "there is no pneumothorax",
        "no pneumothorax is identified",
        "pneumothorax is not seen",
    )),
    (5, frozenset({"oedema"}), (
        "pulmonary vascularity is normal",
        "there is no pulmonary oedema",
        "the pulmonary vascularity is within normal limits",
        "no interstitial oedema is seen",
    )),
    (8, frozenset({"scoliosis", "rib fracture"}), (
        "the bones are unremarkable",
        "no rib fracture is seen",
        "the thoracic spine is normal, without scoliosis",
        "there is no fracture of the ribs",
    )),
    (7, frozenset({"elevated hemidiaphragm", "hyperinflation"}), (
        "the diaphragms are normal in contour",
        "no elevation of the hemidiaphragm is seen",
        "both diaphragms are unremarkable",
    )),
    (1, frozenset({"pacemaker", "central line"}), (
        "no pacemaker or central line is present",
        "there is no central venous catheter",
    )),
    (9, frozenset(PHRASES), (
        "no acute cardiopulmonary abnormality",
        "no evidence of acute disease",
        "normal chest",
    )),
    (0, frozenset(), (
        "frontal and lateral views of the chest were obtained",
        "two views of the chest are provided",
        "comparison is made to the prior study",
        "no prior study is available for comparison",
    )),
    (8, frozenset(), (
        "the trachea is midline",
        "the visualized soft tissues are unremarkable",
        "no free air is seen below the diaphragm",
        "the upper abdomen is unremarkable",
    )),
)  # fmt: skip
"""Normal sentences: usual place, findings that must be absent, and phrases. A report has at most one sentence of each row."""


def _sentence(phrases: Sequence[str], rng: Generator, **words: str) -> str:
    text = phrases[int(rng.integers(len(phrases)))].format(**words)
    return text[0].upper() + text[1:] + "."


def say(found: Finding, rng: Generator) -> str:
    """One sentence that states a finding.

    Args:
        found: a finding with all of its attributes.
        rng: draws the phrase.
    """
    words = {key: written(key, value) for key, value in found.attributes}
    return _sentence(PHRASES[found.name], rng, **words)


def count_words(text: str) -> int:
    """Number of words separated by spaces; each full stop counts as a word."""
    return len(text.replace(".", " . ").split())


def write_report(findings: Collection[Finding], rng: Generator) -> str:
    """A report of 10 to 60 words that states exactly these findings.

    Args:
        findings: each with all of its attributes.
        rng: draws wording, normal sentences and order.
    """
    sentences = [say(found, rng) for found in sorted(findings)]
    places = [PLACES[found.name] for found in sorted(findings)]
    length = sum(map(count_words, sentences))
    wanted = rng.integers(22, LONGEST)
    names = {found.name for found in findings}
    rows = [(place, phrases) for place, absent, phrases in NORMAL if names.isdisjoint(absent)]
    for row in rng.permutation(len(rows)):
        place, phrases = rows[row]
        sentence = _sentence(phrases, rng)
        if length < SHORTEST or length + count_words(sentence) <= wanted:
            sentences.append(sentence)
            places.append(place)
            length += count_words(sentence)
    order = np.argsort(np.array(places) + ORDER_SPREAD * rng.standard_normal(len(places)))
    return " ".join(sentences[i] for i in order)
