"""From records to a comparison, and what its tables and sentences say."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from hardneg_plugin.comparison.comparison import (
    Comparison,
    Contrast,
    VariantDifference,
    VariantResult,
    seconds_of,
    variant_result,
)
from hardneg_plugin.comparison.forest import forest_figure
from hardneg_plugin.comparison.plots import scores_figure, write_plots
from hardneg_plugin.comparison.scored import available_measures, compare_split, score_split
from hardneg_plugin.comparison.summary import summary, summary_of_differences, summary_of_scores
from hardneg_plugin.comparison.tables import latex, markdown, scores_table, tables
from hardneg_plugin.comparison.task_files import tasks_of_all
from hardneg_plugin.comparison.verdicts import cautions, choice, verdict, verdicts
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import write_json, write_jsonl
from hardneg_plugin.metrics.statistics import SumStatistic, means_of_runs
from hardneg_plugin.runs.folder import RunFolder

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
STUDIES = 24


def records(seed, right, findings=True):
    """Reports of which `right` in ten are the reference, and otherwise that of another study."""
    rng = np.random.default_rng(seed)
    texts = [f"{WORDS[i % 8]} {WORDS[i // 8]} lung {i}" for i in range(STUDIES)]
    rows = []
    for i in rng.permutation(STUDIES):  # in any order
        is_right = (i + seed) % 10 < right
        rows.append({"id": f"s{i:02d}", "reference": texts[i], "generated": texts[i if is_right else i - 1]})
        if findings:
            stated = [["nodule", int(i)]], [["nodule", int(i) if is_right else -1]]
            rows[-1]["findings"] = dict(zip(("reference", "generated"), stated, strict=True))
    return rows


@pytest.fixture
def folders(tmp_path):
    def make(**variants):
        made = {}
        for name, right in variants.items():
            for seed in (1, 2):
                run = RunFolder(tmp_path / "runs" / name / f"seed_{seed}")
                for split in ("val", "test"):
                    write_jsonl(run.predictions(split), records(seed, right))
                write_json(run.metrics, {"training": {"seconds": 10.0 + right}, "parameters": {"inference": 7}})
                made.setdefault(name, []).append(run)
        return made

    return make


def task_rows(seed, right):
    """A pointing game over two findings, and scores of which `right` in ten are in order."""
    rng = np.random.default_rng((seed, right))
    rows = []
    for i in rng.permutation(STUDIES):
        label = float(i % 2)
        score = label if (i + seed) % 10 < right else float(rng.random())
        rows.append(
            {
                "id": f"s{i:02d}",
                "means": {"pointing_game": {f"finding {i % 2}": [float(i % 10 < right), 1.0]}},
                "rankings": {"zero_shot_AUROC": {"nodule": [score, label]}},
            }
        )
    return rows


def test_tasks_that_all_runs_did_are_further_scores(folders):
    runs = folders(host=3, arc=9)
    for name, own in runs.items():
        for seed, run in enumerate(own, start=1):
            for split in ("val", "test"):
                write_jsonl(run.tasks / f"zero_shot_{split}.jsonl", task_rows(seed, {"host": 2, "arc": 9}[name]))
    write_jsonl(runs["host"][0].tasks / "vqa_test.jsonl", task_rows(1, 3))
    assert tasks_of_all(runs, "test") == (["zero_shot"], ["vqa"])
    scored = score_split(runs, "test", None)
    rows = {row["id"]: row for row in task_rows(2, 9)}
    pairs = [rows[study]["rankings"]["zero_shot_AUROC"]["nodule"] for study in scored.ids]
    expected = roc_auc_score([label for _, label in pairs], [score for score, _ in pairs])
    assert scored.cards["arc"][1].values["zero_shot_AUROC"] == pytest.approx(expected)
    measures = available_measures({"val": scored, "test": scored}, ["zero_shot_AUROC", "specificity"])
    assert measures == {"val": ["zero_shot_AUROC", "specificity"], "test": ["zero_shot_AUROC", "specificity"]}
    found = compare_split(scored, "host", measures["test"], 300).differences["arc"]
    assert found["zero_shot_AUROC"].difference > 0.1
    assert found["zero_shot_AUROC"].corrected is not None
    assert found["pointing_game"].low > 0


def test_runs_that_write_nothing_are_compared_by_tasks_alone(folders):
    runs = folders(host=3, arc=9)
    for own in runs.values():
        for run in own:
            run.predictions("test").unlink()
    with pytest.raises(UserError, match="no task that all of them did on test"):
        score_split(runs, "test", None)
    for name, own in runs.items():
        for seed, run in enumerate(own, start=1):
            write_jsonl(run.tasks / "zero_shot_test.jsonl", task_rows(seed, {"host": 2, "arc": 9}[name]))
    scored = score_split(runs, "test", None)
    assert scored.ids == [f"s{i:02d}" for i in range(STUDIES)]
    assert set(scored.cards["host"][0].values) == {"pointing_game", "zero_shot_AUROC"}
    assert compare_split(scored, "host", ["zero_shot_AUROC"], 300).differences["arc"]["zero_shot_AUROC"].low > 0


@pytest.mark.parametrize(
    ("rows", "said"),
    [(task_rows(1, 3)[1:], "other studies"), ([{"id": "s00"}], "something else")],
    ids=["fewer", "other"],
)
def test_a_task_of_other_studies_is_told(folders, rows, said):
    runs = folders(host=3)
    for run in runs["host"]:
        write_jsonl(run.tasks / "zero_shot_test.jsonl", rows)
    with pytest.raises(UserError, match=said):
        score_split(runs, "test", None)


def test_means_over_seeds_differences_and_corrected_p_values_are_those_of_the_records(folders):
    runs = folders(host=3, arc=9, mined=3)
    scored = score_split(runs, "test", None)
    assert scored.ids == [f"s{i:02d}" for i in range(STUDIES)]
    found = compare_split(scored, "host", ["findings_attributes_F1", "specificity"], 300)
    # micro F1 of one finding per study and text is the share of reports that are right
    share = {
        name: np.mean([[r["generated"] == r["reference"] for r in records(seed, right)] for seed in (1, 2)])
        for name, right in (("host", 3), ("arc", 9), ("mined", 3))
    }
    arc, mined = (found.differences[name]["findings_attributes_F1"] for name in ("arc", "mined"))
    assert arc.difference == pytest.approx(share["arc"] - share["host"])
    assert arc.low > 0
    assert (mined.difference, mined.low, mined.high, mined.p_value) == (0, 0, 0, 1)
    # four comparisons, of which those of arc are the two that chance does not make
    p_values = sorted(found.differences["arc"][name].p_value for name in ("findings_attributes_F1", "specificity"))
    corrected = sorted(found.differences["arc"][name].corrected for name in ("findings_attributes_F1", "specificity"))
    assert corrected == pytest.approx([4 * p_values[0], max(4 * p_values[0], 3 * p_values[1])])
    assert found.differences["arc"]["findings_F1"].corrected is None
    low, high = found.intervals["arc"]["findings_attributes_F1"]
    assert low < share["arc"] < high


def test_the_mean_over_seeds_of_scores_that_are_no_means():
    rng = np.random.default_rng(0)
    rows = rng.random((3, 5, 2))
    ratios = [SumStatistic(own, lambda sums: {"ratio": sums[..., 0] / sums[..., 1]}) for own in rows]
    (mean,) = means_of_runs([[statistic] for statistic in ratios]).values()
    weights = rng.integers(0, 3, size=(4, 5)) + 0.5
    expected = [np.mean([(w @ own)[0] / (w @ own)[1] for own in rows]) for w in weights]
    np.testing.assert_allclose(mean.under(weights)["ratio"], expected)


@pytest.mark.parametrize("change", ["reference", "id"])
def test_runs_on_other_studies_are_not_compared(folders, change):
    runs = folders(host=3, arc=9)
    changed = records(2, 9)
    changed[4][change] = "other"
    write_jsonl(runs["arc"][1].predictions("val"), changed)
    with pytest.raises(
        UserError, match=rf"arc/seed_2/.* has other {'studies' if change == 'id' else 'references'} than"
    ):
        score_split(runs, "val", None)


def test_measures_that_runs_do_not_have(folders):
    runs = folders(host=3)
    scored = score_split(runs, "val", None)
    both = {"val": scored, "test": scored}
    assert available_measures(both, ["findings_F1", "specificity"])["test"] == ["findings_F1", "specificity"]
    with pytest.raises(UserError, match=r"but got specifcity\. There are: .*specificity"):
        available_measures(both, ["findings_F1", "specifcity"])
    write_jsonl(runs["host"][1].predictions("val"), records(2, 3, findings=False))
    unread = score_split(runs, "val", None)
    on_val_alone = {"val": scored, "test": unread}
    assert available_measures(on_val_alone, ["findings_F1", "informativeness", "specificity"]) == {
        "val": ["specificity"],
        "test": ["specificity"],
    }
    with pytest.raises(UserError, match="but got findings_F1"):
        available_measures({"val": unread, "test": scored}, ["findings_F1"])


NEW = ["findings_attributes_F1", "findings_F1_rare", "informativeness", "likelihood_R@1", "likelihood_r2i_R@1"]


def measured_records(rng, skill):
    """Of 40 studies 20 have a mass, 10 a nodule, 8 a pneumothorax; the last study has no peers."""
    rows = []
    for i in range(40):
        true = [name for name, every in (("mass", 2), ("nodule", 4), ("pneumothorax", 5)) if i % every == 0]
        stated = [name for name in true if rng.random() < skill]
        stated += [name for name in ("nodule", "pneumothorax") if rng.random() < 0.1]
        ranks = {name: float(1 if rng.random() < skill else 3) for name in ("likelihood_rank", "likelihood_r2i_rank")}
        rows.append(
            {
                "id": f"s{i:02d}",
                "reference": f"report {i}",
                "generated": "any",
                "findings": {
                    side: [[name, []] for name in sorted(set(of))]
                    for side, of in (("reference", true), ("generated", stated))
                },
                "measured": {"loss": 1.0, "tokens": 2.0, **(ranks if i < 39 else {})},
            }
        )
    return rows


def by_hand(name, rows):
    """A measure of records in plain loops."""
    if name.startswith("likelihood"):
        key = "likelihood_r2i_rank" if "r2i" in name else "likelihood_rank"
        hits = [row["measured"][key] == 1 for row in rows if key in row["measured"]]
        return sum(hits) / len(hits)
    right = false = missed = 0
    for row in rows:
        stated, true = ({finding for finding, _ in row["findings"][side]} for side in ("generated", "reference"))
        if name == "findings_F1_rare":
            stated, true = stated & {"pneumothorax"}, true & {"pneumothorax"}
        right, false, missed = right + len(stated & true), false + len(stated - true), missed + len(true - stated)
    return 2 * right / max(2 * right + false + missed, 1)


@pytest.mark.parametrize("name", ["findings_F1_rare", "likelihood_R@1", "likelihood_r2i_R@1"])
def test_intervals_of_the_default_measures_are_those_of_drawing_studies_and_seeds_one_by_one(tmp_path, name):
    rng = np.random.default_rng(5)
    rows = {
        variant: [measured_records(rng, skill) for _ in range(3)] for variant, skill in (("host", 0.4), ("arc", 0.7))
    }
    folders = {}
    for variant, of_seeds in rows.items():
        folders[variant] = [RunFolder(tmp_path / variant / str(seed)) for seed in range(3)]
        for folder, of_seed in zip(folders[variant], of_seeds, strict=True):
            write_jsonl(folder.predictions("test"), of_seed)
    found = compare_split(score_split(folders, "test", None), "host", NEW, 2000).differences["arc"][name]
    observed, drawn = [], []
    for seed in range(3):
        observed.append(by_hand(name, rows["arc"][seed]) - by_hand(name, rows["host"][seed]))
    for _ in range(2000):
        studies, seeds = rng.integers(40, size=40), rng.integers(3, size=3)
        of_seeds = [
            by_hand(name, [rows["arc"][seed][i] for i in studies])
            - by_hand(name, [rows["host"][seed][i] for i in studies])
            for seed in seeds
        ]
        drawn.append(np.mean(of_seeds))
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.difference == pytest.approx(np.mean(observed))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_measures_by_likelihood_may_be_of_test_alone(comparison, folders):
    runs = folders(host=3, arc=9)
    rng = np.random.default_rng(0)
    for own in runs.values():
        for run in own:
            write_jsonl(run.predictions("test"), measured_records(rng, 0.5))
    scored = {split: score_split(runs, split, None) for split in ("val", "test")}
    measures = available_measures(scored, ["likelihood_R@1", "specificity"])
    assert measures == {"val": ["specificity"], "test": ["likelihood_R@1", "specificity"]}
    with pytest.raises(UserError, match=r"but got likelihood_R@1\. There are"):  # nothing would choose a variant
        available_measures(scored, ["likelihood_R@1"])
    of_both = Comparison(
        baseline="host",
        seeds=[1, 2],
        measures=measures["test"],
        resamples=100,
        variants={
            name: variant_result(own, [1, 2], [], {split: scored[split].cards[name] for split in scored})
            for name, own in runs.items()
        },
        splits={split: compare_split(scored[split], "host", measures[split], 100) for split in scored},
        notes=[],
    )
    assert of_both.chosen_by == "specificity"
    assert choice(of_both).startswith("Best on val by specificity")
    assert [line.split(",")[1].split()[0] for line in verdicts(of_both, "val")] == ["specificity"]
    assert [line.split(",")[1].split()[0] for line in verdicts(of_both, "test")] == ["likelihood_R@1", "specificity"]
    assert [len(scores_figure(of_both, split).axes) for split in ("val", "test")] == [1, 2]
    assert "| arc | likelihood_R@1 |" in markdown(of_both)


def test_variants_under_other_seeds_are_compared_under_those_that_both_have(folders):
    runs = folders(host=3, arc=9)
    scored = score_split({"host": runs["host"], "arc": runs["arc"][1:]}, "test", None)
    seeds = {"host": [1, 2], "arc": [2]}
    found = compare_split(scored, "host", ["specificity"], 100, seeds).differences["arc"]["specificity"]
    of_one = score_split({name: own[1:] for name, own in runs.items()}, "test", None)
    assert found == compare_split(of_one, "host", ["specificity"], 100).differences["arc"]["specificity"]
    of_all = compare_split(score_split(runs, "test", None), "host", ["specificity"], 100)
    assert found != of_all.differences["arc"]["specificity"]


def test_the_seconds_of_a_run_that_was_resumed_are_not_known(folders):
    run = folders(host=3)["host"][0]
    assert seconds_of(run) == 13.0
    for version in (0, 1):
        (run.path / f"logs/csv/version_{version}").mkdir(parents=True)
    assert seconds_of(run) is None


@pytest.fixture
def comparison(folders):
    runs = folders(host=3, a_b=9, mined=3)
    scored = {split: score_split(runs, split, None) for split in ("val", "test")}
    measures = ["findings_attributes_F1", "specificity"]
    return Comparison(
        baseline="host",
        seeds=[1, 2],
        measures=measures,
        resamples=400,
        variants={
            name: variant_result(own, [1, 2], [f"model={name}"], {split: scored[split].cards[name] for split in scored})
            for name, own in runs.items()
        },
        splits={
            split: compare_split(scored[split], "host", measures, 400, pairs=[("a_b", "mined")]) for split in scored
        },
        notes=["arc is left out."],
    )


PLOTS = ("scores_val", "scores_test", "differences_val", "differences_test", "curves", "curves_all")
CURVES = {name: [{"val/BLEU-4": {1: 0.1 * seed, 2: 0.2}} for seed in (1, 2)] for name in ("host", "a_b", "mined")}


def test_a_comparison_read_back_gives_the_same_tables_and_plots(comparison, tmp_path):
    path = tmp_path / "comparison.json"
    write_json(path, comparison.to_json(), indent=None)
    again = Comparison.read(path)
    assert again == comparison
    assert (markdown(again), latex(again)) == (markdown(comparison), latex(comparison))
    for folder in ("one", "two"):
        write_plots(again, CURVES, tmp_path / folder)
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {f"{name}.{kind}" for name in PLOTS for kind in ("svg", "png")} | {"curves.csv"}
    without = write_plots(again, {name: [{}, {}] for name in CURVES}, tmp_path / "without")
    assert {path.stem for path in without} == set(PLOTS) - {"curves", "curves_all"}
    assert (tmp_path / "one/curves.svg").read_bytes() == (tmp_path / "two/curves.svg").read_bytes()
    path.write_text('{"baseline": "host"}')
    with pytest.raises(UserError, match=r"comparison\.json of hardneg-compare"):
        Comparison.read(path)


def test_plots_show_the_figures(comparison):
    axes = scores_figure(comparison, "test").axes[0]
    low, high = comparison.splits["test"].intervals["a_b"]["findings_attributes_F1"]
    lines = [tuple(line.get_xdata()) for line in axes.lines]
    assert (low, high) in lines
    assert tuple(comparison.scores("a_b", "test", "findings_attributes_F1")) in lines


def test_pairs_are_compared_like_variants_with_the_baseline_and_corrected_with_them(folders):
    scored = score_split(folders(host=3, arc=9, mined=5), "test", None)
    measures = ["findings_attributes_F1", "specificity"]
    alone = compare_split(scored, "host", measures, 300)
    found = compare_split(scored, "host", measures, 300, pairs=[("mined", "arc")])
    (pair,) = found.pairs
    against_arc = compare_split(scored, "arc", measures, 300).differences["mined"]
    for name, difference in pair.differences.items():
        assert dataclasses.replace(difference, corrected=None) == dataclasses.replace(against_arc[name], corrected=None)
    p_values = [of[name].p_value for of in (*alone.differences.values(), pair.differences) for name in measures]
    corrected = [of[name].corrected for of in (*found.differences.values(), pair.differences) for name in measures]
    order = np.argsort(p_values)  # by Holm: the smallest times 6, the next times 5, ..., never less than one before
    steps = np.maximum.accumulate([p_values[place] * (6 - rank) for rank, place in enumerate(order)])
    assert [corrected[place] for place in order] == pytest.approx(np.minimum(steps, 1))
    assert alone.pairs == []


def test_a_forest_plot_shows_each_difference_its_interval_and_its_seeds(comparison):
    figure = forest_figure(comparison, "test")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "a_b − host",
        "mined − host",
        "a_b − mined",
    ]
    lines = [tuple(line.get_xdata()) for line in figure.axes[1].lines]
    (pair,) = comparison.splits["test"].pairs
    for contrast in (*comparison.against_baseline("test"), pair):
        found = contrast.differences["specificity"]
        ours, theirs = (
            comparison.variants[name].scores["test"]["specificity"] for name in (contrast.variant, contrast.other)
        )
        assert (found.low, found.high) in lines
        assert (found.difference,) in lines
        assert tuple(np.subtract(ours, theirs)) in lines
    filled = [line.get_markerfacecolor() != "white" for line in figure.axes[1].lines if line.get_marker() == "D"]
    assert filled == [True, False, True]
    alone = {"test": dataclasses.replace(comparison.splits["test"], differences={}, pairs=[])}
    assert forest_figure(dataclasses.replace(comparison, splits=alone), "test") is None


def test_differences_of_seeds_are_those_of_the_seeds_that_both_have(comparison):
    contrast = Contrast("a_b", "host", {})
    scores = {"a_b": [0.5, 0.75], "host": [0.25, 0.375]}
    variants = {
        name: dataclasses.replace(comparison.variants[name], seeds=seeds, scores={"test": {"x": scores[name]}})
        for name, seeds in (("a_b", [2, 3]), ("host", [1, 2]))
    }
    own = dataclasses.replace(comparison, variants=variants)
    assert own.seed_differences("test", contrast, "x") == [0.5 - 0.375]


def test_tables_hold_means_and_spreads_over_seeds(comparison):
    table = scores_table(comparison, "test")
    column = table.header.index("specificity")
    for row in table.rows:
        values = comparison.variants[row[0]].scores["test"]["specificity"]
        assert row[column] == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    cost = tables(comparison)[-1]
    assert [row[1:4] for row in cost.rows] == [["13.0", "1.00", "7"], ["19.0", "1.46", "7"], ["13.0", "1.00", "7"]]


def test_documents_say_all_of_it(comparison):
    document = markdown(comparison)
    rows = [line for line in document.splitlines() if line.startswith("| a_b | specificity |")]
    assert len(rows) == 2  # test and val
    assert document.count("\n| a_b against mined |") == 6
    assert all(row.endswith("| better |") for row in rows)
    assert "- arc is left out." in document
    tex = latex(comparison)
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == tex.count(r"\end{table}") == len(tables(comparison))
    body = [line for line in tex.splitlines() if not line.startswith("%")]
    assert not re.search(r"(?<!\\)[_%#]", "\n".join(body))
    assert any(line.startswith(r"a\_b & findings\_attributes\_F1 & ") for line in body)


def test_the_summary_is_bold_where_a_difference_is_found(comparison):
    scores, differences = summary_of_scores(comparison), summary_of_differences(comparison)
    assert scores.header == ["variant", "findings_attributes_F1", "specificity", "unique_share"]
    assert [row[0] for row in scores.rows] == ["host", "a_b", "mined"]
    assert [row[0] for row in differences.rows] == ["a_b - host", "mined - host", "a_b - mined"]
    assert [[cell.startswith("**") for cell in row[1:]] for row in differences.rows] == [
        [True, True],
        [False, False],
        [True, True],
    ]
    found = comparison.splits["test"].differences["a_b"]["specificity"]
    assert differences.rows[0][2] == f"**{found.difference:+.3f} ({found.low:+.3f} to {found.high:+.3f})**"
    document = summary(comparison)
    unequal = summary_of_scores(under(comparison, [1, 2], a_b=[2]))
    assert unequal.header[:2] == ["variant", "seeds"]
    assert [row[1] for row in unequal.rows] == ["2", "1", "2"]
    labels = [row[0] for row in summary_of_differences(under(comparison, [1, 2], a_b=[2])).rows]
    alone = "(one seed: studies alone)"
    assert labels == [f"a_b - host {alone}", "mined - host", f"a_b - mined {alone}"]
    assert "after correction for 6 comparisons" in document  # three contrasts, two measures
    assert "- arc is left out." in document


@pytest.mark.parametrize(
    ("low", "high", "corrected", "word"),
    [
        (0.01, 0.03, 0.049, "better"),
        (0.01, 0.03, 0.05, "no difference found"),
        (-0.001, 0.03, 0.001, "no difference found"),
        (-0.03, -0.01, 0.001, "worse"),
        (-0.03, 0.0, 0.001, "no difference found"),
    ],
)
def test_a_difference_takes_both_the_p_value_and_the_interval(low, high, corrected, word):
    compared = VariantDifference(difference=(low + high) / 2, low=low, high=high, p_value=0.0001, corrected=corrected)
    assert verdict(compared).partition(":")[0] == word


def result(val, test):
    return VariantResult([], {"val": {"specificity": [val]}, "test": {"specificity": [test]}}, [None], {}, {}, [1])


def test_the_best_variant_is_chosen_on_val_whatever_test_says(comparison):
    split = comparison.splits["test"]
    variants = {"host": result(0.5, 0.9), "a_b": result(0.6, 0.1), "mined": result(0.4, 1.0)}
    chosen = dataclasses.replace(comparison, seeds=[1], measures=["specificity"], variants=variants)
    assert chosen.chosen == "a_b"
    assert choice(chosen).startswith("Best on val by specificity (mean over seeds): a_b, 0.600; on test it has 0.100, ")
    assert verdict(split.differences["a_b"]["specificity"], chosen.floor) in choice(chosen)
    alone = dataclasses.replace(chosen, variants={"host": variants["host"]})
    assert choice(alone).endswith("It is the baseline.")


def under(comparison, seeds, **others):
    """The comparison as if its variants had been trained under these seeds."""
    variants = {
        name: dataclasses.replace(result, seeds=others.get(name, seeds)) for name, result in comparison.variants.items()
    }
    return dataclasses.replace(comparison, variants=variants, notes=[])


def test_what_limits_the_figures_is_said(comparison):
    several = list(cautions(comparison))
    assert several[0] == "arc is left out."
    assert several[1].startswith("Only 2 seeds")
    assert [line.split(" studies on ")[0] for line in several[2:]] == ["Only 24", "Only 24"]
    assert next(iter(cautions(under(comparison, [1])))).startswith("Only one seed")
    assert next(iter(cautions(under(comparison, [1, 2, 3], a_b=[2])))).startswith("Only 1 to 3 seeds")
    many = {name: dataclasses.replace(split, studies=100) for name, split in comparison.splits.items()}
    assert not list(cautions(dataclasses.replace(under(comparison, [1, 2, 3, 4, 5]), splits=many)))
    assert len(verdicts(comparison, "test")) == 6
    assert json.dumps(comparison.to_json(), allow_nan=False)


def test_a_p_value_that_more_draws_could_lower_is_a_bound(comparison):
    line = next(line for line in verdicts(comparison, "test") if line.startswith("a_b against host, specificity"))
    compared = comparison.splits["test"].differences["a_b"]["specificity"]
    assert (compared.p_value, compared.corrected) == pytest.approx((2 / 401, 6 * 2 / 401))
    assert line.endswith("), p <= 0.030 after correction.")
    assert next(row[6:8] for row in tables(comparison)[1].rows if row[:2] == ["a_b", "specificity"]) == [
        "<= 0.005",
        "<= 0.030",
    ]
    few = dataclasses.replace(comparison, resamples=200)
    assert any(line.startswith("With 200 draws no corrected p-value is below 0.060") for line in cautions(few))
    assert not any("draws" in line for line in cautions(comparison))


def test_the_p_values_of_an_earlier_comparison_are_shown_where_they_go_with_the_interval(comparison, tmp_path):
    content = comparison.to_json()
    del content["p_values_over"]
    earlier = {"difference": -0.07, "low": -0.13, "high": 0.002, "p_value": 1 / 401, "corrected": 6 / 401}
    content["splits"]["test"]["differences"]["mined"]["specificity"] = earlier
    write_json(tmp_path / "comparison.json", content)
    read = Comparison.read(tmp_path / "comparison.json")
    assert "mined against host, specificity on test: no difference found: -0.070 (-0.130 to +0.002)." in verdicts(
        read, "test"
    )
    row = next(row for row in tables(read)[1].rows if row[:2] == ["mined", "specificity"])
    assert row[5:] == ["-0.130 to +0.002", "-", "-", "no difference found"]
    assert "over studies alone" in markdown(read)
    assert "from the same draws" in markdown(comparison)
    assert read.floor == comparison.floor / 2


@pytest.mark.parametrize(
    "name", ["plain", "r2gen", "r2gencmn", "clinic", "clinic_controls", "clinic_more_data", "objectives"]
)
def test_no_verdict_on_published_values_has_a_small_p_value_without_a_difference(name):
    read = Comparison.read(Path(__file__).parents[3] / "docs" / "results" / f"{name}.json")
    lines = [line for split in read.splits for line in verdicts(read, split) if "no difference found" in line]
    p_values = [float(found[1]) for line in lines if (found := re.search(r"p <?=? ?([0-9.]+) after", line))]
    assert p_values
    assert min(p_values) >= 0.05


@pytest.mark.parametrize("name", ["plain", "r2gen", "r2gencmn", "clinic"])
def test_the_published_tables_follow_from_the_published_values(name):
    results = Path(__file__).parents[3] / "docs" / "results"
    assert markdown(Comparison.read(results / f"{name}.json")) == (results / f"{name}.md").read_text(encoding="utf-8")
