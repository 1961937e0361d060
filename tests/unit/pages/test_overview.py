"""The first view of a comparison's page: its figures, where its forest plot draws them, and its table as CSV."""

import csv
import dataclasses
import io
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest

from hardneg_plugin.comparison.comparison import OVER_STUDIES
from hardneg_plugin.pages.forest import SIDE, WIDTH, drawn_panel, nice_ticks
from hardneg_plugin.pages.overview import ForestPanel, ForestRow, overview_of
from hardneg_plugin.pages.render import render


def test_means_stand_over_differences_with_their_intervals_and_corrected_p_values(comparison):
    means = overview_of(comparison).means
    assert means.header == ["variant", "findings_F1", "CIDEr"]
    host, arc, mined = means.rows
    assert (host[0].text, host[0].below, host[1].text, host[1].below) == ("host", ("baseline",), "0.520 ± 0.028", ())
    assert (arc[1].text, arc[1].verdict) == ("0.620 ± 0.028", "better")
    assert arc[1].below == ("+0.100", "(+0.060 to +0.140)", "p = 0.008")
    assert (arc[2].below, arc[2].verdict) == (("−0.200", "(−0.300 to −0.100)", "p = 0.030"), "worse")
    assert {cell.verdict for cell in mined} == {""}


def test_reports_without_a_model_stand_below_the_variants_and_are_compared_with_none(comparison):
    means = overview_of(comparison, {"most frequent report": {"findings_F1": -0.25}}).means
    assert [row[0].text for row in means.rows] == ["host", "arc", "mined", "most frequent report"]
    last = means.rows[-1]
    assert (last[0].below, last[1].text, last[2].text) == (("no model",), "−0.250", "–")
    assert {(cell.below, cell.verdict) for cell in last[1:]} == {((), "")}


def test_a_verdict_is_one_short_line_for_each_contrast(comparison):
    assert overview_of(comparison).verdicts == [
        ("", "Best on validation by findings_F1: arc (0.620)."),
        ("mixed", "arc against host: better in findings_F1; worse in CIDEr."),
        ("", "mined against host: no difference found."),
        ("mixed", "arc against mined: better in findings_F1; worse in CIDEr."),
    ]


def test_a_p_value_of_an_earlier_comparison_that_does_not_go_with_the_interval_is_not_shown(comparison):
    split = comparison.splits["test"]
    unclear = dataclasses.replace(split.differences["mined"]["findings_F1"], p_value=0.001, corrected=0.002)
    differences = {**split.differences, "mined": {**split.differences["mined"], "findings_F1": unclear}}
    splits = {**comparison.splits, "test": dataclasses.replace(split, differences=differences)}
    earlier = overview_of(dataclasses.replace(comparison, splits=splits, p_values_over=OVER_STUDIES))
    assert earlier.means.rows[2][1].below == ("+0.010", "(−0.020 to +0.040)")
    assert "over studies alone" in earlier.means.about


def test_scores_per_seed_and_cost_are_those_of_the_runs(comparison):
    variants = {**comparison.variants, "arc": dataclasses.replace(comparison.variants["arc"], seeds=[2, 3])}
    overview = overview_of(dataclasses.replace(comparison, variants=variants))
    assert [cell.text for cell in overview.seeds.rows[0]] == ["host", "0.500 · 0.540 · –", "0.800 · 0.900 · –"]
    assert overview.seeds.rows[1][1].text == "– · 0.600 · 0.640"
    assert [row[0].below for row in overview.means.rows] == [("baseline",), ("one seed:", "studies alone"), ()]
    assert [cell.text for cell in overview.cost.rows[0]][:3] == ["host", "11.0", "1.00"]


def test_the_table_as_csv_has_all_figures(comparison):
    rows = list(csv.DictReader(io.StringIO(overview_of(comparison).csv)))
    assert [(row["variant"], row["other"], row["score"]) for row in rows][:4] == [
        ("host", "", "findings_F1"),
        ("host", "", "CIDEr"),
        ("arc", "host", "findings_F1"),
        ("arc", "host", "CIDEr"),
    ]
    found = comparison.splits["test"].differences["arc"]["CIDEr"]
    assert [float(rows[3][key]) for key in ("difference", "low", "high", "corrected_p")] == pytest.approx(
        [found.difference, found.low, found.high, found.corrected]
    )
    assert (float(rows[3]["mean"]), rows[3]["verdict"], rows[0]["verdict"]) == (0.65, "worse", "")


def test_all_differences_of_a_measure_share_an_axis_that_has_zero(comparison):
    for panel in overview_of(comparison).forest:
        drawn = drawn_panel(panel)
        values = [v for row in panel.rows for v in (row.low, row.high, row.difference, *row.seeds)]
        places = [x for row in drawn["rows"] for x in (row["low"], row["high"], row["difference"], *row["seeds"])]
        least, most = min(0, *values), max(0, *values)
        expected = SIDE + (np.array(values) - least) / (most - least) * (WIDTH - 2 * SIDE)
        np.testing.assert_allclose(places, expected, atol=0.01)
        assert drawn["zero"] == pytest.approx(SIDE - least / (most - least) * (WIDTH - 2 * SIDE), abs=0.01)
        assert "0" in [tick["text"] for tick in drawn["ticks"]]
    assert [row.label for row in panel.rows] == ["arc", "mined", "arc − mined"]


def test_equal_variants_have_an_axis_too():
    drawn = drawn_panel(ForestPanel("x", [ForestRow("a", 0.0, 0.0, 0.0, [], "", "")]))
    assert drawn["zero"] == drawn["rows"][0]["difference"] == WIDTH / 2


@pytest.mark.parametrize(("least", "most"), [(-0.13, 0.21), (0, 1e-6), (-30, 0), (-0.2001, 0.5), (-1, 1)])
def test_ticks_are_round_inside_and_few(least, most):
    ticks = nice_ticks(least, most)
    assert 2 <= len(ticks) <= 6
    assert all(least - 1e-9 <= tick <= most + 1e-9 for tick in ticks)
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0])
    assert re.fullmatch(r"[125]e[+-]\d+", f"{steps[0]:.0e}")


class Links(HTMLParser):
    """The data of each link that is downloaded, by file name, and the parts that the page links to."""

    def __init__(self, text):
        super().__init__()
        self.files, self.views = {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        of = dict(attributes)
        if "download" in of:
            self.files[of["download"]] = unquote(of["href"].partition(",")[2])
        if "data-view" in of:
            self.views.append(of["data-view"])


def test_the_page_of_a_comparison_begins_with_it(compared, content):
    links = Links(render(compared))
    assert links.views == ["comparison", "studies", "curves", "settings"]
    assert links.files["comparison.csv"] == compared.overview.csv
    assert Links(render(content)).views == ["studies", "scores", "curves", "settings"]
    named = dataclasses.replace(compared.overview, about="<b>host</b>")
    assert "&lt;b&gt;host" in render(dataclasses.replace(compared, overview=named))
    headed = dataclasses.replace(compared.overview.means, header=["variant", "<b>_x"])
    assert "&lt;b&gt;_<wbr>x" in render(
        dataclasses.replace(compared, overview=dataclasses.replace(named, means=headed))
    )
