"""What a report states, denies and leaves open, sentence by sentence; and how that agrees with people's indexing."""

import importlib.util
import re
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardneg_plugin.knowledge import ENTITIES, Presence, read_entities

ROOT = Path(__file__).resolve().parents[3]
PRESENT, UNCERTAIN, ABSENT = Presence.PRESENT, Presence.UNCERTAIN, Presence.ABSENT


MENTIONS = [
    ("There is a small left pleural effusion.", "pleural effusion", PRESENT),
    ("No pleural effusion.", "pleural effusion", ABSENT),
    ("No focal consolidation, pneumothorax, or pleural effusion.", "pleural effusion", ABSENT),
    ("No focal consolidation, pneumothorax, or pleural effusion.", "pneumothorax", ABSENT),
    ("Negative for pneumothorax.", "pneumothorax", ABSENT),
    ("The lungs are free of infiltrate.", "infiltrate", ABSENT),
    ("Pneumothorax is not seen.", "pneumothorax", ABSENT),
    ("The right pneumothorax has resolved.", "pneumothorax", ABSENT),
    ("The effusion is no longer seen.", "pleural effusion", ABSENT),
    ("Pneumonia cannot be excluded.", "pneumonia", UNCERTAIN),
    ("Possible right lower lobe pneumonia.", "pneumonia", UNCERTAIN),
    ("Opacity at the base, atelectasis versus infiltrate.", "infiltrate", UNCERTAIN),
    ("Findings may represent atelectasis.", "atelectasis", UNCERTAIN),
    ("No change in the right pleural effusion.", "pleural effusion", PRESENT),
    ("No significant interval change in cardiomegaly.", "cardiomegaly", PRESENT),
    ("No pneumothorax, but a small effusion is present.", "pleural effusion", PRESENT),
    ("No pneumothorax. Small effusion.", "pleural effusion", PRESENT),
    ("The lungs are clear except for mild atelectasis.", "atelectasis", PRESENT),
    ("Clear without effusion; cardiomegaly.", "cardiomegaly", PRESENT),
    ("The heart is mildly enlarged.", "cardiomegaly", PRESENT),
    ("Heart size is normal.", "cardiomegaly", None),
    ("The cardiac silhouette is at the upper limits of normal.", "cardiomegaly", None),
    ("The heart is not enlarged.", "cardiomegaly", ABSENT),
    ("The thoracic aorta is tortuous.", "tortuous aorta", PRESENT),
    ("Low lung volumes with bronchovascular crowding.", "low lung volumes", PRESENT),
    ("Blunting of the right costophrenic angle.", "blunted costophrenic angle", PRESENT),
    ("The right hemidiaphragm is elevated.", "elevated hemidiaphragm", PRESENT),
    ("Interval removal of the right PICC line.", "central line", ABSENT),
    ("Small pericardial effusion.", "pleural effusion", None),
    ("A 2.5 cm nodule in the left upper lobe.", "nodule", PRESENT),
    ("no pneumothorax . small left effusion . the lungs are hyperexpanded .", "hyperinflation", PRESENT),
]


def test_mentions_by_themselves():
    for report, entity, expected in MENTIONS:
        assert read_entities(report).get(entity) == expected, (report, entity)


def test_of_several_mentions_the_strongest_counts():
    text = "No effusion on the left. Possible effusion on the right. Small effusion on the right, unchanged."
    assert read_entities(text)["pleural effusion"] == PRESENT
    assert read_entities(text.rsplit(". Small", 1)[0])["pleural effusion"] == UNCERTAIN


def test_entities_are_named_once_and_written_as_they_are_named():
    names = [entity.name for entity in ENTITIES]
    assert len(set(names)) == len(names) >= 40
    said = {name: read_entities(f"There is {name}.") for name in names}
    assert [name for name in names if said[name].get(name) != PRESENT] == []
    assert [name for name in names if read_entities(f"There is no {name}.").get(name) != ABSENT] == []
    assert all(re.compile(entity.written) for entity in ENTITIES)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_any_text_can_be_read(text):
    read = read_entities(text)
    assert set(read) <= {entity.name for entity in ENTITIES}


@given(st.lists(st.sampled_from([entity.name for entity in ENTITIES]), min_size=1, max_size=5, unique=True))
def test_sentences_are_read_by_themselves(names):
    stated = " ".join(f"There is {name}." for name in names)
    denied = " ".join(f"No {name} is seen." for name in names)
    for name in names:
        assert read_entities(stated)[name] == PRESENT
        assert read_entities(denied)[name] == ABSENT


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("entities_benchmark", ROOT / "benchmarks" / "entities.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


INDEXED = [  # headings as in Open-i, findings and impression in its manner
    (["Cardiomegaly/mild"], "The heart is mildly enlarged. No pneumothorax.", "Mild cardiomegaly."),
    (["Pleural Effusion/left/small"], "There is a small left pleural effusion.", "Small left effusion."),
    (["Pleural Effusion/bilateral"], "Blunting of both angles by bilateral pleural effusions.", "Effusions."),
    (["Opacity/lung/base/right"], "Patchy opacity at the right lung base.", "Right basilar opacity."),
    (["Pulmonary Atelectasis/base/left"], "Left basilar atelectasis. No effusion.", "Atelectasis."),
    (["Pneumothorax/apex/right"], "A tiny right apical pneumothorax is present.", "Right apical pneumothorax."),
    (["normal"], "The heart size is normal. The lungs are clear.", "No acute disease."),
    (["Pneumothorax/left"], "The XXXX is seen at the left.", "XXXX."),  # taken out of the text: missed
    (["normal"], "There is a right pleural effusion.", "Effusion."),  # not indexed: wrong
]


def test_agreement_is_counted_study_by_study(benchmark, tmp_path):
    with tarfile.open(tmp_path / "reports.tgz", "w:gz") as archive:
        for number, (headings, findings, impression) in enumerate(INDEXED):
            texts = "".join(
                f'<AbstractText Label="{label}">{text}</AbstractText>'
                for label, text in (("FINDINGS", findings), ("IMPRESSION", impression))
            )
            mesh = "".join(f"<major>{heading}</major>" for heading in headings)
            (tmp_path / f"{number}.xml").write_text(f"<c><Abstract>{texts}</Abstract><MeSH>{mesh}</MeSH></c>")
            archive.add(tmp_path / f"{number}.xml", f"ecgen-radiology/{number}.xml")
    found = benchmark.counts(tmp_path / "reports.tgz")
    expected = {
        "cardiomegaly": (1, 0, 0),
        "pleural effusion": (2, 1, 0),
        "opacity": (1, 0, 0),
        "atelectasis": (1, 0, 0),
        "pneumothorax": (1, 0, 1),
    }
    assert {name: tuple(one) for name, one in found.items() if any(one)} == expected
    assert (found["pleural effusion"].precision, found["pneumothorax"].recall) == (2 / 3, 1 / 2)
    places = benchmark.place_counts(tmp_path / "reports.tgz")
    assert tuple(places["left"]) == (3, 0, 0)
    assert tuple(places["right"]) == (3, 0, 0)
    assert tuple(places["basal"]) == (2, 0, 0)


@pytest.mark.slow
def test_agreement_with_the_indexing_of_iu_xray(benchmark, real_data):
    reports = real_data("iu_xray_reports") / "NLMCXR_reports.tgz"
    found = benchmark.counts(reports)
    assert len(found) == 40
    assert sum(one.precision for one in found.values()) / 40 > 0.88
    assert sum(one.recall for one in found.values()) / 40 > 0.87
    for name in ("cardiomegaly", "atelectasis", "pleural effusion", "pneumothorax", "opacity"):
        assert min(found[name].precision, found[name].recall) > 0.8, (name, found[name])
    places = benchmark.place_counts(reports)
    for side in ("left", "right"):
        assert min(places[side].precision, places[side].recall) > 0.97, (side, places[side])
    assert min(place.precision for place in places.values()) > 0.8
