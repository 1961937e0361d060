"""What the commands print: tables of scores and of mined pairs."""

from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.table import Table

from hardneg_plugin.metrics.directions import direction_of
from hardneg_plugin.neighbours.groups import ExcludedCounts
from hardneg_plugin.plain_console import PlainConsole

COLUMNS = (
    "BLEU-1",
    "BLEU-4",
    "METEOR",
    "ROUGE-L",
    "CIDEr",
    "findings_F1",
    "findings_attributes_F1",
    "findings_F1_rare",
    "informativeness",
    "R@1",
    "R@5",
    "R@10",
    "unique_share",
    "report_loss",
)
HEADINGS = {
    "findings_F1": "finding F1",
    "findings_attributes_F1": "with attributes",
    "findings_F1_rare": "rare finding F1",
    "likelihood_R@1": "likelihood R@1",
    "likelihood_r2i_R@1": "likelihood r2i R@1",
    "unique_share": "unique",
    "report_loss": "loss",
}
WIDEST_TITLE = 80
"""Columns that a title may widen a table to."""
CUT = 160
"""Characters shown of a report."""
REASONS = {"text": "same text", "patient": "same patient", "label set": "same label set", "any": "any of these"}


def console(at_least: int = 0) -> PlainConsole:
    """Standard output as a console.

    Args:
        at_least: columns where the output is no terminal: a table folded to the 80 columns of a pipe cannot be read.
    """
    usual = PlainConsole()
    return usual if usual.is_terminal else PlainConsole(width=max(usual.width, at_least))


def make_table(title: str, *headings: str) -> Table:
    """A table whose first column is text, and whose others are numbers.

    Args:
        title: above the table.
        headings: of the columns.

    >>> make_table("Test split", "", "BLEU-4").columns[1].justify
    'right'
    """
    # no narrower than its title, which rich would fold
    table = Table(title=title, title_justify="left", min_width=min(cell_len(title), WIDEST_TITLE))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left", no_wrap=not place, overflow="fold")
    return table


def print_scores(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print a table of scores.

    Args:
        title: above the table.
        rows: scores by model; those of `COLUMNS` that any model has are shown.
    """
    columns = [name for name in COLUMNS if any(name in scores for scores in rows.values())]
    table = make_table(title, "", *(HEADINGS.get(name, name) for name in columns))
    _say_which_are_better_lower(table, columns)
    for row, scores in rows.items():
        table.add_row(row, *(f"{scores[name]:.3f}" if name in scores else "-" for name in columns))
    console(at_least=200).print(table)


def print_clinical_scores(scores: Mapping[str, float]) -> None:
    """Print scores of models and label files below one another: they are many, and of long names.

    Args:
        scores: by name.
    """
    table = make_table("Clinical scores", "", "score")
    _say_which_are_better_lower(table, list(scores))
    for name, value in scores.items():
        table.add_row(name, f"{value:.3f}")
    console(at_least=200).print(table)


def print_counts(title: str, studies: int, excluded: Mapping[str, ExcludedCounts], filled: Mapping[str, int]) -> None:
    """Print what each reason excluded, and how many studies have their neighbours.

    Args:
        title: above the table.
        studies: how many there are.
        excluded: by reason.
        filled: numbers of studies by how many neighbours they have.
    """
    table = make_table(title, "excluded by", "studies with one", "share", "pairs")
    for reason, count in excluded.items():
        table.add_row(
            REASONS.get(reason, reason), f"{count.studies:,}", f"{count.studies / studies:.1%}", f"{count.pairs:,}"
        )
    for reason in sorted(REASONS.keys() - excluded.keys()):
        table.add_row(REASONS[reason], "not compared", "", "")
    table.add_section()
    for name, number in filled.items():
        table.add_row(f"{name} neighbours", f"{number:,}", f"{number / studies:.1%}", "")
    console(at_least=200).print(table)


def print_hardest(pairs: Sequence[tuple[float, int, int]], ids: Sequence[str], reports: Sequence[str]) -> None:
    """Print the most similar pairs, with the beginnings of both reports.

    Args:
        pairs: each its cosine and the places of both studies.
        ids, reports: of all studies.
    """
    table = Table(title="The hardest pairs", title_justify="left", show_lines=True)
    table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("study", overflow="fold")
    table.add_column("report")
    for score, *studies in pairs:
        names, texts = (
            "\n".join(column) for column in zip(*((ids[i], _cut(reports[i])) for i in studies), strict=True)
        )
        table.add_row(f"{score:.3f}", names, texts)
    console(at_least=200).print(table)


def _say_which_are_better_lower(table: Table, names: Sequence[str]) -> None:
    if lower := [HEADINGS.get(name, name) for name in names if direction_of(name) == "lower"]:
        table.caption, table.caption_justify = f"Lower is better: {', '.join(lower)}.", "left"


def _cut(report: str) -> str:
    text = " ".join(report.split())
    return text if len(text) <= CUT else f"{text[: CUT - 3]}..."
