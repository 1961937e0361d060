"""What a study view checks, and what it derives from its fields."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from hardneg_plugin.evaluation.inspected_study import EntityVerdict, FoundEntity, InspectedStudy, Reading, quantise
from hardneg_plugin.knowledge import ABSENT, PRESENT, UNKNOWN


def test_bytes_of_attention_keep_its_proportions():
    attention = torch.zeros(3, 1, 1, 3)
    attention[0, 0, 0] = torch.tensor([0.1, 0.2, 0.05])
    attention[1, 0, 0] = torch.tensor([1e-12, 0, 0])
    found = quantise(attention)
    assert found.dtype == np.uint8
    assert found[:, 0, 0].tolist() == [[128, 255, 64], [255, 0, 0], [0, 0, 0]]


def test_the_verdict_on_an_entity():
    entity = FoundEntity("left effusion", 0.7, None, np.zeros((1, 1, 1), np.uint8))
    facts = {PRESENT: "found and stated", ABSENT: "found, not stated", UNKNOWN: "found, left open", None: "found"}
    assert {fact: replace(entity, fact=fact).verdict for fact in facts} == facts
    missed = replace(entity, probability=0.5, fact=PRESENT)
    assert missed.verdict == "stated, not found"
    assert {*facts.values(), missed.verdict} == set(get_args(EntityVerdict))


def test_what_a_reading_must_be():
    with pytest.raises(ValueError, match="1 words, views"):
        Reading(["a"], None, np.zeros((2, 1, 1, 1), np.uint8))
    with pytest.raises(ValueError, match="1 words, but got 2 numbers"):
        Reading(["a"], [0.1, 0.2], np.zeros((1, 1, 1, 1), np.uint8))


def test_the_words_and_the_views_of_all_heat_maps():
    maps = np.zeros((2, 3, 1, 1), np.uint8)
    entity = FoundEntity("left effusion", 0.7, None, np.zeros((4, 1, 1), np.uint8))
    study = InspectedStudy("no  effusion", maps, reading=Reading(["a"], None, maps[:1, :2]), entities=[entity])
    assert study.words == ["no", "effusion"]
    assert list(study.heat_map_views()) == [3, 2, 4]
    assert list(InspectedStudy("no effusion").heat_map_views()) == []
    with pytest.raises(ValueError, match="1 words, views"):
        replace(study, text="effusion")
