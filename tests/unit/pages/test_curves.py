"""Curves out of the tables of a CSV logger."""

from itertools import pairwise

import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.pages.curves import read_curves, thin
from hardneg_plugin.runs.folder import RunFolder


def write(run, version, *lines):
    file = run / "logs" / "csv" / f"version_{version}" / "metrics.csv"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines) + "\n")


def points(run):
    curves = read_curves(RunFolder(run), "arc")
    assert {curve.variant for curve in curves} <= {"arc"}
    return {curve.name: curve.points for curve in curves}


def test_training_and_validation_without_the_scores_of_the_best_checkpoint(tmp_path):
    write(
        tmp_path,
        0,
        "epoch,lr-AdamW,step,test/BLEU-4,train/hardness,val/BLEU-4",
        ",0.1,0,,,",
        "0,,0,,0.0,",
        "0,,1,,nan,0.2",
        "1,,3,,0.5,0.1",
        "2,,4,,,0.2",
        "2,,4,0.3,,",
    )
    assert points(tmp_path) == {"train/hardness": [(0, 0.0), (3, 0.5)], "val/BLEU-4": [(1, 0.2), (3, 0.1)]}


def test_a_resumed_run_goes_on_where_it_was_left_and_the_later_file_counts(tmp_path):
    write(tmp_path, 10, "step,train/hardness", "3,0.9", "4,1.0")
    write(tmp_path, 2, "step,train/hardness,train/report_loss", "2,0.5,7", "3,0.6,6")
    write(tmp_path, 0, "step,train/hardness", "1,0.1", "2,0.2")
    assert points(tmp_path) == {
        "train/hardness": [(1, 0.1), (2, 0.5), (3, 0.9), (4, 1.0)],
        "train/report_loss": [(2, 7.0), (3, 6.0)],
    }


def test_a_run_without_csv_logs_has_no_curves(tmp_path):
    assert points(tmp_path) == {}


@pytest.mark.parametrize("line", ["x,0.1", "1,high", ",0.1", "1,0.1,0.2"])
def test_what_is_no_table_of_numbers_is_named_with_its_line(tmp_path, line):
    write(tmp_path, 0, "step,train/hardness", "0,0.0", line)
    with pytest.raises(UserError, match=r"version_0/metrics\.csv, line 3: expected a table of numbers"):
        read_curves(RunFolder(tmp_path), "arc")


@pytest.mark.parametrize("number", [1, 499, 500, 501, 999, 20_000])
def test_a_thinned_curve_keeps_its_ends_and_an_even_spacing(number):
    curve = [(step, float(step)) for step in range(number)]
    kept = [step for step, _ in thin(curve)]
    assert len(kept) == min(number, 500)
    assert (kept[0], kept[-1]) == (0, number - 1)
    gaps = {b - a for a, b in pairwise(kept)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)
