import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardneg_plugin.data.phantom.findings import (
    ATTRIBUTES,
    SIDES,
    Finding,
    canonical,
    draw_findings,
    finding,
    territory,
)
from hardneg_plugin.data.phantom.grammar import LONGEST, NORMAL, PHRASES, SHORTEST, WORDS, write_report
from hardneg_plugin.data.phantom.reading import read_findings

STUDIES = 4000


def cleaned(report):
    """As a word tokenizer leaves a report: lower case, no punctuation but " . " between sentences; hyphens stay."""
    removed = str.maketrans("", "", string.punctuation.replace(".", "").replace("-", ""))
    sentences = report.lower().translate(removed).split(".")
    return " . ".join(" ".join(sentence.split()) for sentence in sentences if sentence.strip()) + " ."


@pytest.fixture(scope="module")
def studies():
    pairs = []
    for index in range(STUDIES):
        rng = np.random.default_rng((7, index))
        findings = draw_findings(rng, 0.4)
        pairs.append((findings, write_report(findings, rng)))
    return pairs


def every_finding():
    found = [Finding(name) for name in ATTRIBUTES]
    for key in {key for attributes in ATTRIBUTES.values() for key in attributes}:
        found = [
            Finding(one.name, tuple(sorted((*one.attributes, (key, value)))))
            for one in found
            for value in ATTRIBUTES[one.name].get(key, ("",))
        ]
    return [Finding(one.name, tuple(pair for pair in one.attributes if pair[1] != "")) for one in found]


# --- facts -----------------------------------------------------------------------------------------------------------


def test_findings_that_occur(studies):
    seen = {found for findings, _ in studies for found in findings}
    assert {found.name for found in seen} == set(ATTRIBUTES)
    assert len(ATTRIBUTES) >= 14
    for found in seen:
        assert [key for key, _ in found.attributes] == sorted(ATTRIBUTES[found.name])
        assert all(value in ATTRIBUTES[found.name][key] for key, value in found.attributes)
    for name, attributes in ATTRIBUTES.items():
        for key, values in attributes.items():
            assert {found.value(key) for found in seen if found.name == name} == set(values)


def test_share_of_normal_studies_and_number_of_findings(studies):
    sizes = Counter(len(findings) for findings, _ in studies)
    assert sizes[0] / STUDIES == pytest.approx(0.4, abs=0.03)
    assert set(sizes) == {0, 1, 2, 3, 4}
    assert sizes[1] > sizes[2] > sizes[3] > sizes[4] > 0


@pytest.mark.parametrize(("share", "normal"), [(0.0, 0), (1.0, 200)])
def test_normal_share_at_its_ends(share, normal):
    drawn = [draw_findings(np.random.default_rng(index), share) for index in range(200)]
    assert sum(not findings for findings in drawn) == normal


def test_findings_of_a_study_can_meet(studies):
    for findings, _ in studies:
        parts = [part for found in findings for part in territory(found)]
        assert len(parts) == len(set(parts))
        assert len({found.name for found in findings}) == len(findings)


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [
        (
            finding("pleural effusion", side="left", size="small"),
            finding("pneumothorax", side="left", size="large"),
            True,
        ),
        (
            finding("pleural effusion", side="left", size="large"),
            finding("pneumothorax", side="left", size="small"),
            False,
        ),
        (finding("pleural effusion", side="left", size="large"), finding("elevated hemidiaphragm", side="left"), False),
        (finding("pleural effusion", side="left", size="large"), finding("elevated hemidiaphragm", side="right"), True),
        (finding("hyperinflation"), finding("elevated hemidiaphragm", side="right"), False),
        (finding("hyperinflation"), finding("cardiomegaly", grade="mild"), False),
        (finding("consolidation", lobe="right lower"), finding("atelectasis", side="right", band="base"), False),
        (finding("pacemaker", side="left"), finding("central line", side="left"), True),
    ],
)
def test_which_findings_meet(one, other, meet):
    assert territory(one).isdisjoint(territory(other)) is meet


def test_canonical_text_does_not_depend_on_order_and_tells_sets_apart(studies):
    texts = {}
    for findings, _ in studies:
        assert canonical(findings) == canonical(sorted(findings, reverse=True))
        assert texts.setdefault(canonical(findings), findings) == findings
    assert canonical([]) == ""
    assert canonical([finding("nodule", side="left", mm=6)]) == "nodule mm=6 side=left"


# --- facts -> text -> facts ------------------------------------------------------------------------------------------


def test_round_trip_of_whole_reports(studies):
    for findings, report in studies:
        assert read_findings(report) == findings, report
        assert read_findings(cleaned(report)) == findings, cleaned(report)


def test_round_trip_of_every_value_in_every_phrase():
    for found in every_finding():
        words = {key: WORDS.get(key, {}).get(value, str(value)) for key, value in found.attributes}
        for phrase in PHRASES[found.name]:
            assert read_findings(phrase.format(**words)) == {found}


def test_normal_sentences_state_nothing():
    for _, _, phrases in NORMAL:
        for phrase in phrases:
            assert read_findings(phrase) == frozenset(), phrase


def test_every_phrase_says_every_attribute():
    for name, phrases in PHRASES.items():
        for phrase in phrases:
            said = {field for _, field, _, _ in string.Formatter().parse(phrase) if field}
            assert said == set(ATTRIBUTES[name]), phrase


EFFUSION = finding("pleural effusion", side="left", size="small")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", set()),
        (" . . ", set()),
        ("left small moderate right", set()),
        ("SMALL LEFT PLEURAL EFFUSION", {EFFUSION}),
        ("small left pleural effusion . small left pleural effusion . small left effusion .", {EFFUSION}),
        ("there is a small small left left pleural pleural effusion effusion .", {EFFUSION}),
        ("a small left pleural effusion is seen . pleural effusion on the left .", {EFFUSION}),
        ("small left pleural effusion without pneumothorax", {EFFUSION}),
        ("no pneumothorax but a small left pleural effusion", {EFFUSION}),
        ("no pleural effusion or pneumothorax", set()),
        ("no pneumothorax . small left pleural effusion", {EFFUSION}),
        ("pneumothorax is not seen and there is a small left pleural effusion", {EFFUSION}),
        (
            "small left pleural effusion and right pneumothorax",
            {EFFUSION, finding("pneumothorax", side="right")},
        ),
        (
            "the heart is enlarged with a small left pleural effusion",
            {EFFUSION, finding("cardiomegaly")},
        ),
        ("pleural effusion .", {finding("pleural effusion")}),
        ("6 mm nodule . 20 mm nodule .", {finding("nodule", mm=6), finding("nodule", mm=20)}),
        ("a 7 mm nodule in the left upper zone", {finding("nodule", side="left", zone="upper")}),
        ("pulmonary edema", {finding("oedema")}),
        ("there is <unk> consolidation in the <unk> upper lobe", {finding("consolidation")}),
    ],
)
def test_what_is_read_out_of_other_texts(text, expected):
    assert read_findings(text) == expected


GRAMMAR_WORDS = sorted(
    {
        word
        for phrases in [*PHRASES.values(), *(row for _, _, row in NORMAL)]
        for phrase in phrases
        for word in phrase.split()
    }
    | {"left", "right", "6", "mm", ".", "no", "not", "but", "and", "small", "<unk>", "mild"}
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(GRAMMAR_WORDS), max_size=60))
def test_word_soup_is_read_without_error(words):
    read = read_findings(" ".join(words))
    assert isinstance(read, frozenset)
    for name, attributes in read:
        assert all(value in ATTRIBUTES[name][key] for key, value in Finding(name, attributes).attributes)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_read_without_error(text):
    assert {name for name, _ in read_findings(text)} <= set(ATTRIBUTES)


# --- wording ---------------------------------------------------------------------------------------------------------


def test_length_and_form_of_reports(studies):
    for _, report in studies:
        assert SHORTEST <= len(report.replace(".", " . ").split()) <= LONGEST
        assert report.endswith(".")
        sentences = report[:-1].split(". ")
        assert all(sentence[0].isupper() or sentence[0].isdigit() for sentence in sentences), report
        assert len(set(sentences)) == len(sentences)


def test_vocabulary_is_compact_and_common():
    counts = Counter()
    for index in range(600):
        rng = np.random.default_rng((11, index))
        counts.update(cleaned(write_report(draw_findings(rng, 0.4), rng)).split())
    assert 150 <= len(counts) <= 300
    assert min(counts.values()) >= 3


def test_wording_varies():
    reports = [write_report(frozenset(), np.random.default_rng(index)) for index in range(500)]
    assert len(set(reports)) > 450
    words = Counter(word for report in reports for word in set(cleaned(report).split()))
    assert sum(count > 100 for count in words.values()) > 30  # most of a report is what others say too


def test_sides_are_told_apart_in_the_text():
    for found in every_finding():
        flipped = Finding(
            found.name,
            tuple((key, SIDES[1 - SIDES.index(value)] if value in SIDES else value) for key, value in found.attributes),
        )
        words = [{k: WORDS.get(k, {}).get(v, str(v)) for k, v in one.attributes} for one in (found, flipped)]
        for phrase in PHRASES[found.name]:
            same = read_findings(phrase.format(**words[0])) == read_findings(phrase.format(**words[1]))
            assert same == (found == flipped)
