"""All reports here are made up; their shapes are those that dictated reports come in."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hardneg_plugin.data.downloads.sections import read_sections

USUAL = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___F with cough.  // eval for
 pneumonia

 TECHNIQUE:  Chest PA and lateral

 COMPARISON:  ___.

 FINDINGS:

 The lungs are clear.  There is no effusion
 or pneumothorax.

 The heart is normal.

 IMPRESSION:

 No acute process.
"""
LUNGS = "The lungs are clear. There is no effusion or pneumothorax. The heart is normal."

# What it is: the report, its findings, its impression.
REPORTS = {
    "the usual one": (USUAL, LUNGS, "No acute process."),
    "Windows line ends": (USUAL.replace("\n", "\r\n"), LUNGS, "No acute process."),
    "old Macintosh line ends": (USUAL.replace("\n", "\r"), LUNGS, "No acute process."),
    "tabs instead of spaces": (USUAL.replace(" FIND", "\t\tFIND").replace(" IMP", "\tIMP"), LUNGS, "No acute process."),
    "nothing": ("", "", ""),
    "white space": (" \n\t\r\n ", "", ""),
    "capitalised headers": ("Findings: Clear.\nImpression: Normal.", "Clear.", "Normal."),
    "small letters": ("findings: Clear.\n impression: Normal.", "Clear.", "Normal."),
    "no space after the colon": ("FINDINGS:Clear.\nIMPRESSION:1. Normal.", "Clear.", "1. Normal."),
    "a space before the colon": ("FINDINGS : Clear.\nIMPRESSION  :  Normal.", "Clear.", "Normal."),
    "alone on their lines, no colon": (" FINDINGS\n\n Clear.\n\n IMPRESSION\n Normal.", "Clear.", "Normal."),
    "alone on their lines, capitalised": ("Findings\n\nClear.\n\nImpression\nNormal.", "Clear.", "Normal."),
    "a dash instead of the colon": ("FINDINGS - Clear.\nIMPRESSION -- Normal.", "Clear.", "Normal."),
    "brackets before the colon": (
        "FINDINGS (PA AND LATERAL): Clear.\nIMPRESSION (FINAL): Normal.",
        "Clear.",
        "Normal.",
    ),
    "both under one header": ("FINDINGS AND IMPRESSION: Clear. Normal.", "Clear. Normal.", ""),
    "both with a slash": (" FINDINGS/IMPRESSION:\n Clear.", "Clear.", ""),
    "both the other way round": ("IMPRESSION AND FINDINGS: Clear.", "Clear.", ""),
    "impression in mid-line": ("FINDINGS: Lungs are clear.  IMPRESSION: Normal.", "Lungs are clear.", "Normal."),
    "capitalised in mid-line": ("Findings: Lungs are clear. Impression: Normal.", "Lungs are clear.", "Normal."),
    "all in one line": (
        "INDICATION: Cough. COMPARISON: None. FINDINGS: Clear. IMPRESSION: Normal.",
        "Clear.",
        "Normal.",
    ),
    "the words within sentences": (
        "FINDINGS: These findings were discussed. The clinical impression is unchanged, as in the\nimpression of ___.",
        "These findings were discussed. The clinical impression is unchanged, as in the impression of ___.",
        "",
    ),
    "a colon within a sentence": (
        "FINDINGS: Comparing the findings: no change. In summary: clear.",
        "Comparing the findings: no change. In summary: clear.",
        "",
    ),
    "conclusion": ("FINDINGS: Clear.\nCONCLUSION: Normal.", "Clear.", "Normal."),
    "summary": ("FINDINGS: Clear.\n\n SUMMARY\n\n Normal.", "Clear.", "Normal."),
    "report": ("HISTORY: Cough.\n\nREPORT: Clear.\n\nCONCLUSION: Normal.", "Clear.", "Normal."),
    "views as header": (
        "FINAL REPORT\n CHEST, PA AND LATERAL:\n\n HISTORY: Cough.\n\n PA AND LATERAL CHEST, ___:  Lungs are clear.\n\n"
        " IMPRESSION:  Normal.",
        "Lungs are clear.",
        "Normal.",
    ),
    "views with a time": (" AP CHEST, 5:43 A.M., ___:\n\n Large heart.", "Large heart.", ""),
    "views in small letters": ("Portable chest radiograph:\nLarge heart.", "Large heart.", ""),
    "views do not replace findings": (
        "CHEST TWO VIEWS: Done in the morning.\nFINDINGS: Clear.",
        "Clear.",
        "",
    ),
    "views within an impression": (
        "IMPRESSION:  AP chest compared to ___:\n\n LATERAL: Edema has\n cleared.",
        "",
        "AP chest compared to ___: LATERAL: Edema has cleared.",
    ),
    "organs as headers": (
        "FINDINGS:\n LUNGS: Clear.\n HEART: Normal.\n BONES: Old fractures.\n IMPRESSION: Normal.",
        "LUNGS: Clear. HEART: Normal. BONES: Old fractures.",
        "Normal.",
    ),
    "impression alone": ("INDICATION: Cough.\n\nIMPRESSION: Normal.", "", "Normal."),
    "findings empty": ("FINDINGS:\n\nIMPRESSION: Normal.", "", "Normal."),
    "impression before findings": ("IMPRESSION: Normal.\n\nFINDINGS: Clear.", "Clear.", "Normal."),
    "several findings": ("FINDINGS: A.\nIMPRESSION: B.\nFINDINGS: C.\nIMPRESSION: D.", "A. C.", "B. D."),
    "placeholders": ("FINDINGS: ___ tube, placed on ___, in ___.", "___ tube, placed on ___, in ___.", ""),
    "a line across the page": ("FINDINGS: A.\n ______________________\n B.", "A. B.", ""),
    "a notification after the impression": (
        "IMPRESSION: Pneumothorax.\n\nNOTIFICATION: Told to Dr. ___ at 5:00.\n\nRECOMMENDATION(S):  CT.",
        "",
        "Pneumothorax.",
    ),
    "comparison after findings": ("FINDINGS: Clear.\nCOMPARISON: ___.\nIMPRESSION: Normal.", "Clear.", "Normal."),
    "signatures": (
        "IMPRESSION: Normal.\n\nDictated by: ___, MD\nElectronically signed by ___ on ___",
        "",
        "Normal.",
    ),
    "a reviewer's sentence": (
        "IMPRESSION: Normal.\n\n The study and the report were reviewed by the staff radiologist.",
        "",
        "Normal.",
    ),
    "a name below": ("FINDINGS: Told to\nDr. ___.\n\nDR. ___ ___", "Told to Dr. ___.", ""),
    "a wet read before the final report": (
        " WET READ: ___ ___ ___ 8:45 AM\n  IMPRESSION: Edema.\n __________________\n"
        "                FINAL REPORT\n FINDINGS: Clear.\n IMPRESSION: Normal.",
        "Clear.",
        "Normal.",
    ),
    "a wet read and nothing else": (" WET READ: ___ 8:45 AM\n  No edema.", "", ""),
    "an addendum above": (
        "FINAL ADDENDUM\n ADDENDUM:  The first line ends in the vein.\n __________\n FINAL REPORT\n FINDINGS: Clear.",
        "Clear.",
        "",
    ),
    "an addendum below": ("IMPRESSION: Normal.\n\nADDENDUM: Told to Dr. ___.", "", "Normal."),
    "no header: the last paragraph": (
        "PA AND LATERAL CHEST ON ___\n\nCompared with ___.\n\nLungs are clear.  Heart\nis normal.",
        "Lungs are clear. Heart is normal.",
        "",
    ),
    "no header and one paragraph": ("Lungs are clear.", "Lungs are clear.", ""),
    "the last paragraph after other headers": (
        "FINAL REPORT\n INDICATION: Cough.\n\n COMPARISON:\n\n None.\n\n Lungs are clear.\n\n NOTIFICATION: None.",
        "Lungs are clear.",
        "",
    ),
    "the last paragraph is an indication": ("FINAL REPORT\n CHEST RADIOGRAPH\n\n INDICATION:\n\n Cough.", "", ""),
    "the last paragraph before a signature": ("CHEST\n\nLungs are clear.\n\nSigned by ___", "Lungs are clear.", ""),
    "all in capitals": (
        "HISTORY: COUGH.\n\nFINDINGS: THE HEART IS NORMAL. NO\nFINDINGS OF EDEMA.\n\nIMPRESSION: NORMAL CHEST.",
        "THE HEART IS NORMAL. NO FINDINGS OF EDEMA.",
        "NORMAL CHEST.",
    ),
}


def test_sections_of_awkward_reports():
    for case, (report, findings, impression) in REPORTS.items():
        assert read_sections(report) == (findings, impression), case


_HEADERS = ["FINDINGS", "Impression", "WET READ", "FINAL REPORT", "CHEST, PA", "Dictated by", "COMPARISON", "REPORT"]
_PIECES = st.sampled_from(
    [*_HEADERS, "(", ")", ":", ": ", "\n", "\n\n", "\r\n", "______", " a", ". ", "\0", "\x0b", "-"]
)


@given(st.one_of(st.text(), st.lists(st.one_of(_PIECES, st.text(max_size=3)), max_size=60).map("".join)))
@example(":" * 20_000)
@example("A" * 20_000)
@example("FINDINGS (" * 3_000)
@example("CHEST " * 5_000)
@example("WET READ " * 3_000)
@example("\n " * 10_000)
def test_whatever_the_text_the_sections_are_words_of_it_in_their_order(report):
    for section in read_sections(report):
        assert section == " ".join(section.split())
        place = 0
        for word in section.split():
            place = report.find(word, place)
            assert place >= 0, word
            place += len(word)


SLIPS = {
    "FINDINGS": ["FINDINDGS", "FINDINS", "FINDNGS", "FINIDNGS", "FINDGINGS", "FINDNINGS", "FINSINGS", "Findngs"],
    "IMPRESSION": ["IMPRESION", "IMPRESSOIN", "IMPRESSON", "IMPRSSION", "IMPRRESSION", "IMPRESSIOM", "Impresion"],
}


@pytest.mark.parametrize(("name", "slip"), [(name, slip) for name, slips in SLIPS.items() for slip in slips])
def test_headers_with_a_slip_of_the_pen(name, slip):
    lines = "FINAL REPORT\n\n INDICATION:  Cough.\n\n FINDINGS:  Lungs are clear.  No effusion.\n\n IMPRESSION:  No pneumonia."
    assert read_sections(lines.replace(name, slip)) == ("Lungs are clear. No effusion.", "No pneumonia.")
    if slip.isupper():
        assert read_sections(" ".join(lines.replace(name, slip).split())) == (
            "Lungs are clear. No effusion.",
            "No pneumonia.",
        )


def test_other_headers_with_a_slip_end_a_section():
    report = "FINDINGS: Clear.\nCOMPARISION: ___.\nIMPRESSION: Normal.\nRECOMENDATION: None.\n"
    assert read_sections(report) == ("Clear.", "Normal.")


@pytest.mark.parametrize(
    "word", ["Filings", "LANDINGS", "WINDINGS", "COMPRESSION", "DEPRESSION", "FINDINGS OF", "findngs"]
)
def test_other_words_are_no_headers(word):
    report = f"FINDINGS: Clear.\n{word}: none.\nIMPRESSION: Normal."
    assert read_sections(report) == (f"Clear. {word}: none.", "Normal.")
