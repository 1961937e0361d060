"""What the names of scores mean, in a line each: shown on pages when one is pointed at."""

import re

from hardneg_plugin.data.report_sections import SECTION_NAMES
from hardneg_plugin.metrics.directions import direction_of

EXPLAINED = {
    r"BLEU-\d": "Word sequences shared with the references, of the whole split.",
    r"METEOR": "Aligned words, stems and synonyms.",
    r"ROUGE-L": "Longest common subsequence with the reference.",
    r"CIDEr": "Word sequences shared with the reference, weighed by rarity.",
    r"findings_precision": "Of the findings that reports state, the share that the references state, by name.",
    r"findings_recall": "Of the findings that references state, the share that the reports state, by name.",
    r"findings_F1": "Findings by name: harmonic mean of precision and recall.",
    r"findings_attributes_(F1|precision|recall)": "Findings with every attribute, such as side and size.",
    r"findings_F1_(common|medium|rare)": "Findings by name, of the third that is this frequent in the references.",
    r"findings_macro_F1": "Mean over findings of the F1 of each.",
    r"informativeness": "What a report gains over a normal one, by severity: 1 the reference, 0 a normal report, below 0 worse.",
    r"specificity": "Share of reports that are closer to their own reference than to those of 15 similar studies; chance is .0625.",
    r"specificity_findings": "The same by stated findings instead of words.",
    r"image_specificity": "Does the report identify its image among those of 15 similar studies, by the model's embeddings?",
    r"(pair_)?R@\d+": "Share of images that find their report among the first, in the whole split.",
    r"r2i_R@\d+": "Share of reports that find their image among the first, in the whole split.",
    r"(pair_)?peers_R@\d+": "Share of images that find their report among it and 15 similar ones.",
    r"peers_r2i_R@\d+": "Share of reports that find their image among it and those of 15 similar studies.",
    r"likelihood_R@1": "Share of images under which the own reference is likelier than those of 15 similar studies.",
    r"likelihood_r2i_R@1": "Share of references that are likelier with the own image than with those of 15 similar studies.",
    r"(|r2i_|peers_|peers_r2i_|likelihood_|likelihood_r2i_)rank": "Place of what belongs to the study; 1 is the first.",
    r"unique_share": "Share of generated reports that differ from all others.",
    r"distinct-\d": "Different word sequences as a share of all that are generated.",
    r"length": "Mean number of words.",
    r"report_loss": "Mean negative log-probability of a token of the references.",
    r"zero_shot_AUROC|pair_zero_shot_AUROC|probe_.*_AUROC": "Area under the ROC curve, the mean over findings; chance is .5.",
    r"pointing_game": "Does the model look inside the box of a finding?",
    r"IoU": "Overlap of where the model looks with the box of a finding.",
    r"Dice": "Overlap of a segmented finding with its mask.",
    r"false_alarms": "Share of studies without a finding in which the model draws one.",
    r"vqa.*": "Accuracy of answers to questions about a study.",
}
"""By regular expression of the whole name."""


def explained(name: str) -> str:
    """What a score means; empty if it is not known.

    >>> explained("unique_share")
    'Share of generated reports that differ from all others.'
    >>> explained("cut/BLEU-4")
    'Word sequences shared with the references, of the whole split. Here against references cut to the maximum length.'
    >>> explained("mine")
    ''
    """
    section, _, of_section = name.partition("/")
    if section in SECTION_NAMES:
        text = explained(of_section)
        return text and f"{text} Of the section {section}, over the studies whose reference has it."
    short = name.removeprefix("cut/")
    text = next((text for pattern, text in EXPLAINED.items() if re.fullmatch(pattern, short)), "")
    if text and direction_of(short) == "lower":
        text = f"{text} Lower is better."
    return f"{text} Here against references cut to the maximum length." if text and short != name else text
