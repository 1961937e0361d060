"""benchmarks/gpu.py --tiny: every part of the acceptance runs on a CPU, at small sizes, and what is done is not done again."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu.py"
PARTS = {
    *(
        "machine",
        "recorded",
        "objective",
        "precision",
        "processes",
        "training",
        "waits",
        "breaks",
        "compiled",
        "extractor",
    ),
    *("speed_16", "speed_64", "speed_256", "cached", "cached_128", "decoding_16", "decoding_128", "decoding_512"),
    *("kernels", "loader"),
}


@pytest.fixture(scope="module")
def call(tmp_path_factory):
    out = tmp_path_factory.mktemp("gpu")

    def run(*arguments):
        command = [sys.executable, SCRIPT, "--tiny", "--out", out, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        (file,) = out.glob("*.json")
        return done, json.loads(file.read_text()), file.with_suffix(".md").read_text()

    return run


@pytest.mark.slow
def test_every_part_at_small_sizes_then_one_again_without_the_recorded_numbers(call, tmp_path):
    done, results, table = call("--together", "2", "--logs", tmp_path / "logs.tgz")
    assert done.returncode == 0, done.stdout + done.stderr
    with tarfile.open(tmp_path / "logs.tgz") as logs:
        assert {f"logs/{name}.log" for name in PARTS} <= set(logs.getnames())
    parts = results["parts"]
    assert parts.keys() == PARTS
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(PARTS, "done")
    for name, part in parts.items():
        assert all("error" not in row for row in part["rows"]), name
        assert f"\n## {name}\n" in table
    assert all(row["ok"] for row in parts["objective"]["rows"])
    assert all(row["ok"] for row in parts["recorded"]["rows"])
    assert [row["ok"] for row in parts["training"]["rows"]] == [True] * 3
    assert parts["breaks"]["rows"][0]["decoder_breaks"] == 0
    ratios = {row[""]: row["over_host"] for row in parts["speed_16"]["rows"] if "over_host" in row}
    assert ratios.keys() >= {"host", "in_batch", "paired"}
    assert ratios["host"] == 1

    # only what is asked for and not done: a failure is recorded beside the other parts, and is the exit code
    done, again, table = call("--parts", "recorded", "--again", "--recorded", tmp_path / "none")
    assert done.returncode == 1
    assert again["parts"]["recorded"]["status"] == "failed"
    assert "No such file" in table
    untouched = PARTS - {"machine", "recorded"}
    assert {name: again["parts"][name] for name in untouched} == {name: parts[name] for name in untouched}
