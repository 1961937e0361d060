"""Reports are patient data: whatever a command writes is as private as the umask asks."""

import json
import os

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def private():
    before = os.umask(0o077)
    yield
    os.umask(before)


def readable_by_others(folder):
    paths = [folder, *folder.rglob("*")]
    assert len(paths) > 1
    return [str(path.relative_to(folder)) for path in paths if path.lstat().st_mode & 0o077]


def test_every_command_respects_the_umask(private, cli, tiny_model, tmp_path):
    originals, results = tmp_path / "originals", tmp_path / "results"
    originals.mkdir()
    results.mkdir()
    rows = []
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 256, (40, 36), dtype=np.uint8)
        Image.fromarray(noise).save(originals / f"{number}.png")
        split = ("train", "train", "val", "test")[number % 4]
        report = "The heart is normal." if number % 3 else "Small left effusion."
        rows.append({"id": f"s{number}", "images": f"{number}.png", "report": report, "split": split})
    (originals / "table.json").write_text(json.dumps(rows))
    prepared, run = results / "prepared", results / "run"
    data = ["data=prepared", f"data.root={prepared}", "data.min_count=1", "data.datamodule.num_workers=0"]
    sizes = ["data.datamodule.source.resize=32", "data.datamodule.source.crop=32"]
    model = [argument for argument in tiny_model if not argument.startswith("visual.")]
    model += [
        "backbone=r2gen",
        "backbone.memory_heads=2",
        "visual=resnet18",
        "+visual.options.in_chans=3",
        "trainer.max_epochs=1",
    ]
    source = ["source=listed", f"source.table={originals}/table.json"]
    commands = [
        ("hardneg-prepare", *source, f"output={prepared}", "size=32", "section=report", "workers=0"),
        ("hardneg-train", *model, *data, *sizes, f"hydra.run.dir={run}"),
        ("hardneg-evaluate", run, f"hydra.run.dir={results}/evaluated"),
        ("hardneg-score", f"predictions={run}/predictions/test.jsonl", f"output={results}/scores/scores.json"),
        ("hardneg-page", run, f"output={results}/page.html"),
        ("hardneg-predict", run, originals / "0.png", f"output={results}/reports/reports.csv"),
        ("hardneg-predict", run, originals / "0.png", f"output={results}/reports.jsonl"),
        ("hardneg-export", run, f"output={results}/exported/released.pth"),
        ("hardneg-tasks", run, "tasks=[retrieval]"),
        (
            "hardneg-compare",
            *model,
            *data,
            *sizes,
            f"compare.folder={results}/compared",
            "compare.variants=[host]",
            "compare.seeds=[1]",
            "compare.resamples=20",
            "compare.page=2",
        ),
        ("hardneg-mine", *data[:2], *sizes, f"output={results}/neighbours.parquet", "k=2"),
    ]
    for command in commands:
        result = cli(*command)
        assert result.code == 0, (command, result.err)
        assert not readable_by_others(results), command
    names = {path.name for path in results.rglob("*")}
    expected = {"studies.parquet", "best.ckpt", "last.ckpt", "metrics.json", "test.jsonl", "scores.json", "config.yaml"}
    assert expected | {"page.html", "reports.csv", "reports.jsonl", "released.pth", "neighbours.parquet"} <= names
