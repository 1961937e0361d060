"""The readers of `regime=clinic`: each has fixed normal sentences in a fixed order; a finding replaces one or two of them."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

HEART = ("cardiomegaly",)
AORTA = ("tortuous aorta",)
LUNGS = ("consolidation", "nodule", "atelectasis", "oedema", "hyperinflation")
VESSELS = ("oedema",)
PLEURA = ("pleural effusion", "pneumothorax")
SPACES = ("consolidation", "pleural effusion", "pneumothorax")
ACUTE = ("consolidation", "oedema", "pleural effusion", "pneumothorax", "rib fracture")
BASES = ("elevated hemidiaphragm", "hyperinflation")
BONES = ("scoliosis", "rib fracture")
DEVICES = ("pacemaker", "central line")


@dataclass(frozen=True)
class Reader:
    """Someone who writes reports.

    Args:
        share: of the studies that this reader reads, in [0, 1].
        habit: share of the reports, in [0, 1], in which all normal sentences are the usual ones; the others are dictated freely.
        lines: the normal sentences in order: the findings that rule each out, and its wordings, the usual one first:
            "(a|b)" is a or b, "{rest}" names those of its findings that the study does not have.
    """

    share: float
    habit: float
    lines: Sequence[tuple[Sequence[str], str]]


READERS: Sequence[Reader] = (
    Reader(0.19, 0.54, (
        (HEART, "the heart is of normal size"),
        (AORTA, "mediastinal contours are unremarkable"),
        (LUNGS, "both lungs are clear"),
        (PLEURA, "no {rest} is seen"),
    )),
    Reader(0.17, 0.44, (
        (LUNGS,
         "the lungs are (well expanded|well aerated|fully "
         "inflated) and free of focal (disease|change|opacity)"),
        (SPACES, "there is no (evidence|sign|radiographic evidence) of {rest}"),
        (HEART, "(heart size|cardiac size|the size of the heart) is (normal|within the normal range|not increased)"),
        (BONES, "the (imaged|visible) skeleton is (intact|unremarkable|without acute change)"),
    )),
    Reader(0.15, 0.36, (
        ((),
         "(two views|frontal and lateral views|pa and lateral "
         "projections) of the chest (were reviewed|are presented)"),
        (HEART, "the (cardiac|heart) shadow is (not enlarged|normal in width|normal)"),
        (AORTA,
         "the aorta and (hilar structures|both hila) (are of "
         "normal shape|have a normal outline|appear normal)"),
        (VESSELS, "pulmonary vessels are (of normal calibre|normally distributed|not distended)"),
        (LUNGS,
         "(no|without any) (parenchymal|pulmonary) (abnormality|"
         "lesion|change) (is found|on either side|in either lung)"),
        (PLEURA, "(pleural recesses|both pleural recesses|the posterior recesses) are (sharp|free|sharply outlined)"),
        (BASES, "both domes of the diaphragm are (smooth|well defined|in their usual place)"),
        (BONES, "(bony thorax|the bony thorax|thoracic cage) is (unremarkable|intact|normal for age)"),
    )),
    Reader(0.13, 0.31, (
        (HEART, "cardiac silhouette (within normal limits|normal|unremarkable|is normal in appearance)"),
        (SPACES, "(negative for|no) {rest}"),
        (VESSELS, "no (vascular congestion|venous congestion|signs of failure)"),
        (BONES, "no (acute|recent) (bony|osseous|skeletal) (injury|lesion|abnormality)"),
        (ACUTE, "(no acute process|nothing acute|no acute disease in the chest)"),
    )),
    Reader(0.11, 0.27, (
        ((),
         "(examination|this study|the present film) is (compared with|"
         "read beside) the (previous|last|earlier) (one|study|radiograph)"),
        (LUNGS,
         "(lung fields|both lung fields|the airspaces) remain "
         "(clear|free|transparent) (|in all zones|down to the bases)"),
        (AORTA, "mediastinum is (midline|central) (and slender|and of normal width|without widening)"),
        (HEART, "heart (shows a normal|has a normal|keeps its normal) (outline|configuration|transverse diameter)"),
        (PLEURA, "(pleural spaces|pleural cavities) (contain no fluid and no air|are empty|are dry and closed)"),
        (DEVICES, "no (foreign|implanted|surgical) material (is seen|overlies the chest|is projected on the chest)"),
        (ACUTE, "there is (no interval worsening|nothing new|no new finding) (|since then|in between)"),
    )),
    Reader(0.1, 0.22, (
        (HEART,
         "the (transverse|overall) size of the heart lies (within|"
         "inside) (normal limits|the norm|the expected range)"),
        (AORTA,
         "the (thoracic aorta|aortic arch|aortic knob) (has a regular "
         "course|is smooth in outline|is not widened|looks normal)"),
        (LUNGS,
         "(right and left lung|the two lungs) (expand|inflate) (symmetrically|"
         "equally|well) (and show no shadowing|and look clear|without shadowing)"),
        (SPACES, "(specifically|in particular) (no|there is no) {rest} (can be made out|is shown|is demonstrated)"),
        (BASES, "the diaphragm (moves into its normal position|is regular on both sides|has its normal curve)"),
        (BONES,
         "(ribs and spine|the ribs and the dorsal spine|vertebral bodies and "
         "ribs) (are in order|show nothing of note|keep their height and alignment)"),
        ((),
         "(soft tissues|the soft tissues of the chest wall|upper abdominal "
         "structures) (are normal|raise no concern|are not remarkable)"),
    )),
    Reader(0.08, 0.18, (
        ((),
         "(the patient is slightly rotated|the film was taken in good inspiration|"
         "inspiration is adequate|penetration and position are adequate)"),
        (PLEURA, "(there is no|no) (large|layering|free) {rest} (|on this film|on either view)"),
        (LUNGS,
         "lungs (are without infiltrate|appear clear|look well "
         "ventilated|show regular markings) (|throughout|bilaterally)"),
        (HEART, "heart and great vessels (are normal for age|do not stand out|appear age appropriate)"),
        (AORTA,
         "(trachea and mediastinum lie central|the superior "
         "mediastinum is narrow|there is no mediastinal shift)"),
        (BONES,
         "(thoracic spine and shoulders|shoulder girdle and ribs|the vertebral column) "
         "(show age related wear only|are grossly intact|present no destructive lesion)"),
    )),
    Reader(0.07, 0.1, (
        (HEART,
         "(size and shape of the heart|cardiac contours|the "
         "heart borders) are (regular|ordinary|as expected)"),
        (VESSELS,
         "(perfusion of the lungs|the vascular pattern|vascular pedicle "
         "and hila) (is balanced|is normal|follows the usual pattern)"),
        (LUNGS,
         "(I see no|there is no|one finds no) (mass|patchy shadow|coin lesion|airspace "
         "process) (|in the upper, middle or lower fields|on the right or the left)"),
        (PLEURA,
         "(gutters and sinuses|sinuses|lateral and posterior "
         "sinuses) (are open|unfold freely|are deep and dark)"),
        (BASES,
         "(subphrenic|subdiaphragmatic) (region|space) (holds no "
         "free gas|is inconspicuous|shows normal stomach bubble)"),
        (DEVICES, "(no medical devices|nothing implanted|no hardware in place)"),
        (ACUTE, "(overall a normal examination|conclusion: healthy chest|no disease requiring treatment)"),
    )),
)  # fmt: skip
"""Sentences are our own; none is taken from a collection of reports."""


@cache
def wordings(line: str) -> tuple[str, ...]:
    """All wordings of a line of a `Reader`, the usual one first.

    >>> wordings("heart is (normal|not enlarged)")
    ('heart is normal', 'heart is not enlarged')
    """
    parts = [part.split("|") for part in re.split(r"[()]", line)]
    return tuple(" ".join("".join(words).split()) for words in itertools.product(*parts))
