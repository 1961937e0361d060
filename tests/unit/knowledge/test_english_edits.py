"""Edits of English reports made of our own sentences, read again sentence by sentence."""

import re
from collections import Counter

import numpy as np
import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge import EditedReport, EnglishEdits, Presence, read_entities, read_mentions, read_statements
from hardneg_plugin.knowledge.english_edits import KINDS, Proposal, reads_so

SENTENCES = (
    "There is a small left pleural effusion.",
    "Moderate right apical pneumothorax.",
    "The heart is mildly enlarged.",
    "Severe cardiomegaly!",
    "Streaky atelectasis in the left lower lobe.",
    "There is an ill-defined opacity in the right mid lung zone;",
    "Calcified granuloma, right upper lobe.",
    "Mild degenerative changes of the thoracic spine.",
    "The aorta is tortuous.",
    "Left-sided pacemaker, leads unchanged.",
    "Bilateral pleural thickening.",
    "No pneumothorax.",
    "No pleural effusion or pneumothorax.",
    "There is no focal consolidation, pleural effusion, or pneumothorax identified.",
    "No evidence of pulmonary edema.",
    "There are no nodules or masses.",
    "Negative for infiltrate.",
    "no rib fracture",
    "Possible small right effusion.",
    "Pneumonia cannot be excluded.",
    "The lungs are clear.",
    "Heart size is normal.",
    "The trachea is midline:  1.5 cm above.",
    "SOFT TISSUES ARE UNREMARKABLE.",
)


# of the sentences above and of what edits state: "calcified granuloma" names a granuloma and a calcification as well
SAME_WORDS = (
    {"granuloma", "calcified granuloma", "calcification"},
    {"opacity", "airspace disease"},
    {"consolidation", "airspace disease"},
    {"fracture", "rib fracture"},
)


@pytest.fixture(scope="module")
def reports():
    rng = np.random.default_rng(0)
    return [
        rng.choice([" ", "  ", "\n"]).join(SENTENCES[i] for i in rng.permutation(len(SENTENCES))[: rng.integers(1, 9)])
        for _ in range(1500)
    ]


@pytest.fixture(scope="module")
def copies(reports):
    edit = EnglishEdits()
    made = [
        (report, n, edit(report, n, np.random.default_rng((i, n))))
        for i, report in enumerate(reports)
        for n in (1, 2, 3)
    ]
    return [(report, n, copy) for report, n, copy in made if copy is not None]


def pieces(text):
    return re.split(r"(?<=[.;:!\n?])", text)


def test_all_but_the_changed_sentences_stay_byte_for_byte(copies):
    assert len(copies) > 1500
    for report, n, copy in copies:
        # one sentence more where a finding is stated before a denial of the others
        lost = Counter(pieces(report)) - Counter(pieces(copy.text))
        gained = Counter(pieces(copy.text)) - Counter(pieces(report))
        assert 0 < lost.total() <= n == len(copy.changes)
        assert gained.total() <= 2 * n


def test_each_change_is_read_and_no_other(copies):
    for report, _, copy in copies:
        before, after = read_statements(report), read_statements(copy.text)
        old, new = read_entities(report), read_entities(copy.text)
        for change in copy.changes:
            if change.before is None:
                assert (old[change.name], new[change.name]) == (Presence.ABSENT, Presence.PRESENT)
            elif change.after is None:
                assert (old[change.name], new[change.name]) == (Presence.PRESENT, Presence.ABSENT)
            else:
                assert old[change.name] == new[change.name] == Presence.PRESENT
                assert change.before != change.after
        names = {change.name for change in copy.changes}
        names = names.union(*(together for together in SAME_WORDS if names & together))
        for presence in Presence:
            others = [{one for one in said[presence] if one[0] not in names} for said in (before, after)]
            assert others[0] == others[1]


def test_what_is_open_stays_open(copies):
    for report, _, copy in copies:
        for name, presence in read_entities(report).items():
            if presence == Presence.UNCERTAIN:
                assert read_entities(copy.text)[name] == presence
                assert name not in {change.name for change in copy.changes}


def test_proposals_are_seldom_dropped(reports):
    proposals = [EnglishEdits().propose(report, 2, np.random.default_rng(i)) for i, report in enumerate(reports)]
    assert np.mean([reads_so(one) for one in proposals if one is not None]) >= 0.98


def test_a_copy_that_says_something_else_is_dropped():
    report = "Small left effusion. No pneumothorax."
    proposal = EnglishEdits(["side"]).propose(report, 1, np.random.default_rng(0))
    assert reads_so(proposal)
    for text in (
        report,
        proposal.edited.text + " Possible nodule.",
        proposal.edited.text.replace("Small", "Large"),
        proposal.edited.text.replace("No pneumothorax", "Left pneumothorax"),
    ):
        edited = EditedReport(text, proposal.edited.changes)
        assert not reads_so(Proposal(edited, proposal.mentions, proposal.degrees))


@pytest.mark.parametrize(
    ("kind", "report", "expected"),
    [
        ("side", "LEFT effusion.", {"RIGHT effusion."}),
        ("side", "Opacity in the Right lower lobe , unchanged .", {"Opacity in the Left lower lobe , unchanged ."}),
        ("place", "right basilar atelectasis .", {"right apical atelectasis ."}),
        (
            "place",
            "Opacity in the right mid lung.",
            {"Opacity in the right upper lung.", "Opacity in the right lower lung."},
        ),
        ("severity", "The heart is mildly enlarged.", {"The heart is markedly enlarged."}),
        ("severity", "Large effusion.", {"Small effusion."}),
        (
            "presence",
            "There are calcified granulomas.",
            {"There is no calcified granuloma.", "No calcified granuloma.", "No evidence of calcified granuloma."},
        ),
        ("presence", "no pneumothorax", None),
    ],
)
def test_kinds_of_changes(kind, report, expected):
    edit = EnglishEdits([kind])
    texts = {edit(report, 1, np.random.default_rng(seed)).text for seed in range(60)}
    if expected is None:
        assert len(texts) == 12  # two wordings, three sizes, two sides
        assert all(text == text.lower() and "pneumothorax" in text for text in texts)
    else:
        assert texts == expected


def test_one_of_several_denied_findings_is_stated_before_the_others():
    report = "There is no focal consolidation, effusion, or pneumothorax identified."
    texts = {EnglishEdits()(report, 1, np.random.default_rng(seed)).text for seed in range(200)}
    rests = {text.partition(". ")[2] for text in texts}
    assert rests == {
        "There is no effusion or pneumothorax identified.",
        "There is no focal consolidation or pneumothorax identified.",
        "There is no focal consolidation or effusion identified.",
    }


@pytest.mark.parametrize(
    "report",
    [
        "Possible left effusion.",
        "Left effusion. The effusion has grown.",
        "Left effusion and right basilar atelectasis.",
        "The lungs are clear. No focal consolidation.",
        "No acute disease. No pneumothorax.",
        "Heart size is normal. No cardiomegaly.",
        "Clear.",
        "",
    ],
)
def test_reports_that_offer_nothing(report):
    assert all(EnglishEdits()(report, 1, np.random.default_rng(seed)) is None for seed in range(20))


def test_more_changes_than_a_report_offers():
    assert EnglishEdits()("Left effusion.", 2, np.random.default_rng(0)) is None


def test_edits_follow_from_the_generator(reports):
    first, second = (
        [EnglishEdits()(report, 1, np.random.default_rng(i)) for i, report in enumerate(reports[:100])]
        for _ in range(2)
    )
    assert first == second


def test_cleaned_reports_are_edited_as_well():
    report = "small left effusion . no pneumothorax ."
    copy = EnglishEdits()(report, 2, np.random.default_rng(1))
    assert copy.text == copy.text.lower()
    assert {name for name, *_ in read_mentions(copy.text)} == {"pleural effusion", "pneumothorax"}


def test_wrong_kind():
    with pytest.raises(UserError, match="some of presence, side"):
        EnglishEdits(kinds=[*KINDS, "size"])
