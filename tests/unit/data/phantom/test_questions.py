from collections import Counter

import numpy as np
import pytest

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.phantom.findings import ATTRIBUTES, Finding, draw_findings, finding
from hardneg_plugin.data.phantom.questions import KINDS, Question, ask
from hardneg_plugin.data.tokenizer import WordTokenizer

STUDIES = 6000


@pytest.fixture(scope="module")
def studies():
    rngs = [np.random.default_rng((11, index)) for index in range(STUDIES)]
    return [(findings, ask(findings, rng)) for findings, rng in ((draw_findings(rng, 0.4), rng) for rng in rngs)]


def test_questions_about_attributes_are_these():
    findings = {
        finding("pleural effusion", side="right", size="large"),
        finding("nodule", calcified=True, mm=15, side="left", zone="upper"),
        finding("consolidation", lobe="left lower"),
        finding("cardiomegaly", grade="severe"),
        finding("scoliosis", direction="left"),
        finding("rib fracture", number=5, side="right"),
        finding("atelectasis", band="mid", side="right"),
        finding("oedema"),
    }
    asked = [question for question in ask(findings, np.random.default_rng(0)) if question.kind != "presence"]
    assert set(asked) == {
        Question("size", "how large is the pleural effusion?", "large"),
        Question("side", "on which side is the pleural effusion?", "right"),
        Question("size", "how many mm is the nodule?", "15"),
        Question("side", "on which side is the nodule?", "left"),
        Question("place", "in which zone is the nodule?", "upper"),
        Question("place", "in which lobe is the consolidation?", "left lower"),
        Question("size", "which grade is the cardiomegaly?", "severe"),
        Question("side", "to which side is the scoliosis convex?", "left"),
        Question("place", "which rib is fractured?", "fifth"),
        Question("side", "on which side is the rib fracture?", "right"),
        Question("place", "in which band is the atelectasis?", "mid zone"),
        Question("side", "on which side is the atelectasis?", "right"),
    }
    assert len(asked) == 12


def test_an_attribute_that_is_not_known_is_not_asked_for():
    asked = ask([Finding("pneumothorax", (("side", "left"),))], np.random.default_rng(0))
    assert [question.kind for question in asked if question.kind != "presence"] == ["side"]
    assert {question.kind for question in ask([], np.random.default_rng(3))} <= {"presence"}


def test_the_answers_to_presence_are_true(studies):
    for findings, questions in studies:
        present = {found.name for found in findings}
        for question in questions:
            if question.kind == "presence":
                named = [name for name in ATTRIBUTES if name in question.text]
                assert (named[0] in present) == (question.answer == "yes")
                assert len(named) == 1


def test_presence_is_balanced_for_every_finding(studies):
    answers = Counter(q[1:] for _, questions in studies for q in questions if q.kind == "presence")
    texts = {text for text, _ in answers}
    assert len(texts) == len(ATTRIBUTES)
    for text in texts:
        yes, no = answers[text, "yes"], answers[text, "no"]
        assert yes + no > 500
        assert abs(yes - no) < 4 * (yes + no) ** 0.5  # four standard deviations of fair draws


@pytest.mark.parametrize(("share", "balanced"), [(0.0, True), (0.4, False)])
def test_presence_is_balanced_by_the_share_of_normal_studies(share, balanced):
    rngs = [np.random.default_rng((12, index)) for index in range(2000)]
    answers = Counter(
        q.answer for rng in rngs for q in ask(draw_findings(rng, 0.0), rng, share) if q.kind == "presence"
    )
    is_even = abs(answers["yes"] - answers["no"]) < 4 * answers.total() ** 0.5
    assert is_even == balanced


def test_every_kind_and_every_value_is_asked_for(studies):
    asked = {question for _, questions in studies for question in questions}
    assert {question.kind for question in asked} == set(KINDS)
    answers = {text: {q.answer for q in asked if q.text == text} for text in {q.text for q in asked}}
    assert answers["how many mm is the nodule?"] == {"6", "10", "15", "20"}
    assert answers["which rib is fractured?"] == {"fourth", "fifth", "sixth", "seventh", "eighth"}
    assert all(len(given) > 1 for given in answers.values())  # no text tells its answer
    attributes = [(name, key) for name, keys in ATTRIBUTES.items() for key in keys if key != "calcified"]
    assert len(answers) == len(ATTRIBUTES) + len(attributes)


def test_the_same_generator_asks_the_same(studies):
    findings = frozenset({finding("oedema"), finding("scoliosis", direction="left")})
    first = ask(findings, np.random.default_rng(5))
    assert ask(sorted(findings, reverse=True), np.random.default_rng(5)) == first
    assert any(ask(findings, np.random.default_rng(seed)) != first for seed in range(6, 9))


def test_questions_stay_apart_in_the_words_of_reports(studies):
    tokenizer = WordTokenizer.from_reports(PhantomStudies(train=2000, size=32).split("train").reports)
    texts = {question.text for _, questions in studies for question in questions}
    assert len({tuple(tokenizer.encode(text)) for text in texts}) == len(texts)
