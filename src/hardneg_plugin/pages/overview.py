"""What the page of a comparison shows before its studies: means, differences, seeds and cost, as plain data."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hardneg_plugin.comparison.comparison import OVER_BOTH, Comparison, Contrast, VariantDifference
from hardneg_plugin.comparison.settings import ALPHA
from hardneg_plugin.comparison.summary import BESIDE
from hardneg_plugin.comparison.tables import cost_table, mean_and_deviation
from hardneg_plugin.comparison.verdicts import cautions, corrected_p_value, is_found, word_of

SPLIT = "test"


@dataclass(frozen=True)
class OverviewCell:
    """A figure, with what stands below it; `verdict` is "better", "worse" or empty."""

    text: str
    below: tuple[str, ...] = ()
    verdict: str = ""


@dataclass(frozen=True)
class OverviewTable:
    """The first cell of a row is its name."""

    title: str
    about: str
    header: list[str]
    rows: list[list[OverviewCell]]


@dataclass(frozen=True)
class ForestRow:
    """A difference with its interval and those of single seeds."""

    label: str
    difference: float
    low: float
    high: float
    seeds: list[float]
    told: str
    """The figures as a text."""
    verdict: str
    """As of `OverviewCell`."""


@dataclass(frozen=True)
class ForestPanel:
    """The differences in one measure, which share an axis."""

    measure: str
    rows: list[ForestRow]


@dataclass(frozen=True)
class Overview:
    """The first view of a page."""

    about: str
    verdicts: list[tuple[str, str]]
    """A mark, "better", "worse", "mixed" or empty, and a short line."""
    means: OverviewTable
    forest: list[ForestPanel]
    seeds: OverviewTable
    cost: OverviewTable
    notes: list[str]
    csv: str
    """A row for each variant and score."""


def overview_of(comparison: Comparison, without_model: Mapping[str, Mapping[str, float]] | None = None) -> Overview:
    """What a page shows of a comparison: its test split.

    Args:
        comparison: finished.
        without_model: scores of reports that need no model, by their name; shown below those of the variants.
    """
    over = comparison.number_of_seeds
    return Overview(
        about=f"Test split: {comparison.splits[SPLIT].studies} studies, {'one seed' if over == '1' else f'{over} seeds'}.",
        verdicts=[_choice(comparison), *(_line(comparison, contrast) for contrast in _contrasts(comparison))],
        means=_means(comparison, without_model or {}),
        forest=[_panel(comparison, measure) for measure in comparison.measures_on(SPLIT)],
        seeds=_seeds(comparison),
        cost=_cost(comparison),
        notes=list(cautions(comparison)),
        csv=_csv(comparison),
    )


def _contrasts(comparison: Comparison) -> list[Contrast]:
    return [*comparison.against_baseline(SPLIT), *comparison.splits[SPLIT].pairs]


def _name(comparison: Comparison, contrast: Contrast) -> str:
    return contrast.variant if contrast.other == comparison.baseline else f"{contrast.variant} − {contrast.other}"


def _choice(comparison: Comparison) -> tuple[str, str]:
    chosen, measure = comparison.chosen, comparison.chosen_by
    role = ", the baseline" if chosen == comparison.baseline else ""
    mean = float(np.mean(comparison.scores(chosen, "val", measure)))
    return "", f"Best on validation by {measure}: {chosen}{role} ({mean:.3f})."


def _line(comparison: Comparison, contrast: Contrast) -> tuple[str, str]:
    """All measures of a contrast in a line."""
    words: dict[str, list[str]] = {"better": [], "worse": []}
    measures = comparison.measures_on(SPLIT)
    for measure in measures:
        if is_found(contrast.differences[measure]):
            words[word_of(contrast.differences[measure])].append(measure)
    found = [f"{word} in {', '.join(names)}" for word, names in words.items() if names]
    name = f"{contrast.variant} against {contrast.other}"
    if not found:
        return "", f"{name}: no difference found."
    kinds = [word for word, names in words.items() if names]
    return kinds[0] if len(kinds) == 1 else "mixed", f"{name}: {'; '.join(found)}."


def _means(comparison: Comparison, without_model: Mapping[str, Mapping[str, float]]) -> OverviewTable:
    """Means over seeds; below them the difference from the baseline, its interval and its corrected p-value."""
    measures = comparison.measures_on(SPLIT)
    names = _known(comparison, [*measures, *BESIDE])
    differences = comparison.splits[SPLIT].differences
    rows = []
    for variant in comparison.variants:
        cells = [OverviewCell(variant, _role(comparison, variant))]
        for name in names:
            text = _minus(mean_and_deviation(comparison.scores(variant, SPLIT, name)))
            compared = differences.get(variant, {}).get(name)
            cells.append(
                OverviewCell(text)
                if compared is None
                else OverviewCell(
                    text, _told(comparison, compared, name in measures), _verdict(compared, name in measures)
                )
            )
        rows.append(cells)
    for report, scores in without_model.items():
        shown = [_minus(f"{scores[name]:.3f}") if name in scores else "–" for name in names]
        rows.append([OverviewCell(report, ("no model",)), *map(OverviewCell, shown)])
    resampled = "studies and seeds" if comparison.number_of_seeds != "1" else "studies"
    p_values = (
        f"p is corrected for {comparison.number_of_tests(SPLIT)} comparisons"
        if comparison.p_values_over == OVER_BOTH
        else f"p is over studies alone, corrected for {comparison.number_of_tests(SPLIT)} comparisons, and left out where it "
        "does not go with the interval"
    )
    beside = [name for name in names if name not in measures]
    about = (
        f"Mean ± standard deviation over seeds. Below: difference from {comparison.baseline}, its {round(100 * (1 - ALPHA))} % "
        f"interval over {resampled} ({comparison.resamples} draws); {p_values}. ▲ ▼: interval off zero and p < {ALPHA}."
    )
    if beside:
        about += f" Not tested: {', '.join(beside)}."
    return OverviewTable("Means over seeds", about, ["variant", *names], rows)


def _role(comparison: Comparison, variant: str) -> tuple[str, ...]:
    """What stands below the name of a variant."""
    if variant == comparison.baseline:
        return ("baseline",)
    own, baseline = (set(comparison.variants[name].seeds) for name in (variant, comparison.baseline))
    alone = len(own & baseline) == 1 and comparison.number_of_seeds != "1"
    return ("one seed:", "studies alone") if alone else ()


def _known(comparison: Comparison, names: Sequence[str]) -> list[str]:
    return [
        name
        for name in dict.fromkeys(names)
        if any(comparison.scores(variant, SPLIT, name) for variant in comparison.variants)
    ]


def _told(comparison: Comparison, compared: VariantDifference, counts: bool) -> tuple[str, ...]:
    told = [_signed(compared.difference), f"({_signed(compared.low)} to {_signed(compared.high)})"]
    p_value = corrected_p_value(compared, comparison.floor) if counts else None
    return (*told, p_value.replace("<=", "≤")) if p_value else tuple(told)


def _signed(value: float) -> str:
    return _minus(f"{value:+.3f}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _verdict(compared: VariantDifference, counts: bool) -> str:
    return word_of(compared) if counts and is_found(compared) else ""


def _panel(comparison: Comparison, measure: str) -> ForestPanel:
    rows = []
    for contrast in _contrasts(comparison):
        compared = contrast.differences[measure]
        rows.append(
            ForestRow(
                label=_name(comparison, contrast),
                difference=compared.difference,
                low=compared.low,
                high=compared.high,
                seeds=comparison.seed_differences(SPLIT, contrast, measure),
                told=" ".join(_told(comparison, compared, True)),
                verdict=_verdict(compared, True),
            )
        )
    return ForestPanel(measure, rows)


def _seeds(comparison: Comparison) -> OverviewTable:
    """The score of each run."""
    names = _known(comparison, comparison.measures_on(SPLIT))
    seeds = list(dict.fromkeys(seed for result in comparison.variants.values() for seed in result.seeds))
    rows = []
    for variant, result in comparison.variants.items():
        cells = [OverviewCell(variant)]
        for name in names:
            values = dict(zip(result.seeds, comparison.scores(variant, SPLIT, name), strict=False))
            cells.append(
                OverviewCell(_minus(" · ".join(f"{values[seed]:.3f}" if seed in values else "–" for seed in seeds)))
            )
        rows.append(cells)
    about = f"In the order of the seeds {', '.join(map(str, seeds))}."
    return OverviewTable("Scores per seed", about, ["variant", *names], rows)


def _cost(comparison: Comparison) -> OverviewTable:
    table = cost_table(comparison)
    rows = [[OverviewCell(text) for text in row] for row in table.rows]
    return OverviewTable(
        "Cost", "Seconds of training per run that was never resumed, and parameters.", table.header, rows
    )


def _csv(comparison: Comparison) -> str:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    header = ["variant", "other", "score", "split", "mean", "difference", "low", "high", "p", "corrected_p", "verdict"]
    table.writerow(header)
    differences = [Contrast(comparison.baseline, "", {}), *_contrasts(comparison)]
    for contrast in differences:
        for name in _known(comparison, [*comparison.measures_on(SPLIT), *BESIDE]):
            values = comparison.scores(contrast.variant, SPLIT, name)
            compared = contrast.differences.get(name)
            row = [contrast.variant, contrast.other, name, SPLIT, f"{np.mean(values):.6g}" if values else ""]
            if compared is not None:
                figures = (compared.difference, compared.low, compared.high, compared.p_value, compared.corrected)
                row += ["" if value is None else f"{value:.6g}" for value in figures]
                row.append("" if compared.corrected is None else word_of(compared))
            table.writerow([*row, *[""] * (len(header) - len(row))])
    return text.getvalue()
