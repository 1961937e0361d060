"""Tables on the screen."""

import io

import pytest
from rich.console import Console

from hardneg_plugin.apps.shared.console import COLUMNS, make_table, print_scores


@pytest.mark.parametrize("title", ["fertig é: report at 256 px", "t"])
def test_a_title_is_not_folded(title):
    table = make_table(title, "", "studies")
    table.add_row("train", "79")
    screen = io.StringIO()
    Console(file=screen, width=100).print(table)
    first, *rows = screen.getvalue().splitlines()
    assert first.strip() == title
    assert len({len(row) for row in rows}) == 1


def test_headings_are_whole_in_a_log_and_on_a_narrow_screen(capsys):
    scores = dict.fromkeys(COLUMNS, 0.5)
    print_scores("Test split", {"report of the most similar image": scores})
    assert "informativeness" in capsys.readouterr().out
    table = make_table("Test split", "", *COLUMNS)
    screen = io.StringIO()
    Console(file=screen, width=140).print(table)
    assert "…" not in screen.getvalue()


def test_a_title_does_not_widen_a_table_beyond_the_screen():
    table = make_table("word " * 40, "", "studies")
    table.add_row("train", "79")
    screen = io.StringIO()
    Console(file=screen, width=60).print(table)
    assert max(len(line) for line in screen.getvalue().splitlines()) <= 60
