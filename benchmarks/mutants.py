"""A mutation run: which small faults in the core would no fast test notice?

    make mutants PATHS="plugin/mixin distributed" OPTIONS="--sample 50"

Each mutant is one fault in one function. Tests of a group are collected once; each mutant runs in a fork of that process, where
the code of its function is replaced, on the tests that call the function, the fastest first, until one fails. A fault outside
functions, or in what runs at import, needs a new import: a fork of a process that has imported everything but the package.
mutmut's own runner leaves out decorated functions and bodies of classes, and wraps every function, which hides the signatures and
frames that the plug-in reads; cosmic-ray starts a process for each mutant, 7 s of imports. So only mutmut's operators are used.

Results are kept in .mutants/, and what is known there is not run again: a killed mutant stays killed while its function is as it
was, a survivor is run again once its tests change.
"""

import argparse
import fnmatch
import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mutation.equivalent import EQUIVALENT
from mutation.forked_tests import ANEW, KILLED, NOT_REACHED, SURVIVED, TIMED_OUT, ForkedTests, Outcome, in_fork
from mutation.groups import GROUPS, Group
from mutation.operators import Mutant, mutants_of

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/hardneg_plugin"
KEPT = ROOT / ".mutants"
HEAVY = (
    "torch",
    "torch.distributed.tensor",
    "torch._dynamo",
    "torchvision",
    "pytorch_lightning",
    "pytorch_lightning.callbacks",
    "lightning.pytorch",
    "transformers",
    "timm",
    "hydra",
    "hypothesis",
    "scipy.stats",
    "sklearn.metrics",
    "pyarrow",
    "pydicom",
    "peft",
)
"""Imported once, before anything of the package."""


class Kept:
    """What is known of the mutants of a module, in a file of one line each.

    Args:
        path: of the module.
        tests: a hash of the tests.
    """

    def __init__(self, path: str, tests: str) -> None:
        self.file = KEPT / f"{path.replace('/', '+')}.jsonl"
        self.tests = tests
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else []
        self.rows: dict[str, dict[str, Any]] = {row["key"]: row for row in map(json.loads, lines)}

    def outcome(self, mutant: Mutant) -> str | None:
        """What became of a mutant, if that still holds."""
        row = self.rows.get(mutant.key)
        if row is None or row["function_hash"] != mutant.function_hash:
            return None
        is_killed = row["outcome"] in (KILLED, TIMED_OUT)
        return row["outcome"] if is_killed or row["tests"] == self.tests else None

    def add(self, mutant: Mutant, outcome: Outcome) -> None:
        """Note what became of a mutant."""
        row = {name: getattr(mutant, name) for name in ("key", "function_hash", "function", "line", "operator")}
        row |= {"before": mutant.before, "after": mutant.after, "tests": self.tests, **vars(outcome)}
        self.rows[mutant.key] = row
        self.file.parent.mkdir(exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class MutatedImport(importlib.machinery.SourceFileLoader):
    """Imports one module of the package from another source.

    Args:
        mutant: what to import in place of its module.
    """

    def __init__(self, mutant: Mutant) -> None:
        name = ".".join(["hardneg_plugin", *Path(mutant.path).with_suffix("").parts]).removesuffix(".__init__")
        super().__init__(name, str(PACKAGE / mutant.path))
        self.mutant = mutant

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:
        return compile(self.mutant.source, self.path, "exec")


def main() -> None:
    options = arguments()
    if not options.report:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        for name in HEAVY:
            try:
                importlib.import_module(name)
            except ImportError:
                print(f"without {name}")
        hypothesis = importlib.import_module("hypothesis")
        hypothesis.settings.register_profile("mutants", database=None, derandomize=True)
        hypothesis.settings.load_profile("mutants")
    rows = []
    for name, group in GROUPS.items():
        paths = [path for path in modules(group) if not options.paths or any(p in path for p in options.paths)]
        found = {path: [m for m in mutants_of(PACKAGE, path) if m.function or not options.functions] for path in paths}
        chosen = {path: choose(mutants, options, path) for path, mutants in found.items()}
        kept = {path: Kept(path, tests_hash(group)) for path in paths}
        if not options.report and paths:
            print(f"{name}: {sum(map(len, chosen.values()))} mutants of {len(paths)} modules", flush=True)
            run(group, chosen, kept, options)
            kept = {path: Kept(path, tests_hash(group)) for path in paths}
        rows += [(path, mutants, kept[path]) for path, mutants in chosen.items()]
    show(rows)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="parts of the modules' paths, such as plugin/mixin; none: all")
    parser.add_argument("--sample", type=int, help="the most mutants of a module, drawn with a fixed seed")
    parser.add_argument("--slowest", type=float, default=4.0, help="tests that take more seconds are left out")
    parser.add_argument(
        "--most", type=float, help="seconds of tests for a mutant, those of its module's own file first"
    )
    parser.add_argument("--functions", action="store_true", help="only faults in functions, which need no new import")
    parser.add_argument("--report", action="store_true", help="show what is known, and run nothing")
    return parser.parse_args()


def modules(group: Group) -> list[str]:
    """The modules of a group, below the package."""
    found = {path.relative_to(PACKAGE).as_posix() for pattern in group.modules for path in PACKAGE.glob(pattern)}
    return sorted(found)


def choose(mutants: list[Mutant], options: argparse.Namespace, path: str) -> list[Mutant]:
    """All mutants, or a sample that is always the same."""
    if options.sample is None or len(mutants) <= options.sample:
        return mutants
    keys = random.Random(path).sample(sorted(mutant.key for mutant in mutants), options.sample)
    return [mutant for mutant in mutants if mutant.key in keys]


def tests_hash(group: Group) -> str:
    files = sorted(
        file for name in group.tests for file in [ROOT / name, *(ROOT / name).rglob("*.py")] if file.is_file()
    )
    return hashlib.sha1(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def run(group: Group, chosen: dict[str, list[Mutant]], kept: dict[str, Kept], options: argparse.Namespace) -> None:
    """Try the mutants of a group that are not known yet."""
    todo = [mutant for path, mutants in chosen.items() for mutant in mutants if kept[path].outcome(mutant) is None]
    if not todo:
        return
    anew = Path(tempfile.mkstemp(prefix="mutants_")[1])

    def report(mutant: Mutant, outcome: Outcome) -> None:
        if outcome.outcome == ANEW:
            with anew.open("a") as file:
                file.write(mutant.key + "\n")
        else:
            kept[mutant.path].add(mutant, outcome)
            tell(mutant, outcome)

    plugin = ForkedTests(PACKAGE, todo, report, options.slowest, options.most)
    in_child(lambda: pytest_main(tests_of(group, list(chosen)), [plugin]))
    keys = set(anew.read_text().split())
    anew.unlink()
    for mutant in todo:
        if mutant.key in keys:
            outcome = in_fork(lambda _, m=mutant: imported_anew(group, m), 240)  # type: ignore
            kept[mutant.path].add(mutant, outcome)
            tell(mutant, outcome)


def imported_anew(group: Group, mutant: Mutant) -> int:
    """Run the tests of a mutant's module, or of its group where there are none; 0 if all pass."""
    sys.meta_path.insert(0, MutatedImport(mutant))  # type: ignore
    own = f"test_{Path(mutant.path).stem}*.py"
    files = [file for name in group.tests for file in [ROOT / name, *(ROOT / name).rglob(own)] if file.is_file()]
    named = [str(file) for file in files if fnmatch.fnmatch(file.name, own)]
    tests = named or [name for name in group.tests if (ROOT / name).exists()]
    return int(pytest_main([*tests, str(PACKAGE / mutant.path)], ["-x"]) != 0)


def tests_of(group: Group, paths: Sequence[str]) -> list[str]:
    return [name for name in group.tests if (ROOT / name).exists()] + [str(PACKAGE / path) for path in paths]


def pytest_main(tests: Sequence[str], options: Sequence[Any]) -> int:
    import pytest

    flags = [option for option in options if isinstance(option, str)]
    plugins = [option for option in options if not isinstance(option, str)]
    with tempfile.TemporaryDirectory(prefix="mutants_") as folder:
        fixed = [
            "-q",
            "--no-header",
            "--no-summary",
            "-m",
            "not slow",
            "-p",
            "no:cacheprovider",
            "--assert=plain",  # pytest's own import of what it is given would pass the mutant by, and change other functions
            f"--basetemp={folder}/t",
        ]
        return pytest.main([*fixed, *flags, *tests], plugins=plugins)


def in_child(run: Callable[[], object]) -> None:
    """Run something in a fork, so that this process imports nothing of it."""
    child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.waitpid(child, 0)


def tell(mutant: Mutant, outcome: Outcome) -> None:
    if outcome.outcome in (SURVIVED, NOT_REACHED):
        print(f"  {outcome.outcome}: {described(mutant)}", flush=True)


def described(mutant: Mutant) -> str:
    return f"{mutant.path}:{mutant.line} {mutant.function} [{mutant.operator}]\n    - {mutant.before}\n    + {mutant.after}"


def show(rows: Sequence[tuple[str, Sequence[Mutant], Kept]]) -> None:
    """Print the score of each module, then the survivors."""
    known = {(path, before, after) for path, changes in EQUIVALENT.items() for before, after, _ in changes}
    alive = []
    totals: Counter[str] = Counter()
    print(f"\n| {'module':<42} | mutants | killed | equivalent | survived | score |\n|---|---|---|---|---|---|")
    for path, mutants, kept in rows:
        counts: Counter[str] = Counter()
        for mutant in mutants:
            outcome = kept.outcome(mutant)
            if outcome in (SURVIVED, NOT_REACHED):
                outcome = "equivalent" if (path, mutant.before, mutant.after) in known else SURVIVED
                alive += [mutant] if outcome == SURVIVED else []
            counts[KILLED if outcome == TIMED_OUT else outcome or "not run"] += 1
        totals += counts
        print(row(path, counts))
    print(row("all", totals) + "\n")
    for mutant in alive:
        print(described(mutant))


def row(name: str, counts: Counter[str]) -> str:
    tried = counts[KILLED] + counts[SURVIVED]
    share = f"{100 * counts[KILLED] / tried:.1f} %" if tried else "-"
    cells = [sum(counts.values()) - counts["not run"], counts[KILLED], counts["equivalent"], counts[SURVIVED]]
    return f"| {name:<42} | {' | '.join(map(str, cells))} | {share} |" + (
        f" {counts['not run']} not run" if counts["not run"] else ""
    )


if __name__ == "__main__":
    main()
