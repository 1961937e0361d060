from collections import Counter

import pytest

from hardneg_plugin.data.cleaning import CLEANINGS
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding
from hardneg_plugin.data.phantom.prompts import WORDINGS, zero_shot_prompts
from hardneg_plugin.data.phantom.reading import read_findings
from hardneg_plugin.data.tokenizer import WordTokenizer

PROMPTS = zero_shot_prompts()


def test_every_finding_has_as_many_wordings():
    assert tuple(PROMPTS) == tuple(ATTRIBUTES)
    assert {len(sentences) for pair in PROMPTS.values() for sentences in pair} == {WORDINGS}
    assert zero_shot_prompts() == PROMPTS


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_sentences_read_back_as_what_they_state(name):
    present, absent = PROMPTS[name]
    for sentence in present:
        ((stated, attributes),) = read_findings(sentence)
        assert stated == name
        assert [key for key, _ in Finding(stated, attributes).attributes] == list(ATTRIBUTES[name])
    for sentence in absent:
        assert read_findings(sentence) == frozenset()
        assert read_findings(f"There is {name}.") == {(name, ())}  # it is the denial that is read


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_every_value_stands_in_as_many_wordings(name):
    stated = [dict(attributes) for sentence in PROMPTS[name][0] for _, attributes in read_findings(sentence)]
    for key, values in ATTRIBUTES[name].items():
        counts = Counter(attributes[key] for attributes in stated)
        assert set(counts) == set(values)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_several_phrases_and_denials_are_used():
    for present, absent in PROMPTS.values():
        assert len(set(present)) >= 4
        assert len(set(absent)) == 6


@pytest.mark.parametrize("cleaning", CLEANINGS)
def test_every_word_is_one_of_the_training_reports(cleaning):
    reports = PhantomStudies(train=2000, size=32).split("train").reports
    tokenizer = WordTokenizer.from_reports(reports, cleaning=cleaning)
    words = {
        word for pair in PROMPTS.values() for part in pair for text in part for word in tokenizer.clean(text).split()
    }
    assert words <= set(tokenizer.vocabulary)
    assert len(words) > 80
