"""Validation scores by epoch, out of the logs of runs, as a table and as a figure."""

import csv
import io

import numpy as np
import pytest

from hardneg_plugin.comparison.curves import curves_csv, curves_figure, validation_curves
from hardneg_plugin.runs.folder import RunFolder

CURVES = {
    "host": [
        {"val/CIDEr": {1: 0.2, 2: 0.5, 3: 0.9}, "val/R@1": {}},
        {"val/CIDEr": {1: 0.4, 2: 0.1}},  # stopped early
    ],
    "arc": [{"val/CIDEr": {1: 0.3}, "val/R@1": {1: 0.7, 2: 0.8}}],
}


def test_the_last_validation_of_an_epoch_counts_and_that_of_the_best_checkpoint_does_not(tmp_path):
    for version, lines in (
        (0, ["epoch,step,test/CIDEr,train/x,val/CIDEr", "0,4,,,0.1", "0,9,,1.0,0.2", "1,14,,,0.3"]),
        (1, ["epoch,step,test/CIDEr,train/x,val/CIDEr", "1,14,,,0.4", "1,19,,,0.5", ",20,0.9,,", "2,20,,,0.9"]),
    ):
        log = tmp_path / f"logs/csv/version_{version}/metrics.csv"
        log.parent.mkdir(parents=True)
        log.write_text("\n".join(lines) + "\n")
    assert validation_curves(RunFolder(tmp_path)) == {"val/CIDEr": {1: 0.2, 2: 0.5}}


def test_the_table_holds_means_and_ranges_over_the_seeds_at_the_epochs_of_all():
    rows = list(csv.reader(io.StringIO(curves_csv(CURVES))))
    assert rows[0] == ["score", "variant", "epoch", "seeds", "mean", "lowest", "highest"]
    assert [(*row[:2], *map(float, row[2:])) for row in rows[1:]] == [
        ("val/CIDEr", "host", 1, 2, pytest.approx((0.2 + 0.4) / 2), 0.2, 0.4),
        ("val/CIDEr", "host", 2, 2, pytest.approx((0.5 + 0.1) / 2), 0.1, 0.5),
        ("val/CIDEr", "arc", 1, 1, 0.3, 0.3, 0.3),
        ("val/R@1", "arc", 1, 1, 0.7, 0.7, 0.7),
        ("val/R@1", "arc", 2, 1, 0.8, 0.8, 0.8),
    ]


def test_the_figure_has_a_panel_for_each_score_and_a_line_for_each_variant():
    figure = curves_figure(CURVES, ["val/CIDEr", "val/R@1"], columns=1)
    cider, recall = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["val/CIDEr", "val/R@1"]
    host, arc = cider.lines
    np.testing.assert_allclose(host.get_xydata(), [(1, 0.3), (2, 0.3)])
    assert arc.get_marker() == "o"  # a line of one point would not be seen
    (band, _) = cider.collections
    assert {(1.0, 0.2), (1.0, 0.4), (2.0, 0.1), (2.0, 0.5)} <= set(map(tuple, band.get_paths()[0].vertices.round(6)))
    assert [line.get_label() for line in recall.lines] == ["arc"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["host", "arc"]
