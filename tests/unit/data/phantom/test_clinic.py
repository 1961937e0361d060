from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
import torch

from hardneg_plugin.data.phantom import PhantomKnowledge, PhantomStudies
from hardneg_plugin.data.phantom.clinic import (
    COUNT_SHARES,
    HEDGED,
    LEFT_OUT,
    NORMAL_SHARE,
    VALUE_SHARES,
    WEIGHTS,
    Statement,
    draw_clinic_findings,
    draw_statements,
)
from hardneg_plugin.data.phantom.dictation import HEDGES, LONGEST, MORE_PHRASES, NOUNS, write_clinic_report
from hardneg_plugin.data.phantom.findings import ATTRIBUTES, finding, territory
from hardneg_plugin.data.phantom.grammar import PHRASES, count_words
from hardneg_plugin.data.phantom.questions import ask
from hardneg_plugin.data.phantom.readers import READERS, wordings
from hardneg_plugin.data.phantom.reading import read_findings, read_hedged
from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge import UNKNOWN, Presence, Prompt, read_entities

from .test_studies import SMALL, digest
from .test_text import cleaned, every_finding

STUDIES = 4000
HOW = (Statement.LEFT_OUT, Statement.STATED, Statement.HEDGED)
EFFUSION = finding("pleural effusion", side="left", size="small")


@pytest.fixture(scope="module")
def split():
    return PhantomStudies(train=STUDIES, size=32, regime="clinic").split("train")


def rng(*seed):
    return np.random.default_rng(seed)


# --- what stays as it is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regime", "texts", "greys"),
    [
        ("uniform", "5ae0246cbeec876ab2f5d8220a7837da854d096b6b95a8da0bbf784373f8ea6e", [115.626, 83.394]),
        ("clinic", "9aa374658e759605c0ba2c19bf1042f4830bc28b87b264d9f7845ef0f940f167", [117.178, 83.964]),
    ],
)
def test_studies_of_recorded_results_are_what_they_were(regime, texts, greys):
    source = PhantomStudies(train=4000, val=200, test=400, size=96, regime=regime)
    everything = sha256()
    for name in ("train", "val", "test"):
        split = source.split(name)
        for study in zip(split.ids, split.labels, split.reports, strict=True):
            everything.update(repr(study).encode())
    assert everything.hexdigest() == texts
    # of images the mean by view: the last bit of a float may depend on the processor
    images = torch.stack([source.split("test")[index]["images"] for index in range(8)]).double()
    assert images.mean((0, 2, 3, 4)).tolist() == pytest.approx(greys, abs=0.002)


def test_uniform_states_every_finding():
    split = PhantomStudies(train=50, size=32).split("train")
    for findings, statements in zip(split.findings, split.statements, strict=True):
        assert statements == dict.fromkeys(findings, Statement.STATED)


def test_unknown_regime():
    with pytest.raises(UserError, match="one of uniform, clinic, but got 'ward'"):
        PhantomStudies(regime="ward")


# --- findings --------------------------------------------------------------------------------------------------------


def test_how_often_findings_occur():
    drawn = [draw_clinic_findings(rng(3, index)) for index in range(12000)]
    share = {name: np.mean([name in {one.name for one in findings} for findings in drawn]) for name in ATTRIBUTES}
    # as indexed in 2,885 studies of IU X-Ray: benchmarks/clinic_fit.py
    indexed = {
        "nodule": 0.107,
        "cardiomegaly": 0.088,
        "atelectasis": 0.081,
        "hyperinflation": 0.078,
        "tortuous aorta": 0.06,
        "consolidation": 0.049,
        "pleural effusion": 0.045,
        "elevated hemidiaphragm": 0.029,
        "central line": 0.027,
        "scoliosis": 0.024,
        "oedema": 0.024,
        "pacemaker": 0.016,
        "rib fracture": 0.015,
        "pneumothorax": 0.005,
    }
    assert share == pytest.approx(indexed, abs=0.008)
    counts = Counter(map(len, drawn))
    assert counts[0] / len(drawn) == pytest.approx(NORMAL_SHARE, abs=0.01)
    for number, expected in enumerate(COUNT_SHARES, 1):
        assert counts[number] / (len(drawn) - counts[0]) == pytest.approx(expected, abs=0.015)
    both = np.mean([{"cardiomegaly", "oedema"} <= {one.name for one in findings} for findings in drawn])
    assert both / share["cardiomegaly"] / share["oedema"] > 4
    grades = Counter(one.value("grade") for findings in drawn for one in findings if one.name == "cardiomegaly")
    assert grades["mild"] / grades.total() == pytest.approx(0.82, abs=0.03)


def test_findings_of_a_study_can_meet(split):
    for findings in split.findings:
        parts = [part for found in findings for part in territory(found)]
        assert len(parts) == len(set(parts))
        assert len({found.name for found in findings}) == len(findings)
        assert all([key for key, _ in found.attributes] == sorted(ATTRIBUTES[found.name]) for found in findings)


def test_tables_name_what_there_is():
    assert set(WEIGHTS) == set(MORE_PHRASES) == set(NOUNS) == set(ATTRIBUTES)
    assert set(LEFT_OUT) | set(HEDGED) <= set(ATTRIBUTES)
    for (name, key), shares in VALUE_SHARES.items():
        assert len(shares) == len(ATTRIBUTES[name][key])
        assert sum(shares) == pytest.approx(1)
    assert sum(reader.share for reader in READERS) == pytest.approx(1)
    assert sum(COUNT_SHARES) == pytest.approx(1)


# --- findings -> report -> findings ----------------------------------------------------------------------------------


def test_round_trip(split):
    seen = Counter()
    for findings, statements, report in zip(split.findings, split.statements, split.reports, strict=True):
        assert set(statements) == findings
        seen.update(statements.values())
        for text in (report, cleaned(report)):
            assert read_findings(text) == {one for one, said in statements.items() if said == Statement.STATED}, text
            assert read_hedged(text) == {one for one, said in statements.items() if said == Statement.HEDGED}, text
    assert seen[Statement.LEFT_OUT] / seen.total() == pytest.approx(0.12, abs=0.02)
    assert seen[Statement.HEDGED] / seen.total() == pytest.approx(0.03, abs=0.01)


def test_round_trip_of_every_value_in_every_phrase_and_hedge():
    words = {False: "noncalcified", True: "calcified", 4: "fourth", 5: "fifth", 6: "sixth", 7: "seventh", 8: "eighth"}
    for found in every_finding():
        values = {
            key: "mid zone" if (key, value) == ("band", "mid") else value if key == "mm" else words.get(value, value)
            for key, value in found.attributes
        }
        for phrase in MORE_PHRASES[found.name]:
            assert read_findings(phrase.format(**values)) == {found}, phrase
        for hedge in HEDGES:
            text = hedge.format(noun=NOUNS[found.name].format(**values))
            assert read_findings(text) == frozenset(), text
            assert read_hedged(text) == {found}, text


def test_normal_sentences_state_nothing():
    for reader in READERS:
        for about, line in reader.lines:
            for wording in wordings(line):
                text = wording.format(rest=" or ".join(about))
                assert read_findings(text) == read_hedged(text) == frozenset(), text
                assert Presence.PRESENT not in read_entities(text).values(), text


def test_a_finding_stated_elsewhere_is_not_hedged():
    text = "Possible small left pleural effusion. There is a small left pleural effusion."
    assert read_findings(text) == {EFFUSION}
    assert read_hedged(text) == frozenset()
    facts = dict(zip(PhantomKnowledge().prompts, PhantomKnowledge().facts("Possible left pneumothorax."), strict=True))
    assert facts[Prompt("pneumothorax")] == facts[Prompt("pneumothorax", "right")] == UNKNOWN
    assert UNKNOWN not in [fact for prompt, fact in facts.items() if prompt.entity != "pneumothorax"]


# --- reports ---------------------------------------------------------------------------------------------------------


def test_a_report_is_never_cut(split):
    assert max(map(count_words, split.reports)) <= LONGEST == 62
    four = dict.fromkeys(
        (
            EFFUSION,
            finding("scoliosis", direction="left"),
            finding("nodule", calcified=True, mm=6, side="right", zone="lower"),
            finding("tortuous aorta"),
        ),
        Statement.STATED,
    )
    for index in range(500):
        report = write_clinic_report(four, rng(index))
        assert count_words(report) <= LONGEST
        assert read_findings(report) == set(four)


def test_normal_reports_repeat_and_others_do_not(split):
    reports = split.reports[:2069]
    times = Counter(reports)
    assert sum(times[report] > 1 for report in reports) / len(reports) == pytest.approx(0.216, abs=0.03)
    assert len(times) > 1500
    assert {count for count in times.values() if count > 15} != set()


def test_a_finding_left_out_changes_nothing_and_others_one_or_two_sentences():
    changed = Counter()
    first = {found.name: found for found in every_finding()}
    for name, found in first.items():
        for index in range(60):
            normal, left_out, stated, hedged = (
                write_clinic_report(statements, rng(5, index)) for statements in ({}, *({found: said} for said in HOW))
            )
            assert left_out == normal
            assert len({normal, stated, hedged}) == 3, name
            before, after = set(normal.split(". ")), set(stated.split(". "))
            changed[max(len(before - after), len(after - before))] += 1
    assert changed[1] + changed[2] > 0.9 * changed.total()


def test_the_same_for_the_same_seed():
    small = {**SMALL, "regime": "clinic"}
    assert digest(PhantomStudies(**small)) == digest(PhantomStudies(**small, cache=False))
    assert digest(PhantomStudies(**small)) != digest(PhantomStudies(**small, seed=1))
    statements = [draw_statements({EFFUSION}, rng(index))[EFFUSION] for index in range(500)]
    assert statements == [draw_statements({EFFUSION}, rng(index))[EFFUSION] for index in range(500)]
    assert set(statements) == set(Statement)


def test_every_reader_can_be_told_by_the_usual_wording():
    usual = ["|".join(wordings(line)[0] for _, line in reader.lines) for reader in READERS]
    assert len(set(usual)) == len(READERS)
    assert wordings("a (b|c) d(|e)") == ("a b d", "a b de", "a c d", "a c de")
    assert all(set(about) <= set(PHRASES) for reader in READERS for about, _ in reader.lines)


def test_questions_about_presence_are_balanced(split):
    answers = Counter()
    for index, findings in enumerate(split.findings[:3000]):
        for question in ask(findings, rng(8, index), split.normal_share, split.regime.draw):
            if question.kind == "presence":
                answers[question.text, question.answer] += 1
    for text in ("is there a nodule?", "is there cardiomegaly?"):
        assert answers[text, "yes"] == pytest.approx(answers[text, "no"], rel=0.25)
