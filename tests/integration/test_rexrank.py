"""ReXrank there and back: prepared from its JSON, trained on both sections, exported as a folder for its command lines."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from hardneg_plugin.data.report_sections import split_sections

TINY = [
    *("visual.options.channels=[8,8,16,16]", "visual.options.stem_width=8", "backbone.width=32", "backbone.heads=2"),
    *(
        "backbone.layers=1",
        "objective.width=16",
        "data.batch_size=8",
        "metrics.caption.meteor=false",
        "baselines=false",
    ),
    *("trainer.log_every_n_steps=1", "callbacks.progress_bar.refresh_rate=0", "callbacks.diagnosis.studies=1"),
    "trainer.check_val_every_n_epoch=80",
    *(
        "data=prepared",
        "data.root=prepared",
        "data.min_count=1",
        "data.max_length=30",
        "decoding.max_length=30",
        "decoding.beam_size=1",
        "model=host",
    ),
    *(
        "data.datamodule.source.resize=32",
        "data.datamodule.source.crop=32",
        "trainer.max_epochs=8",
        "optimizer.lr=0.01",
    ),
]
FINDINGS = [
    "The heart is normal. The lungs are clear.",
    "There is a small left pleural effusion.",
    "Cardiomegaly is seen.",
]
IMPRESSIONS = ["No acute disease.", "Left pleural effusion.", "Large heart."]


def entry(place, number, split):
    images = []
    for view in range(1 + number % 2):
        images.append(f"{'/' * (number % 3 == 0)}s{number}/{view}.png")
        path = place / "images" / f"s{number}" / f"{view}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number * 2 + view).integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    has = number % 20 != 1, number % 20 != 2
    sections = [
        texts[number % 3] if there else math.nan for texts, there in zip((FINDINGS, IMPRESSIONS), has, strict=True)
    ]
    return {
        "key_image_path": images[0],
        "image_path": images,
        "section_findings": sections[0],
        "section_impression": sections[1],
        "report": f"Findings: {sections[0]} Impression: {sections[1]}",
        "split": split,
        "context": "Indication: ___",
    }


@pytest.mark.slow
def test_there_and_back(cli, tmp_path, read_json):
    splits = {"train": range(16), "val": range(16, 20), "test": range(20, 26)}
    for split, numbers in splits.items():
        content = {f"s{number}": entry(tmp_path, number, split) for number in numbers}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    studies = read_json(tmp_path / "test.json")
    files = "source.files=[train.json,val.json,test.json]"
    prepared = cli(
        "hardneg-prepare", "source=rexrank", files, "source.images=images", "output=prepared", "size=32", "workers=0"
    )
    assert prepared.code == 0, prepared.err
    trained = cli("hardneg-train", *TINY, f"hydra.run.dir={tmp_path}/run")
    assert trained.code == 0, trained.err
    metrics = read_json(tmp_path / "run/metrics.json")["test"]
    lines = [json.loads(line) for line in (tmp_path / "run/predictions/test.jsonl").read_text().splitlines()]
    references = {line["id"]: split_sections(line["reference"]) for line in lines}
    for number in splits["test"]:
        sections = references[f"s{number}"]
        assert bool(sections["findings"]) == (number % 20 != 1)
        assert bool(sections["impression"]) == (number % 20 != 2)
    assert metrics["findings/studies"] == sum(number % 20 != 1 for number in splits["test"])
    assert metrics["impression/studies"] == sum(number % 20 != 2 for number in splits["test"])
    assert {"findings/ROUGE-L", "impression/ROUGE-L", "findings/BLEU-4"} <= metrics.keys()
    assert any("<impression>" in line["generated"] for line in lines), "the decoder writes the marks"
    again = cli("hardneg-score", "run/predictions/test.jsonl", "metrics.caption.meteor=false")
    assert again.code == 0, again.err
    assert read_json(tmp_path / "run/predictions/test.scores.json")["test"] == metrics

    exported = cli("hardneg-export", "run", "format=rexrank", "output=submission")
    assert exported.code == 0, exported.err
    names = {path.name for path in (tmp_path / "submission").iterdir()}
    assert names == {"inference.py", "environment.yaml", "model", "hardneg_plugin"}
    environment = (tmp_path / "submission/environment.yaml").read_text()
    assert f"python={sys.version_info.major}.{sys.version_info.minor}" in environment
    assert "- torch==" in environment
    moved = tmp_path / "elsewhere"
    (tmp_path / "submission").rename(moved)
    (tmp_path / "run").rename(tmp_path / "gone")
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def infer(*arguments):
        return subprocess.run(
            [sys.executable, str(moved / "inference.py"), *map(str, arguments), "--device", "cpu"],
            cwd=tmp_path / "images", env=plain, capture_output=True, text=True, check=False,
        )  # fmt: skip

    by_place = infer(tmp_path / "test.json", tmp_path / "a.json", tmp_path / "images")
    assert by_place.returncode == 0, by_place.stderr
    out = read_json(tmp_path / "a.json")
    assert list(out) == list(studies)
    generated = {line["id"]: line["generated"] for line in lines}
    for study, given in studies.items():
        expected = {key: None if value != value else value for key, value in given.items()}
        prediction = out[study].pop("model_prediction")
        assert out[study] == expected
        sections = split_sections(generated[study]) or {"findings": generated[study]}
        assert prediction == " ".join(f"{name.capitalize()}: {text}" for name, text in sections.items() if text)
    by_name = infer(
        "--input_json_file", tmp_path / "test.json", "--save_json_file", tmp_path / "b.json", "--img_root_dir", tmp_path / "images"
    )  # fmt: skip
    assert by_name.returncode == 0, by_name.stderr
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "a.json").read_bytes()
    wrong = infer(tmp_path / "test.json", tmp_path / "c.json", tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "inference.py: " in wrong.stderr
    assert "there is no image" in wrong.stderr
    (tmp_path / "a.json").rename(tmp_path / "predictions.json")
    theirs = cli("hardneg-score", "predictions.json", "findings=english", "metrics.caption.meteor=false")
    assert theirs.code == 0, theirs.err
    assert read_json(tmp_path / "predictions.scores.json")["scores"]["findings/studies"] == metrics["findings/studies"]
    page = cli("hardneg-page", "gone")
    assert page.code == 0, page.err
    taken = cli("hardneg-export", "gone", "format=rexrank", "output=images")
    assert (taken.code, taken.err.count("\n")) == (2, 1)
    assert "images exists already; it is left as it is" in taken.err
