"""The entities that chest X-ray reports mention: how each is written, and where it can be."""

from collections.abc import Mapping
from typing import NamedTuple

SIDES = ("left", "right")
ZONES = ("apical", "upper lobe", "middle lobe", "lower lobe", "basal", "hilar", "lingular", "retrocardiac")
LUNG = (*SIDES, *ZONES)

POSITIONS: Mapping[str, str] = {
    "left": r"left|bilateral\w*|both|bibasilar|biapical",
    "right": r"right|bilateral\w*|both|bibasilar|biapical",
    "apical": r"apex|apices|(?:bi)?apical",
    "upper lobe": r"upper (?:lobes?|lungs?|zones?)",
    "middle lobe": r"(?:middle|mid) (?:lobes?|lungs?|zones?)",
    "lower lobe": r"lower (?:lobes?|lungs?|zones?)",
    "basal": r"bas(?:e|es|al|ilar)|bibasilar",
    "hilar": r"hil(?:um|a|ar)|(?:infra|peri)hilar",
    "lingular": r"lingul\w+",
    "retrocardiac": r"retrocardiac",
}
"""How each position is written: regular expressions, matched as whole words in lower case."""


class Entity(NamedTuple):
    """A finding that a report can mention."""

    name: str
    """As a prompt names it."""
    written: str
    """A regular expression, matched as whole words within one clause, in lower case."""
    positions: tuple[str, ...] = ()
    """Keys of `POSITIONS` where it can be; empty if there is only one place."""


_ENLARGED = r"(?:enlarged|enlargement|prominent|increased in size|dilated)"
_HEART = r"(?:heart|cardiac|cardio-?mediastinal|cardiopericardial|cardiomediastinal)"

ENTITIES: tuple[Entity, ...] = (
    Entity(
        "cardiomegaly",
        rf"cardiomegaly|{_ENLARGED} (?:the )?{_HEART}|"
        rf"{_HEART}(?: (?:size|silhouette|shadow|contours?|is|not|are|appears?|remains?|mildly|moderately|markedly|"
        r"borderline|slightly|"
        rf"stable|stably|top normal|upper limits of normal|at|the|within)){{0,6}} {_ENLARGED}|"
        r"(?:borderline|mild|moderate|enlarged) (?:heart|cardiac) size",
    ),
    Entity("atelectasis", r"atelecta\w+|subsegmental collapse|collapsed? (?:lobe|lung)|lobar collapse", LUNG),
    Entity(
        "pleural effusion",
        r"(?:pleural|parapneumonic|subpulmonic) (?:effusions?|fluid)|(?<!pericardial )effusions?|hydropneumothora\w+",
        SIDES,
    ),
    Entity("pneumothorax", r"(?:hydro)?pneumothora(?:x|ces)", SIDES),
    Entity("consolidation", r"consolidat\w+", LUNG),
    Entity(
        "airspace disease",
        r"air ?-?space (?:disease|opacit\w+|process|consolidations?)|alveolar (?:disease|opacit\w+)",
        LUNG,
    ),
    Entity("opacity", r"opaci(?:ty|ties|fications?)|opacified", LUNG),
    Entity("infiltrate", r"infiltrat\w+", LUNG),
    Entity("pneumonia", r"pneumonias?|bronchopneumonia|pneumonitis", LUNG),
    Entity("pulmonary edema", r"(?:pulmonary|interstitial|alveolar|airspace) (?:o?edema)|o?edema", ()),
    Entity(
        "pulmonary congestion",
        r"(?:vascular|pulmonary|venous|pulmonary vascular|pulmonary venous|central vascular) (?:congestion|engorgement)|"
        r"congest(?:ion|ed)|(?:vascular|cephalad) redistribution|(?:central|lung|pulmonary) vascular\w*(?: \w+){0,2} prominen\w+|"
        r"prominen\w+(?: \w+){0,2} (?:vasculature|vascularity)|vasculature(?: \w+){0,2} (?:engorged|prominent)|engorged",
    ),
    Entity("heart failure", r"(?:congestive )?heart failure|chf"),
    Entity("nodule", r"(?:fibro)?nodul(?:es?|ar)", LUNG),
    Entity("mass", r"mass(?:es)?(?! effect)", LUNG),
    Entity("granuloma", r"granulom\w+", LUNG),
    Entity(
        "calcified granuloma",
        r"calcified (?:\w+ )?granulomas?|granulomas?(?: \w+){0,3} calcifi\w+|calcified (?:\w+ )?nodules?",
        LUNG,
    ),
    Entity("calcification", r"calcifi(?:ed|cations?)|calcium", LUNG),
    Entity(
        "granulomatous disease", r"granulomatous (?:\w+ )?(?:disease|infection|process|changes?|sequelae|exposure)", ()
    ),
    Entity("scarring", r"scar(?:s|ring)?|cicatri\w+|fibrotic (?:changes?|scarring)", LUNG),
    Entity("pulmonary fibrosis", r"(?:pulmonary |interstitial |lung )?fibros[ie]s", LUNG),
    Entity("emphysema", r"emphysem\w+|bullous|bullae?|blebs?", LUNG),
    Entity(
        "chronic obstructive pulmonary disease",
        r"copd|chronic obstructive (?:pulmonary|lung|airways?) disease|obstructive (?:lung|airways?|pulmonary) disease",
    ),
    Entity(
        "hyperinflation",
        r"hyperinflat\w+|hyperexpan\w+|hyperaerat\w+|hyperlucen\w+|"
        r"(?:lungs?|they) (?:are|is) (?:mildly |markedly |slightly )?(?:over)?expanded|"
        r"overinflat\w+|hyperdisten\w+",
    ),
    Entity(
        "low lung volumes",
        r"(?:low|decreased|reduced|diminished|small|shallow|poor)(?: \w+)? (?:lung volumes?|inspiratory (?:effort|"
        r"volumes?)|inspiration|volumes?)|"
        r"lung volumes (?:are |remain )?(?:\w+ )?(?:low|decreased|reduced|diminished)|hypoinflat\w+|hypoventilat\w+|"
        r"underinflat\w+|hypoexpan\w+|hypoaerat\w+",
    ),
    Entity(
        "interstitial disease",
        r"interstitial (?:lung )?(?:disease|markings?|changes?|thickening|opacit\w+|prominence|pattern|infiltrat\w+)|"
        r"reticul\w+|bronchovascular (?:markings|crowding|prominence)|"
        r"(?:increased|prominent|coarse\w*) (?:lung|interstitial|bronchovascular) markings",
    ),
    Entity(
        "pleural thickening",
        r"pleural(?: \w+)? (?:thickening|scarring)|thickening of the(?: \w+)? pleura|thickened pleura|"
        r"apical (?:capping|cap|thickening)",
        SIDES,
    ),
    Entity(
        "blunted costophrenic angle",
        r"blunt\w+(?: \w+){0,4} (?:costophrenic|cp|sulc\w+)|(?:costophrenic|cp)(?: \w+){0,4} blunt\w+",
        SIDES,
    ),
    Entity(
        "elevated hemidiaphragm",
        r"(?:elevat\w+|raised)(?: \w+){0,4} (?:hemi-?)?diaphragms?|"
        r"(?:hemi-?)?diaphragms?(?: \w+){0,3} (?:elevat\w+|raised)|eventration",
        SIDES,
    ),
    Entity(
        "flattened diaphragm",
        r"flatten\w+(?: \w+){0,4} (?:hemi-?)?diaphragms?|(?:hemi-?)?diaphragms?(?: \w+){0,3} flatten\w+",
    ),
    Entity("hiatal hernia", r"hiatal hernias?|hiatus hernias?"),
    Entity(
        "tortuous aorta",
        r"(?:tortuo\w+|ectati\w+|ectasia|unfold\w+|uncoil\w+)(?: \w+){0,5} aorta\w*|"
        r"aort\w+(?: \w+){0,4} (?:tortuo\w+|ectati\w+|ectasia|unfold\w+|uncoil\w+)",
    ),
    Entity(
        "aortic atherosclerosis",
        r"atheroscl\w+|arterioscl\w+|atheromat\w+|(?:aort\w+|arch|vascular)(?: \w+){0,3} calcifi\w+|"
        r"calcifi\w+(?: \w+){0,4} (?:aorta|aortic|arch|knob)",
    ),
    Entity(
        "degenerative changes of the spine",
        r"degenerative(?: \w+){0,6}|spondylo\w+|osteophyt\w+|spurring|dis[ck] (?:space|disease)|"
        r"hypertrophic (?:changes?|spurring)|endplate \w+",
    ),
    Entity(
        "scoliosis",
        r"scolio\w+|(?:levo|dextro)\w*(?:curvature|scoliosis|convex)?|curvature of the(?: \w+)? spine",
        SIDES,
    ),
    Entity("kyphosis", r"kypho\w+"),
    Entity("rib fracture", r"rib(?: \w+){0,3} fractures?|fractures?(?: \w+){0,7} ribs?|rib deformit\w+", SIDES),
    Entity("fracture", r"fractur\w+|compression deformit\w+", SIDES),
    Entity("osteopenia", r"osteopeni\w+|osteoporo\w+|demineraliz\w+"),
    Entity("sternotomy", r"sternotomy|sternal wires?|sternotomies"),
    Entity(
        "surgical clips",
        r"(?:surgical|vascular|cholecystectomy|metallic|mediastinal|axillary) (?:\w+ )?(?:clips?|staples?)|clips",
        SIDES,
    ),
    Entity(
        "pacemaker",
        r"pacemakers?|pacer|pacing|defibrillators?|aicd|icd|(?:cardiac|dual|single)[\w -]{0,20} (?:generator|leads?|device)",
        SIDES,
    ),
    Entity(
        "central line",
        r"(?:left|right) (?:chest|sided) (?:\w+ )?tip|"
        r"(?:central venous|venous|central|picc|subclavian|jugular|ij|dialysis|port-?a-?)(?: \w+){0,2} ?(?:catheters?|"
        r"lines?)|picc|port-?a-?cath\w*|mediport|"
        r"(?:port|catheter)(?: \w+){0,4} (?:tip|svc|superior vena cava)|infusion port|chest port|swan[- ]ganz",
        SIDES,
    ),
    Entity(
        "tube",
        r"(?:endotracheal|nasogastric|enteric|tracheostomy|feeding|chest|et|ng|og) (?:tubes?|cannula)|"
        r"tracheostomy|thoracostomy|tubes?",
        SIDES,
    ),
)
"""What reports of frontal and lateral chest X-rays commonly find."""
