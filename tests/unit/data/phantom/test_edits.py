"""Edits of phantom reports, read again by what does not know how they were made."""

import numpy as np
import pytest

from hardneg_plugin.data.phantom import PhantomEdits, PhantomStudies, Statement
from hardneg_plugin.data.phantom.edits import KIND_OF, KINDS
from hardneg_plugin.data.phantom.findings import Finding, territory
from hardneg_plugin.data.phantom.reading import MENTIONS, read_findings, read_hedged
from hardneg_plugin.data.phantom.regimes import REGIMES
from hardneg_plugin.data.phantom.sentences import normal_lines, sentences_of
from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge.edits import EditedReport

STUDIES = 1500


@pytest.fixture(scope="module", params=REGIMES)
def regime(request):
    return request.param


@pytest.fixture(scope="module")
def split(regime):
    return PhantomStudies(train=STUDIES, size=32, seed=5, regime=regime).split("train")


@pytest.fixture(scope="module")
def edits(regime, split):
    """`(index, report, edited)` of each study that offers it, with one, two and three changes."""
    edit = PhantomEdits(regime)
    made = [
        (index, report, edit(report, n, np.random.default_rng((index, n))))
        for index, report in enumerate(split.reports)
        for n in (1, 2, 3)
    ]
    return [(index, report, edited) for index, report, edited in made if edited is not None]


def test_every_sentence_of_a_regime_is_known(regime, split):
    for findings, statements, report in zip(split.findings, split.statements, split.reports, strict=True):
        sentences = sentences_of(report, regime)
        assert " ".join(one.text for one in sentences) == report
        assert all(one.normal or one.stated or one.open for one in sentences)
        stated = {one for one in findings if statements[one] == Statement.STATED}
        assert {one.stated for one in sentences if one.stated} == stated


def test_normal_sentences_state_nothing_and_name_only_what_rules_them_out(regime):
    for text, line in normal_lines(regime).items():
        assert not read_findings(text)
        assert {name for name, mention in MENTIONS.items() if mention.search(text.lower())} <= set(line.about)


def test_what_is_stated_changes_as_intended_and_nothing_else(edits):
    assert len(edits) > 2.5 * STUDIES
    for _, report, edited in edits:
        before = {change.before for change in edited.changes} - {None}
        after = {change.after for change in edited.changes} - {None}
        assert read_findings(edited.text) == (read_findings(report) - before) | after
        assert before <= read_findings(report)
        assert read_hedged(edited.text) == read_hedged(report)
        assert len({change.name for change in edited.changes}) == len(edited.changes)
        assert all(change.before != change.after for change in edited.changes)


def test_proposals_are_seldom_dropped(regime, split):
    edit = PhantomEdits(regime)
    proposed = [(report, edit.propose(report, 2, np.random.default_rng(i))) for i, report in enumerate(split.reports)]
    exact = [edit.reads_so(report, copy) for report, copy in proposed if copy is not None]
    assert np.mean(exact) >= 0.98


def test_a_copy_that_says_something_else_is_dropped(regime):
    edit = PhantomEdits(regime)
    report = "There is a small left pleural effusion. There is no pneumothorax."
    copy = next(
        copy
        for seed in range(50)
        if (copy := edit(report, 1, np.random.default_rng(seed))) and copy.changes[0].name == "pleural effusion"
    )
    assert edit.reads_so(report, copy)
    for text in (
        report,
        copy.text.replace("no pneumothorax", "a large left pneumothorax"),
        copy.text.replace("There is no pneumothorax.", "The lungs are clear."),
        copy.text + " Possible scoliosis of the thoracic spine, convex to the left.",
    ):
        assert not edit.reads_so(report, EditedReport(text, copy.changes))


def test_all_other_sentences_stay_byte_for_byte(regime, edits):
    for _, report, edited in edits:
        names = {change.name for change in edited.changes}

        def others(text, names=names):
            return [
                one.text
                for one in sentences_of(text, regime)
                if not (one.stated and one.stated.name in names) and not (one.normal and names & set(one.normal.about))
            ]

        assert others(report) == others(edited.text)


def test_no_change_touches_what_a_report_leaves_open(split, edits):
    for _, report, edited in edits:
        open_ = {name for name, _ in read_hedged(report)}
        for change in edited.changes:
            assert change.name not in open_
            if change.before is None:  # something ruled it out
                assert change.name not in {name for name, _ in read_findings(report)}


def test_an_unmentioned_finding_stays_open(regime):
    report = "There is no pneumothorax."
    for seed in range(100):
        edited = PhantomEdits(regime)(report, 1, np.random.default_rng(seed))
        assert edited is None or {change.name for change in edited.changes} == {"pneumothorax"}
    assert PhantomEdits(regime)("Soft tissues are normal.", 1, np.random.default_rng(0)) is None


def test_what_an_edited_report_states_can_occur_in_one_study(edits):
    for _, _, edited in edits:
        parts = [territory(Finding(*found)) for found in read_findings(edited.text)]
        assert sum(map(len, parts)) == len(frozenset().union(*parts))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_changes(regime, split, kind):
    edit = PhantomEdits(regime, kinds=[kind])
    copies = [
        edit(report, 1, np.random.default_rng(index)) for index, report in enumerate(split.reports) if index < 400
    ]
    changes = [copy.changes[0] for copy in copies if copy is not None]
    assert len(changes) > 20
    for before, after in changes:
        if kind == "presence":
            assert (before is None) != (after is None)
            continue
        old, new = dict(before[1]), dict(after[1])
        assert before[0] == after[0]
        assert old.keys() == new.keys()
        assert [KIND_OF[key] for key in old if old[key] != new[key]] == [kind]


def test_abnormal_reports_are_edited_in_both_directions(edits):
    changes = [edited.changes[0] for _, report, edited in edits if len(edited.changes) == 1 and read_findings(report)]
    stated = np.mean([change.before is not None for change in changes])
    assert 0.4 < stated < 0.8


def test_edits_follow_from_the_generator(regime, split):
    edit = PhantomEdits(regime)
    for seed in range(20):
        first, second = (edit(split.reports[seed], 1, np.random.default_rng(seed)) for _ in range(2))
        assert first == second
    drawn = {edit(split.reports[0], 1, np.random.default_rng(seed)) for seed in range(20)}
    assert len(drawn) > 5


def test_wrong_arguments():
    with pytest.raises(UserError, match="uniform, clinic, but got ward"):
        PhantomEdits("ward")
    with pytest.raises(UserError, match="some of presence, side"):
        PhantomEdits(kinds=["size"])
