"""How much a finding matters to the patient: the weights of `informativeness`."""

from collections.abc import Hashable, Mapping

URGENT, NOTABLE, INCIDENTAL = 1.0, 0.5, 0.25

URGENCY: Mapping[str, float] = dict.fromkeys(
    (
        "pneumothorax", "pleural effusion", "consolidation", "airspace disease", "infiltrate", "pneumonia",
        "pulmonary edema", "oedema", "heart failure", "mass",
    ),
    URGENT,
) | dict.fromkeys(
    (
        "cardiomegaly", "atelectasis", "opacity", "pulmonary congestion", "nodule", "pulmonary fibrosis", "emphysema",
        "chronic obstructive pulmonary disease", "interstitial disease", "blunted costophrenic angle",
        "elevated hemidiaphragm", "hyperinflation", "rib fracture", "fracture",
    ),
    NOTABLE,
) | dict.fromkeys(
    (
        "granuloma", "calcified granuloma", "calcification", "granulomatous disease", "scarring", "low lung volumes",
        "pleural thickening", "flattened diaphragm", "hiatal hernia", "tortuous aorta", "aortic atherosclerosis",
        "degenerative changes of the spine", "scoliosis", "kyphosis", "osteopenia", "sternotomy", "surgical clips",
        "pacemaker", "central line", "tube",
    ),
    INCIDENTAL,
)  # fmt: skip
"""By finding: may need treatment at once; to be followed up; old, harmless, or a device."""

DEGREES: Mapping[Hashable, float] = {"small": 0.5, "mild": 0.5, "moderate": 1.0, "large": 2.0, "severe": 2.0}
"""What a size or grade multiplies the weight by."""
USUAL_MM = 10
"""The diameter that multiplies it by 1; half and twice as much are the limits."""


def severity(name: str, attributes: Mapping[str, Hashable]) -> float:
    """The weight of a finding, > 0: its urgency, times its degree where one is stated, half of that if calcified.

    Args:
        name: of the finding; one that `URGENCY` does not have is `NOTABLE`.
        attributes: values by key; "size", "grade", "mm" and "calcified" count.

    >>> severity("pneumothorax", {"side": "left", "size": "large"}), severity("nodule", {"mm": 6, "calcified": True})
    (2.0, 0.15)
    """
    weight = URGENCY.get(name, NOTABLE)
    for key in ("size", "grade"):
        weight *= DEGREES.get(attributes.get(key), 1.0)
    mm = attributes.get("mm")
    if isinstance(mm, int | float):
        weight *= min(max(mm / USUAL_MM, 0.5), 2.0)
    return weight / 2 if attributes.get("calcified") is True else weight
