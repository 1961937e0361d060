"""Every command and every example that README and docs/START.md show is run, as a stranger would, in a folder of its own."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = "\n".join((ROOT / name).read_text() for name in ("README.md", "docs/START.md"))
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.strip().splitlines()]
# What makes the commands that train quick: fewer studies, smaller images, shorter reports.
SHORT = "decoding.max_length=12 metrics.caption.meteor=false"
SMALL = (
    "data.datamodule.source.train=32 data.datamodule.source.val=4 data.datamodule.source.test=4 "
    f"data.datamodule.source.size=64 {SHORT}"
)
SMALL_FILES = f"data.datamodule.source.resize=64 data.datamodule.source.crop=64 {SHORT}"
FILES = re.compile(r"[=\s]((?:outputs/|my_studies|prepared\b|neighbours\.)[\w.]*)")


def chains(commands):
    """Commands by what they read and write: those that name the same files, one after the other."""
    found = []
    for command in commands:
        names = {name.rstrip("/") for name in FILES.findall(command)}
        linked = [chain for chain in found if chain[0] & names]
        found = [chain for chain in found if chain not in linked]
        found.append(
            (names.union(*(chain[0] for chain in linked)), [c for chain in linked for c in chain[1]] + [command])
        )
    return [sorted(chain, key=commands.index) for _, chain in found]


# What a test cannot run as it stands, and what it runs in its place.
INSTEAD = {
    # the whole demo takes minutes: the same target, on a few batches, and without installing anything
    "make demo": f"make --old-file=.venv/.ready demo OVERRIDES='trainer=smoke {SMALL}'",
    "pip install .": f"{sys.executable} -m pip install --dry-run --quiet --no-deps --no-build-isolation .",
    # this test is part of it
    "make test": "make --dry-run test",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the checkout whose .venv is the environment of this test."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("conf", "examples", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def test_the_readme_shows_the_commands_this_test_knows_of():
    assert set(INSTEAD) <= set(COMMANDS)
    assert len(COMMANDS) >= 10
    assert sorted(command for chain in chains(COMMANDS) for command in chain) == sorted(COMMANDS)
    assert max(len(chain) for chain in chains(COMMANDS)) >= 8  # from one's own data to a page


@pytest.mark.parametrize("chain", chains(COMMANDS), ids=lambda chain: chain[0])
def test_every_command(checkout, cli, monkeypatch, chain):
    monkeypatch.chdir(checkout)
    for command in chain:
        run = INSTEAD.get(command, command)
        if "trainer=smoke" in command:
            run = f"{run} {SMALL_FILES if 'data=' in run else SMALL}"
        if "hardneg-compare" in run:
            run = f"{run} compare.jobs=2 compare.resamples=100 compare.page=4"
        if "hardneg-score" in run:  # tests of its own start Java
            run = f"{run} metrics.caption.meteor=false"
        if run.startswith(".venv/bin/hardneg-"):
            result = cli(*shlex.split(run.removeprefix(".venv/bin/")))
            assert result.code == 0, f"{command}\n{result.out[-2000:]}\n{result.err[-3000:]}"
            continue
        if run.startswith(".venv/bin/python "):
            script, *arguments = shlex.split(run.removeprefix(".venv/bin/python "))
            monkeypatch.setattr(sys, "argv", [script, *arguments])
            runpy.run_path(script, run_name="__main__")
            continue
        result = subprocess.run(
            run,
            shell=True,
            cwd=checkout,
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    if any("hydra.run.dir=outputs/mine" in command for command in chain):
        for name in (
            "config.yaml",
            "overrides.yaml",
            "metrics.json",
            "checkpoints/best.ckpt",
            "predictions/test.jsonl",
        ):
            assert (checkout / "outputs" / "mine" / name).is_file()


def test_groups_in_the_readme_are_the_groups_there_are():
    for group, choices in re.findall(r"^\| `(\w+)` \| (.*?) \|$", README, re.M):
        named = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", choices)))
        assert named == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}, group
