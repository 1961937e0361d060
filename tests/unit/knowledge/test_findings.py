"""The findings of English sentences against values labelled by hand: stated, left open and denied, with side and zone."""

import pytest

from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.knowledge import Presence, read_entities, read_findings, read_statements

# report; what it states, leaves open, denies: "entity side zone", "-" for what is not named
LABELLED = [
    ("", [], [], []),
    ("The lungs are clear. Heart size is normal.", [], [], []),
    ("There is a small left pleural effusion.", ["pleural effusion left -"], [], []),
    ("No pleural effusion or pneumothorax.", [], [], ["pleural effusion - -", "pneumothorax - -"]),
    ("Bilateral pleural effusions.", ["pleural effusion left -", "pleural effusion right -"], [], []),
    ("Bibasilar atelectasis.", ["atelectasis left basal", "atelectasis right basal"], [], []),
    ("Possible right lower lobe pneumonia.", [], ["pneumonia right lower lobe"], []),
    ("Pneumonia cannot be excluded.", [], ["pneumonia - -"], []),
    (
        "Left basal opacity, which may represent atelectasis. No pneumothorax.",
        ["opacity left basal"],
        ["atelectasis - -"],
        ["pneumothorax - -"],
    ),
    ("No effusion on the left. Small effusion on the right.", ["pleural effusion right -"], [], []),
    ("Possible left effusion. Right effusion.", ["pleural effusion right -"], [], []),
    ("Left effusion. The effusion is small.", ["pleural effusion left -"], [], []),
    (
        "Nodule in the right upper lobe and consolidation in the left lower lobe.",
        ["nodule right upper lobe", "consolidation left lower lobe"],
        [],
        [],
    ),
    (
        "Scarring in the left upper and right lower lobes is unchanged.",  # not told apart: every side with every zone
        ["scarring left lower lobe", "scarring right lower lobe"],
        [],
        [],
    ),
    ("Cardiomegaly on the left.", ["cardiomegaly - -"], [], []),  # has no side
    ("Left apical pneumothorax.", ["pneumothorax left -"], [], []),  # has no zone
    ("The heart is enlarged. Tortuous aorta.", ["cardiomegaly - -", "tortuous aorta - -"], [], []),
    ("The heart is not enlarged.", [], [], ["cardiomegaly - -"]),
    ("No change in the right effusion.", ["pleural effusion right -"], [], []),
    ("The right effusion has resolved.", [], [], ["pleural effusion right -"]),
]


def labelled(text):
    for side in (" left ", " right ", " - "):
        if side in text:
            name, zone = text.split(side)
            pairs = (("side", side.strip()), ("zone", zone))
            return name, tuple((key, value) for key, value in pairs if value != "-")
    raise ValueError(text)


@pytest.mark.parametrize(("report", "stated", "open_", "denied"), LABELLED)
def test_labelled_by_hand(report, stated, open_, denied):
    said = read_statements(report)
    by_hand = dict(zip((Presence.PRESENT, Presence.UNCERTAIN, Presence.ABSENT), (stated, open_, denied), strict=True))
    assert said == {presence: frozenset(map(labelled, texts)) for presence, texts in by_hand.items()}
    assert read_findings(report) == said[Presence.PRESENT]
    cleaned = WordTokenizer.from_reports([report or "any"], min_count=1).clean(report) if report else ""
    assert read_statements(cleaned) == said, cleaned


def test_each_entity_is_said_once_with_its_highest_presence():
    report = " ".join(text for text, *_ in LABELLED)
    names = {presence: {name for name, _ in findings} for presence, findings in read_statements(report).items()}
    assert {name: presence for presence in names for name in names[presence]} == read_entities(report)
    assert sum(map(len, names.values())) == len(read_entities(report))
