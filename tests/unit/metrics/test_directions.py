"""Every score has a direction, and a right report is no worse by it than a wrong one."""

import pytest

from hardneg_plugin.apps.shared.console import print_scores
from hardneg_plugin.knowledge.findings import read_findings
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.metrics.chexpert import CONDITIONS
from hardneg_plugin.metrics.directions import direction_of, directions_of
from hardneg_plugin.metrics.label_files import LabelFiles
from hardneg_plugin.metrics.record_scores import clinical_scores, score_records
from hardneg_plugin.metrics.records import make_record
from hardneg_plugin.metrics.score_card import ScoreCard, scores_and_intervals
from hardneg_plugin.metrics.score_names import EVERY, OF_TASKS

MEASURED = ("rank", "r2i_rank", "peers_rank", "peers_r2i_rank", "likelihood_rank", "likelihood_r2i_rank")
OF_REPORTS_ALONE = ("unique_share", "distinct-1", "distinct-2")
TASK_SCORES = (
    "zero_shot_AUROC", "pair_zero_shot_AUROC", "pair_R@5", "pair_r2i_R@5", "pair_peers_R@1", "pair_peers_r2i_R@1",
    "probe_1%_AUROC", "probe_0.5%_AUROC", "pointing_game", "IoU", "Dice", "vqa", "vqa_presence",
)  # fmt: skip


def card_of(generated, references, *, right, labels=None):
    """All scores of 23 studies, of which the model measured good or bad ranks and losses."""
    clinical = [] if labels is None else [LabelFiles(str(labels / f"{right}.csv"), str(labels / "True.csv"))]
    records = []
    for row, (text, reference) in enumerate(zip(generated, references, strict=True)):
        marked = [f"<findings> {part} <impression> {part}" for part in (reference, text)]
        record = make_record(f"{row:02d}", *marked, read_findings=read_findings)
        record["cut_reference"] = reference
        record["measured"] = {"loss": 1.0 if right else 9.0, "tokens": 3.0, "image_specificity": float(right)}
        record["measured"] |= dict.fromkeys(MEASURED, 1.0 if right else 12.0)
        records.append(record)
    card = score_records(records, caption=CaptionScores(meteor=False))
    card.add(clinical_scores(records, clinical))
    return card


def test_a_right_report_is_no_worse_than_a_wrong_one_in_every_score(reports, tmp_path):
    _, references, _ = reports
    for name, label in (("True", 1), ("False", 0)):
        rows = [f"{row:02d},{','.join([str(label)] * 14)}" for row in range(23)]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"id,{','.join(CONDITIONS)}", *rows]))
    wrong = [*references[1:], references[0]]
    good = card_of(references, references, right=True, labels=tmp_path).values
    bad = card_of(wrong, references, right=False, labels=tmp_path).values
    assert good.keys() == bad.keys() >= EVERY - {"METEOR"}
    for name, value in good.items():
        direction = direction_of(name)
        assert direction is not None, name
        if direction != "neither" and name not in OF_REPORTS_ALONE:
            gain = value - bad[name] if direction == "higher" else bad[name] - value
            assert gain > 0 or value == bad[name] == 1 or name.endswith(("_common", "_medium", "_rare")), name


def test_every_name_of_a_score_has_a_direction(reports):
    of_studies = card_of(*reports[:2], right=True).columns
    for name in (
        *EVERY,
        *TASK_SCORES,
        "false_alarms",
        *of_studies,
        "chexbert_F1_macro14_uncertain-positive",
        "findings/studies",
    ):
        assert direction_of(name) is not None, name
    assert all(OF_TASKS.fullmatch(name) for name in TASK_SCORES)
    assert {name for name in {*EVERY, *TASK_SCORES} if direction_of(name) != "higher"} == {"report_loss", "length"}


def test_the_written_record_has_the_directions_of_its_scores():
    val, test = ScoreCard.of_means({"BLEU-4": [0.2]}), ScoreCard.of_means({"report_loss": [2.0], "length": [9.0]})
    val.values["cut/BLEU-4"] = 0.2
    written = scores_and_intervals({"val": val, "test": test})
    assert written["directions"] == {
        "BLEU-4": "higher",
        "cut/BLEU-4": "higher",
        "report_loss": "lower",
        "length": "neither",
    }
    assert directions_of(["nobody_knows", "CIDEr"]) == {"CIDEr": "higher"}


@pytest.mark.parametrize(("scores", "told"), [({"BLEU-4": 0.2, "report_loss": 2.0}, True), ({"BLEU-4": 0.2}, False)])
def test_a_printed_table_says_where_lower_is_better(capsys, scores, told):
    print_scores("Test split", {"best.ckpt": scores})
    assert ("Lower is better: loss." in capsys.readouterr().out) == told
