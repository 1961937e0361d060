"""No text of others reaches a terminal as it is: it could move the cursor, clear the screen or turn letters around."""

import ast
import logging
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

import hardneg_plugin
from hardneg_plugin.apps.predict import _write
from hardneg_plugin.apps.shared.console import print_hardest, print_scores
from hardneg_plugin.apps.shared.hydra_command import _show_in_a_line, fail
from hardneg_plugin.apps.shared.image_arguments import StudyFiles
from hardneg_plugin.models.report_io import GeneratedReport
from hardneg_plugin.terminal import _PrintableRecord, printable, say, show_error

SOURCE = Path(hardneg_plugin.__file__).parent
ATTACKS = {
    "clear": "\x1b[2J",
    "title": "\x1b]0;owned\x07",
    "C1 sequence": "\x9b31m",
    "backspace": "normal\b\b\b\b\b\bfatal",
    "carriage return": "normal\rfatal",
    "turned": "\u202elamron",
    "isolate": "\u2066a\u2069",
    "mark": "\u200f",
    "zero width": "no\u200bdule",
    "tag": "\U000e0041",
    "line": "a\u2028b",
    "surrogate": "a\udc80",
    "delete": "a\x7f",
}


def assert_clean(printed):
    assert printed
    assert all(char.isprintable() or char in "\n\t" for char in printed), repr(printed)


@pytest.mark.parametrize("case", ATTACKS)
def test_what_a_terminal_would_obey_is_written_out(case, capsys):
    say("before", ATTACKS[case], "after")
    printed = capsys.readouterr().out
    assert_clean(printed)
    assert printed == f"before {ascii(ATTACKS[case])[1:-1]} after\n"


@given(st.text())
def test_printable_is_printable_and_stays_so(text):
    shown = printable(text)
    kept = "\n\t\u00ad\u200c\u200d"
    assert all(char.isprintable() or char in kept or char.isspace() or not char.isascii() for char in shown)
    assert not any(char in shown for char in "\x1b\x07\x08\r\x9b\u202e\u2066\u200b\ufeff\u2028")
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["A report.\n\tIndented.", "é 肺 ½ “a” – b", "می\u200cشود", "co\u00adoperate"])
def test_other_text_stays_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize("case", ATTACKS)
def test_tables_messages_warnings_logs_and_errors(case, capsys):
    attack = ATTACKS[case]
    print_scores(f"Scores of {attack}", {attack: {"BLEU-1": 0.5}})
    print_hardest([(0.9, 0, 1)], [attack, "b"], ["no effusion", attack])
    assert_clean(capsys.readouterr().out)
    _show_in_a_line(UserWarning(attack), UserWarning, "a.py", 1)
    with pytest.raises(SystemExit):
        fail(f"study {attack}")
    try:
        raise RuntimeError(f"study {attack}")
    except RuntimeError:
        show_error(*sys.exc_info())
    assert_clean(capsys.readouterr().err)
    record = _PrintableRecord("name", logging.WARNING, "a.py", 1, "%s: left out", (attack,), None)
    assert_clean(record.getMessage())


def test_markup_and_emoji_names_in_tables_are_text(capsys):
    text = "[link=https://example.org]heart[/link] [red] [/x] :heart:"
    print_hardest([(0.9, 0, 1)], ["a", text], ["no effusion", text])
    print_scores(text, {text: {"BLEU-1": 0.5}})
    printed = capsys.readouterr().out
    assert printed.count(text) == 4
    assert "\x1b" not in printed


@pytest.mark.parametrize("case", ATTACKS)
def test_predict_shows_reports_and_ids_plainly_and_keeps_them_in_its_records(tmp_path, case, capsys):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    studies = [StudyFiles(f"s{ATTACKS[case]}", (tmp_path / "a.png",)), StudyFiles("b", (tmp_path / "b\x1b.png",))]
    written = GeneratedReport(f"no {ATTACKS[case]} effusion")
    model = SimpleNamespace(image_size=8, generate=lambda images, **settings: [written for _ in images])
    settings = {
        "output": None,
        "batch_size": 4,
        "beam_size": None,
        "max_length": None,
        "precision": None,
        "attention": False,
    }
    records, failed = _write(model, studies, OmegaConf.create(settings))
    printed = capsys.readouterr()
    assert_clean(printed.out)
    assert_clean(printed.err)
    assert failed == 1
    assert records[0]["report"] == written.text


def test_nothing_prints_but_the_functions_for_it():
    """`print` and rich's own console would let anything through."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
                name = next((alias.name for alias in node.names if alias.name == "Console"), "")
            if name in ("print", "Console"):
                found.append(f"{path.relative_to(SOURCE)}: {name}")
    assert found == ["plain_console.py: Console", "terminal.py: print"]


def test_warnings_of_large_images_are_not_shown_beside_the_error():
    from hardneg_plugin.apps.shared.hydra_command import hush_libraries

    factory, hook, show = logging.getLogRecordFactory(), sys.excepthook, warnings.showwarning
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            hush_libraries()
            Image._decompression_bomb_check((12_000, 12_000))
        assert not told
        assert logging.getLogRecordFactory() is _PrintableRecord
        assert sys.excepthook is show_error
    finally:
        logging.setLogRecordFactory(factory)
        sys.excepthook, warnings.showwarning = hook, show
