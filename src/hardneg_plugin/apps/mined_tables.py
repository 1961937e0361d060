"""What was mined, as tables that a person can read."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hardneg_plugin.mining.matches import Excluded

CUT = 160
"""Characters shown of a report."""
REASONS = {"text": "same text", "patient": "same patient", "label set": "same label set", "any": "any of these"}


def print_counts(title: str, studies: int, excluded: Mapping[str, Excluded], filled: Mapping[str, int]) -> None:
    """What each reason excluded, and how many studies have their neighbours.

    Args:
        title: above the table.
        studies: how many there are.
        excluded: by reason.
        filled: how many studies have all of the neighbours wanted, or not.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("excluded by")
    for name in ("studies with one", "share", "pairs"):
        table.add_column(name, justify="right")
    for reason, count in excluded.items():
        table.add_row(
            REASONS.get(reason, reason), f"{count.studies:,}", f"{count.studies / studies:.1%}", f"{count.pairs:,}"
        )
    for reason in sorted(REASONS.keys() - excluded.keys()):
        table.add_row(REASONS[reason], "not compared", "", "")
    table.add_section()
    for name, number in filled.items():
        table.add_row(f"{name} neighbours", f"{number:,}", f"{number / studies:.1%}", "")
    _console().print(table)


def print_hardest(pairs: Sequence[tuple[float, int, int]], ids: Sequence[str], reports: Sequence[str]) -> None:
    """The most similar pairs, each as its score and the two studies, with the beginnings of both reports."""
    table = Table(title="The hardest pairs", title_justify="left", show_lines=True)
    table.add_column("cosine", justify="right", no_wrap=True)
    table.add_column("study", overflow="fold")
    table.add_column("report")
    for score, *studies in pairs:
        names, texts = (
            "\n".join(column) for column in zip(*((ids[i], _cut(reports[i])) for i in studies), strict=True)
        )
        # as Text: a report may hold what rich takes for markup
        table.add_row(f"{score:.3f}", Text(names), Text(texts))
    _console().print(table)


def _cut(report: str) -> str:
    text = " ".join(report.split())
    return text if len(text) <= CUT else f"{text[: CUT - 3]}..."


def _console() -> Console:
    # a pipe has no width of its own, and a table folded to 80 columns cannot be read
    console = Console()
    return Console(width=max(console.width, 200) if not console.is_terminal else None)
