"""The mutation run tells what a test notices from what none does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mutmut")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULE = """
LIMIT = 3
UNUSED = 5


def share(part, whole):
    return part / whole


def label(count):
    assert count >= 0  # pytest must not rewrite this function
    return count + 1


def unheard(count):
    return not count


class Base:
    def __init__(self):
        self.begun = True


class Counter(Base):
    def __init__(self):
        super().__init__()
"""
TESTS = """
from hardneg_plugin.tiny import LIMIT, Counter, label, share


def test_share():
    assert share(6, 2) == LIMIT


def test_label():
    assert label(2) > 0


def test_counter():
    assert Counter().begun
"""
RUN = """
import sys
from pathlib import Path

import mutants
from mutation.groups import Group

root = Path.cwd()
mutants.ROOT, mutants.PACKAGE, mutants.KEPT, mutants.HEAVY = root, root / "src/hardneg_plugin", root / "kept", ()
mutants.GROUPS = {"tiny": Group(("tiny.py",), ("tests",))}
mutants.main()
"""


@pytest.mark.slow
def test_a_fault_is_killed_where_a_test_notices_it_and_survives_where_none_does(tmp_path):
    package, tests = tmp_path / "src/hardneg_plugin", tmp_path / "tests"
    for folder, name, text in ((package, "tiny.py", MODULE), (tests, "test_tiny.py", TESTS)):
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
    (package / "__init__.py").touch()
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\naddopts = --import-mode=importlib\n")
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "src"), str(BENCHMARKS)])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (tmp_path / "kept/tiny.py.jsonl").read_text().splitlines()]
    assert {(row["before"], row["after"]): (row["outcome"], row["by"].split("::")[-1]) for row in rows} == {
        ("return part / whole", "return part * whole"): ("killed", "test_share"),
        ("return part / whole", "return part"): ("killed", "test_share"),
        # a test calls the function, but any number above 0 will do
        ("return count + 1", "return count - 1"): ("survived", ""),
        ("return count + 1", "return count"): ("survived", ""),
        ("return count + 1", "return count + 2"): ("survived", ""),
        # nothing calls it
        ("return not count", "return count"): ("not reached", ""),
        ("self.begun = True", "self.begun = False"): ("killed", "test_counter"),
        # found by a new import: the module's body, and a function whose closure differs under the fault
        ("LIMIT = 3", "LIMIT = 4"): ("killed", ""),
        ("UNUSED = 5", "UNUSED = 6"): ("survived", ""),
        ("super().__init__()", "None"): ("killed", ""),
    }
    assert "| tiny.py " in done.stdout
    assert done.stdout.count("| 10 | 5 | 0 | 5 | 50.0 % |") == 2, done.stdout
