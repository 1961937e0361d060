"""Candidate prompts, and what reports of the phantom and of people state of them."""

import pytest

from hardneg_plugin.data.phantom import PhantomKnowledge, PhantomStudies
from hardneg_plugin.data.phantom.findings import ATTRIBUTES
from hardneg_plugin.knowledge import ABSENT, PRESENT, UNKNOWN, ChestXray, Prompt, swaps

PHANTOM, CHEST = PhantomKnowledge(), ChestXray()


def stated(knowledge, report, fact=PRESENT):
    return {
        prompt.phrase for prompt, found in zip(knowledge.prompts, knowledge.facts(report), strict=True) if found == fact
    }


def test_sentences():
    assert Prompt("nodule", "left upper zone").present == "there is left upper zone nodule"
    assert Prompt("oedema").absent == "there is no oedema"


@pytest.mark.parametrize("knowledge", [PHANTOM, CHEST], ids=["phantom", "chest"])
def test_prompts_are_unique_and_each_entity_has_one_without_a_place(knowledge):
    assert len(set(knowledge.prompts)) == len(knowledge.prompts)
    entities = {prompt.entity for prompt in knowledge.prompts}
    assert {prompt.entity for prompt in knowledge.prompts if prompt.position is None} == entities
    assert len(knowledge.facts("Normal chest.")) == len(knowledge.prompts)


def test_swaps_are_of_one_entity_at_two_named_places():
    prompts = [Prompt("a"), Prompt("a", "left"), Prompt("a", "right"), Prompt("b", "left")]
    assert swaps(prompts).nonzero().tolist() == [[1, 2], [2, 1]]


def test_phantom_facts_are_the_findings_of_the_study():
    split = PhantomStudies(train=300, val=1, test=1, size=32).split("train")
    for index, findings in enumerate(split.findings):
        expected = set()
        for name, attributes in findings:
            values = dict(attributes)
            place = {
                "nodule": lambda v: f"{v['side']} {v['zone']} zone",
                "atelectasis": lambda v: f"{v['side']} {'mid zone' if v['band'] == 'mid' else 'base'}",
                "consolidation": lambda v: f"{v['lobe']} lobe",
            }.get(name, lambda v: v.get("side", v.get("direction")))(values)
            expected |= {name, *([f"{place} {name}"] if place else [])}
        assert stated(PHANTOM, split.reports[index]) == expected
        assert UNKNOWN not in PHANTOM.facts(split.reports[index])
    assert {prompt.entity for prompt in PHANTOM.prompts} == set(ATTRIBUTES)


def test_a_place_that_a_text_leaves_out_is_unknown():
    assert stated(PHANTOM, "there is a pneumothorax .", UNKNOWN) == {"left pneumothorax", "right pneumothorax"}


@pytest.mark.parametrize(
    ("report", "present", "unknown"),
    [
        ("No pleural effusion.", set(), set()),
        ("Small left pleural effusion.", {"pleural effusion", "left pleural effusion"}, set()),
        (
            "Bilateral pleural effusions.",
            {"pleural effusion", "left pleural effusion", "right pleural effusion"},
            set(),
        ),
        ("Pleural effusion.", {"pleural effusion"}, {"left pleural effusion", "right pleural effusion"}),
        (
            "Small left effusion and right rib fracture.",
            {
                "pleural effusion",
                "left pleural effusion",
                "rib fracture",
                "right rib fracture",
                "fracture",
                "right fracture",
            },
            set(),
        ),
        ("Possible pneumothorax.", set(), {"pneumothorax", "left pneumothorax", "right pneumothorax"}),
        ("Kyphosis in the left and right.", {"kyphosis"}, set()),
    ],
)
def test_what_a_report_states(report, present, unknown):
    assert stated(CHEST, report) == present
    assert stated(CHEST, report, UNKNOWN) == unknown
    assert stated(CHEST, report, ABSENT) == {p.phrase for p in CHEST.prompts} - present - unknown


def test_sides_and_zones_are_known_apart():
    report = "Consolidation in the right lung."
    assert stated(CHEST, report) == {"consolidation", "right consolidation"}
    assert "left consolidation" in stated(CHEST, report, ABSENT)
    assert {"upper lobe consolidation", "basal consolidation"} <= stated(CHEST, report, UNKNOWN)


def test_places_go_with_the_entity_beside_them():
    report = "Nodule in the left and right upper lobes with scarring at the right base."
    found = stated(CHEST, report)
    assert {"left nodule", "right nodule", "upper lobe nodule", "right scarring", "basal scarring"} <= found
    assert not {"basal nodule", "left scarring", "upper lobe scarring"} & found
