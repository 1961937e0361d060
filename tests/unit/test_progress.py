"""Progress outside a terminal, by a clock that the test sets, and bars on a terminal that the test imitates."""

import io
import logging
import sys
from types import SimpleNamespace

import pytest

from hardneg_plugin import progress as module
from hardneg_plugin.progress import Work, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_log_gets_a_line_a_minute(clock, capsys):
    with Work("preparing studies", 1200) as work:
        for step in range(1, 1201):
            clock[0] += 0.125  # 150 s in all
            work.done(step)
    assert capsys.readouterr().out.splitlines() == [
        "preparing studies: 480 of 1,200, 1:00",
        "preparing studies: 960 of 1,200, 2:00",
    ]


def test_short_work_prints_nothing(capsys):
    assert list(progress(range(3), "comparing")) == [0, 1, 2]
    assert list(progress((step for step in "ab"), "of unknown length")) == ["a", "b"]
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar_and_warnings_stand_above_it(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    handler = logging.StreamHandler(screen)
    logging.getLogger().addHandler(handler)
    try:
        for step in progress(range(4), "comparing reports"):
            if step == 2:
                logging.getLogger("test").warning("a warning amid it")
        assert handler.stream is screen
    finally:
        logging.getLogger().removeHandler(handler)
    assert sys.stdout is screen
    shown = screen.getvalue()
    assert "comparing reports" in shown
    assert "4/4" in shown
    # the bar is cleared before it, and drawn again after it
    assert "\x1b[2Ka warning amid it" in shown
    assert "comparing reports" in shown[shown.index("a warning amid it") :]
