"""hardneg-prepare as it is called: with a source of one's own, to the training on what it has written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from hardneg_plugin.knowledge import read_findings
from hardneg_plugin.metrics.records import findings_to_json

SOURCE = '''
import time
from pathlib import Path

from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy


class MadeUp:
    """As many studies as wanted of a few files; may wait for a file before the last."""

    def __init__(self, root, studies=12, wait_for=None):
        self.files = sorted(Path(root).glob("*.png"))
        self.studies, self.wait_for = studies, wait_for

    def __len__(self):
        return self.studies

    def __iter__(self):
        yield DroppedEntry("none", "no image")
        for i in range(self.studies):
            while i == self.studies - 1 and self.wait_for and not Path(self.wait_for).exists():
                time.sleep(0.05)
            text = f"The heart is normal in study {i} ." if i != 3 else ""
            split = ("train", "train", "val", "test")[i % 4]
            yield OriginalStudy(f"s{i}", (self.files[i % len(self.files)],), text, patient=f"p{i}", split=split)
'''


@pytest.fixture
def home(tmp_path_factory):
    """The folder of original files."""
    home = tmp_path_factory.mktemp("originals")
    for i in range(5):
        noise = np.random.default_rng(i).integers(0, 256, (40 + i, 36), dtype=np.uint8)
        Image.fromarray(noise).save(home / f"{i}.png")
    return home


@pytest.fixture
def source(home, monkeypatch):
    """The settings of a made-up source, as a user adds one."""
    (home / "code").mkdir()
    (home / "code" / "made_up_source.py").write_text(SOURCE)
    group = home / "conf" / "source"
    group.mkdir(parents=True)
    (group / "made_up.yaml").write_text("_target_: made_up_source.MadeUp\nroot: ???\nstudies: 12\nwait_for: null\n")
    monkeypatch.syspath_prepend(home / "code")
    monkeypatch.setenv("PYTHONPATH", str(home / "code"))
    return [f"hydra.searchpath=[file://{home}/conf]", "source=made_up", f"source.root={home}"]


@pytest.fixture
def prepare(monkeypatch, capfd, tmp_path):
    """Call the command as from a shell in an empty folder; gives exit code, output and error output."""
    from hardneg_plugin.apps.prepare import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["hardneg-prepare", "size=24", "workers=0", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return call


def test_prepared_and_trained_on(prepare, source, cli, tiny_model):
    code, out, err = prepare(*source, "output=prepared")
    assert (code, err) == (0, "")
    assert "hardneg-train data=prepared data.root=prepared" in out
    lines = [line.replace("│", " ").split() for line in out.splitlines()]
    assert ["train", "6", "6"] in lines
    assert ["test", "2", "2"] in lines
    assert ["left", "out:", "no", "findings", "1"] in lines
    assert ["left", "out:", "no", "image", "1"] in lines
    assert os.listdir() == ["prepared"]
    description = json.loads(Path("prepared/prepared.json").read_text())
    assert description["settings"]["source"]["_target_"] == "made_up_source.MadeUp"
    dropped = [json.loads(line) for line in Path("prepared/dropped.jsonl").read_text().splitlines()]
    assert dropped == [
        {"id": "none", "reason": "no image", "detail": ""},
        {"id": "s3", "reason": "no findings", "detail": ""},
    ]

    code, out, err = prepare(*source, "output=prepared")
    assert (code, err) == (0, "")
    assert "left as it is" in out
    code, out, err = prepare(*source, "output=prepared", "size=20", "overwrite=true")
    assert (code, err) == (0, "")

    settings = ["data=prepared", f"data.root={Path('prepared').resolve()}", "data.min_count=1"]
    settings += ["data.datamodule.source.resize=20", "data.datamodule.source.crop=16", "data.datamodule.num_workers=0"]
    result = cli("hardneg-train", *tiny_model, *settings, "trainer.max_epochs=1", "hydra.run.dir=run")
    assert result.code == 0, result.err
    records = [json.loads(line) for line in Path("run/predictions/test.jsonl").read_text().splitlines()]
    assert len(records) == 2
    for record in records:  # read by the rules of knowledge/, as data.findings says
        assert record["findings"]["reference"] == findings_to_json(read_findings(record["reference"]))
    assert "informativeness" in json.loads(Path("run/metrics.json").read_text())["test"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["output=prepared"], ["source"]),
        (["+source=made_up", "output=prepared"], ["source.root must be given"]),
        (["SOURCE"], ["output must be given"]),
        (["SOURCE", "output=prepared", "section=abstract"], ["section", "findings", "'abstract'"]),
        (["SOURCE", "output=prepared", "size=large"], ["size", "'large'"]),
        (["SOURCE", "output=prepared", "workers=-1"], ["workers", "-1"]),
        (["SOURCE", "output=prepared", "seed=1.5"], ["seed", "1.5"]),
        (["SOURCE", "output=prepared", "overwrite=perhaps"], ["overwrite", "'perhaps'"]),
        (["SOURCE", "output=prepared", "splits.val=0.5"], ["splits", "0.5"]),
        (["SOURCE", "output=prepared", "section=impression"], ["12 no impression", "section"]),
        (["SOURCE", "output=prepared", "source.studies=2"], ["val has none"]),
        (["SOURCE", "output=prepared", "+source.colour=true"], ["source", "colour"]),
        (["SOURCE", "output=HOME/0.png"], ["0.png", "left as it is"]),
        (["SOURCE", "output=HOME/0.png/prepared"], ["cannot be written"]),
    ],
)
def test_bad_settings(prepare, source, home, arguments, words):
    if "+source=made_up" in arguments:
        arguments = [source[0], *(argument.lstrip("+") for argument in arguments)]
    arguments = [each.replace("HOME", str(home)) for each in arguments]
    code, _, err = prepare(*(part for each in arguments for part in (source if each == "SOURCE" else [each])))
    assert code == 2, err
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("hardneg-prepare: error: ")
    assert all(word in lines[0] for word in words), lines[0]
    # other shares of the splits need no image again
    assert os.listdir() == (["prepared.part"] if "val has none" in words else [])


@pytest.mark.parametrize("patients", ["none", "all", "some"])
def test_it_says_what_the_split_was_made_by_and_what_is_on_both_sides(prepare, home, patients):
    lines = ["id,image,report,patient"]
    for i in range(60):
        patient = f"p{i // 2}" if patients == "all" or (patients == "some" and i < 20) else ""
        lines.append(f"s{i},{i % 5}.png,Report {i // 3}.,{patient}")
    (home / "table.csv").write_text("\n".join(lines))
    code, out, err = prepare("source=listed", f"source.table={home}/table.csv", "section=report", "output=prepared")
    assert (code, err) == (0, "")
    by_id = "by the seed and their own id, as no patient is known"
    told = {
        "none": f"split: 60 studies {by_id}",
        "all": "split: 60 studies by the seed and their patient\n",
        "some": f"split: 20 studies by the seed and their patient; 40 studies {by_id}",
    }
    assert told[patients] in out
    rows = pq.read_table("prepared/studies.parquet").to_pylist()
    train = [row for row in rows if row["split"] == "train"]
    for split in ("val", "test"):
        studies = [row for row in rows if row["split"] == split]
        texts = sum(row["report"] in {other["report"] for other in train} for row in studies)
        images = sum(row["views"] in [other["views"] for other in train] for row in studies)
        assert texts
        assert images == len(studies)  # five files for all
        shared = f"of {len(studies)} studies in {split} {texts} the exact report, {images} an image of a training study"
        assert shared in out
    assert out.count("Warning: On both sides of the split") == 1


def test_interrupted_with_workers_the_same_command_goes_on(prepare, source, home):
    go = home / "go"
    settings = [*source, "output=prepared", "size=24", "source.studies=258", f"source.wait_for={go}"]
    command = subprocess.Popen(
        [sys.executable, "-m", "hardneg_plugin.apps.prepare", *settings, "workers=1"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    record = Path("prepared.part/records/00000.json")
    while not record.exists():
        assert command.poll() is None, command.stderr.read()
        time.sleep(0.05)
    os.killpg(command.pid, signal.SIGINT)  # as from a terminal: its workers too
    _, err = command.communicate(timeout=60)
    assert command.returncode == 130
    assert [line for line in err.splitlines() if line] == ["Interrupted. Run the same command again to continue."]
    assert not Path("prepared").exists()

    shard = os.stat("prepared.part/folder/images/00000.bin")
    go.touch()
    code, _, err = prepare(*settings)
    assert (code, err) == (0, "")
    after = os.stat("prepared/images/00000.bin")
    assert (after.st_ino, after.st_mtime_ns) == (shard.st_ino, shard.st_mtime_ns)
    assert os.listdir() == ["prepared"]
