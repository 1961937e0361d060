"""Scores as a table that a person can read."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

COLUMNS = (
    "BLEU-1",
    "BLEU-4",
    "METEOR",
    "ROUGE-L",
    "CIDEr",
    "findings_F1",
    "findings_attributes_F1",
    "R@1",
    "R@5",
    "R@10",
    "unique_share",
    "report_loss",
)
HEADINGS = {
    "findings_F1": "finding F1",
    "findings_attributes_F1": "with attributes",
    "unique_share": "unique",
    "report_loss": "loss",
}


def print_scores(title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """One row per model, the usual scores as columns; a score that no row has is left out."""
    columns = [name for name in COLUMNS if any(name in scores for scores in rows.values())]
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(HEADINGS.get(name, name), justify="right")
    for row, scores in rows.items():
        table.add_row(row, *(f"{scores[name]:.3f}" if name in scores else "-" for name in columns))
    # a pipe has no width of its own, and a table folded to 80 columns cannot be read
    console = Console()
    Console(width=max(console.width, 160) if not console.is_terminal else None).print(table)
