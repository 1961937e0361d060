"""hardneg-export format=hub: a folder that gives the reports of its run bit for bit, without the run and without network."""

import importlib.util
import json
import logging
import shutil
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from hardneg_plugin.apps import train
from hardneg_plugin.models.report_generator import ReportGenerator

COMMON = [
    "visual.options.channels=[8,8,16,16]",
    "visual.options.stem_width=8",
    "objective.width=16",
    "data.batch_size=8",
    "decoding.max_length=12",
    "metrics.caption.meteor=false",
    "trainer.log_every_n_steps=1",
    "callbacks.progress_bar.refresh_rate=0",
    "data.datamodule.source.train=24",
    "data.datamodule.source.val=6",
    "data.datamodule.source.test=6",
    "data.datamodule.source.size=32",
    "trainer.max_epochs=2",
    "optimizer.lr=0.01",
]
SMALL = ["backbone.width=32", "backbone.heads=2", "backbone.layers=1", "backbone.feedforward_width=32"]
BACKBONES = {
    "transformer_small": SMALL,
    "r2gen": [*SMALL, "backbone=r2gen", "backbone.memory_heads=2"],
    "r2gencmn": [*SMALL, "backbone=r2gencmn", "backbone.memory_size=16", "backbone.topk=4"],
    "huggingface": ["backbone=huggingface", "backbone.config={model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2}"],
    "grounded": [*SMALL, "objective=gk_mvlp", "grounding_width=16", "regions=learned"],
}


def one_line(result):
    assert result.code == 2, result.err
    lines = [line for line in result.err.splitlines() if line.startswith("hardneg-")]
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err + result.out
    return lines[0]


def trained(name, place):
    run = place / name
    with pytest.MonkeyPatch.context() as patch:
        GlobalHydra.instance().clear()
        baselines = f"baselines={'true' if name == 'transformer_small' else 'false'}"
        patch.setattr(sys, "argv", ["hardneg-train", *COMMON, *BACKBONES[name], baselines, f"hydra.run.dir={run}"])
        handlers = list(logging.getLogger().handlers)
        train.main()
        logging.getLogger().handlers[:] = handlers
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained("transformer_small", tmp_path_factory.mktemp("runs"))


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A PNG of 16 bits, a study of two views, and a DICOM."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "unit" / "data")
    dicoms = importlib.import_module("dicoms")
    random = np.random.default_rng(0)
    deep, first, second = (tmp_path / f"{name}.png" for name in ("deep", "first", "second"))
    Image.fromarray(random.integers(0, 4000, (50, 70)).astype(np.uint16)).save(deep)
    for path in (first, second):
        Image.fromarray(random.integers(0, 256, (60, 40)).astype(np.uint8)).save(path)
    return [deep, [first, second], dicoms.written(tmp_path, dicoms.DEEP, bits=12)]


@pytest.fixture
def offline(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_an_exported_folder_gives_the_reports_of_its_run_bit_for_bit(
    cli, backbone, images, tmp_path, tmp_path_factory, monkeypatch, request, offline
):
    source = (
        request.getfixturevalue("run")
        if backbone == "transformer_small"
        else trained(backbone, tmp_path_factory.mktemp("of_its_own"))
    )
    of_run = ReportGenerator.from_run(source, device="cpu")
    wanted = of_run.generate(images, attention=True)
    result = cli("hardneg-export", source, "format=hub", f"output={tmp_path}/out")
    assert result.code == 0, result.err
    assert len({file.stat().st_mode for file in (tmp_path / "out").iterdir()}) == 1  # as the umask has it
    moved = shutil.copytree(tmp_path / "out", tmp_path / "elsewhere")
    if backbone != "transformer_small":
        shutil.rmtree(source)  # nothing of the run is needed
    monkeypatch.chdir(tmp_path)
    model = ReportGenerator.from_pretrained("elsewhere", device="cpu")
    assert not model.training
    for report, expected in zip(model.generate(images, attention=True), wanted, strict=True):
        assert report.text == expected.text
        assert torch.equal(report.attention, expected.attention)
    before, after = of_run.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert (model.image_size, model.decoding) == (of_run.image_size, of_run.decoding)
    assert (
        model.generate(images, beam_size=1, max_length=3)[0].text
        == of_run.generate(images, beam_size=1, max_length=3)[0].text
    )
    # written once more it is the same to the byte
    model.save_pretrained(tmp_path / "again", name="out")
    for file in moved.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_predict_takes_an_exported_folder_as_it_takes_a_run(cli, run, images, tmp_path, monkeypatch):
    assert cli("hardneg-export", run, "format=hub", f"output={tmp_path}/out").code == 0
    monkeypatch.chdir(tmp_path)
    for model, name in ((run, "of_run"), ("out", "of_folder")):
        result = cli("hardneg-predict", model, images[0], images[2], f"output={name}.jsonl")
        assert result.code == 0, result.err
    assert Path("of_run.jsonl").read_text() == Path("of_folder.jsonl").read_text()
    for setting in ("checkpoint=last", "image_size=64"):
        result = cli("hardneg-predict", "out", images[0], setting)
        assert (result.code, "out is an exported model, which has one set of weights" in result.err) == (2, True)
        assert result.err.count("\n") == 1


def test_the_folder_has_inference_weights_only_and_a_card_of_the_run(cli, run, tmp_path, read_json):
    out = tmp_path / "out"
    assert cli("hardneg-export", run, "format=hub", f"output={out}", "license=apache-2.0").code == 0
    assert {file.name for file in out.iterdir()} == {
        "config.json", "preprocessor_config.json", "model.safetensors", "vocabulary.json", "README.md",
    }  # fmt: skip
    numbers = sum(value.numel() for value in ReportGenerator.from_run(run, device="cpu").state_dict().values())
    assert 4 * numbers < (out / "model.safetensors").stat().st_size < 4 * numbers + 20_000
    assert (out / "model.safetensors").stat().st_size < (run / "checkpoints" / "best.ckpt").stat().st_size / 2
    metrics = read_json(run / "metrics.json")
    card = ModelCard.load(out / "README.md")
    assert card.data.library_name == "hardneg-plugin"
    assert card.data.pipeline_tag == "image-to-text"
    assert card.data.license == "apache-2.0"
    assert card.data.metrics == ["bleu", "cider", "rouge"]
    results = {result.metric_name: result for result in card.data.eval_results}
    assert results["CIDEr"].metric_value == round(metrics["test"]["CIDEr"], 4)
    assert results["CIDEr"].metric_type == "cider"
    assert results["specificity"].dataset_split == "test"
    low, high = metrics["intervals"]["test"]["findings_F1"]
    by_chance = metrics["baselines"]["most frequent report"]["findings_F1"]
    nearest = metrics["baselines"]["report of the most similar image"]["findings_F1"]
    row = f"| findings_F1 | {metrics['test']['findings_F1']:.3f} | {low:.3f} to {high:.3f} | {by_chance:.3f} | {nearest:.3f} |"
    assert row in card.text
    assert "over 6 studies" in card.text
    assert "likelihood_R@1" in card.text
    assert not any(
        f"| {name} |" in card.text for name in ("R@1", "peers_R@5", "image_specificity")
    )  # of the objective's embeddings, which are not there
    epoch = metrics["selected_by"]["epoch"]
    for told in (
        f"best.ckpt, epoch {epoch}, after",
        "24 train, 6 val, 6 test",
        metrics["provenance"]["data"]["sha256"],
        "hard negatives the nearest report of the batch, hardened by Arc",
        "no medical device",
        "## Licence\n\napache-2.0",
        "hardneg-train",
        'from_pretrained("out")',
    ):
        assert told in card.text, told
    assert str(run.parent) not in card.content  # where it was trained is nobody's business
    config = read_json(out / "config.json")
    assert config["visual"]["options"]["channels"] == [8, 8, 16, 16]
    assert "hard_negatives" not in json.dumps(config)
    assert config["versions"]["torch"] == metrics["versions"]["torch"]


def test_scores_of_another_checkpoint_are_not_those_of_the_card(cli, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    shutil.copy(copy / "checkpoints" / "last.ckpt", tmp_path / "other.ckpt")
    assert cli("hardneg-export", copy, "format=hub", "output=other", f"checkpoint={tmp_path}/other.ckpt").code == 0
    text = Path("other/README.md").read_text()
    assert "None: the run scored its best.ckpt only, and these weights are those of other.ckpt." in text
    assert "model-index" not in text
    assert "license: other" in text
    (copy / "metrics.json").unlink()
    assert cli("hardneg-export", copy, "format=hub", "output=unfinished").code == 0
    assert "None: the run was not finished when this card was written." in Path("unfinished/README.md").read_text()


def test_what_cannot_be_written_is_told_in_one_line(cli, run, tmp_path):
    line = one_line(cli("hardneg-export", run, "format=onnx", "output=x"))
    assert "format: expected r2gen, hub or rexrank, but got 'onnx'" in line
    assert "license and overwrite belong to format=hub" in one_line(
        cli("hardneg-export", run, "license=mit", "output=x.pth")
    )
    Path("taken").mkdir()
    Path("taken/notes.txt").write_text("mine")
    for more in ([], ["overwrite=true"]):
        line = one_line(cli("hardneg-export", run, "format=hub", "output=taken", *more))
        assert f"{tmp_path}/taken exists already; it is left as it is. Name another folder." in line
    assert Path("taken/notes.txt").read_text() == "mine"
    assert "exists already" in one_line(cli("hardneg-export", run, "format=hub", "output=taken/notes.txt"))
    assert "cannot be written" in one_line(cli("hardneg-export", run, "format=hub", "output=taken/notes.txt/x"))
    assert cli("hardneg-export", run, "format=hub", "output=out").code == 0
    before = Path("out/config.json").stat().st_ino
    line = one_line(cli("hardneg-export", run, "format=hub", "output=out"))
    assert "out exists already; overwrite=true replaces it." in line
    assert Path("out/config.json").stat().st_ino == before
    assert cli("hardneg-export", run, "format=hub", "output=out", "overwrite=true").code == 0
    assert Path("out/config.json").stat().st_ino != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "taken"]
