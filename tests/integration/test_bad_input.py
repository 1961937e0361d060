"""What a user can get wrong: one line that says where and what to do, exit code 2, and nothing left half-written."""

import json
import shutil

import pytest
import torch
from PIL import Image


def write_studies(root, studies=4):
    """A folder in the R2Gen layout; gives its annotation."""
    annotation = {}
    for split in ("train", "val", "test"):
        annotation[split] = []
        for i in range(studies):
            path = f"{split}{i}/0.png"
            (root / "images" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((64, 80), 60).convert("L").save(root / "images" / path)
            annotation[split].append(
                {"id": f"{split}{i}", "report": f"The heart is normal. Study {i} is clear.", "image_path": [path]}
            )
    (root / "annotation.json").write_text(json.dumps(annotation))
    return annotation


def change(root, edit):
    annotation = json.loads((root / "annotation.json").read_text())
    edit(annotation)
    (root / "annotation.json").write_text(json.dumps(annotation))


def image(root, content):
    (root / "images" / "train1" / "0.png").write_bytes(content)


CASES = {
    "annotation missing": (lambda root: (root / "annotation.json").unlink(), ["annotation.json"]),
    "root missing": (lambda root: shutil.rmtree(root), ["studies"]),
    "not JSON": (lambda root: (root / "annotation.json").write_text('{"train": ['), ["annotation.json", "line 1"]),
    "not text": (lambda root: (root / "annotation.json").write_bytes(b"\xff\xfe\x00{"), ["annotation.json"]),
    "a list": (lambda root: (root / "annotation.json").write_text("[]"), ["annotation.json"]),
    "no train list": (lambda root: change(root, lambda a: a.pop("train")), ["annotation.json", "train"]),
    "no val list": (lambda root: change(root, lambda a: a.pop("val")), ["annotation.json", "val"]),
    "no test list": (lambda root: change(root, lambda a: a.pop("test")), ["annotation.json", "test"]),
    "an empty list": (lambda root: change(root, lambda a: a["val"].clear()), ["annotation.json", "val"]),
    "no id": (lambda root: change(root, lambda a: a["train"][1].pop("id")), ["annotation.json", "train", "1"]),
    "an empty report": (lambda root: change(root, lambda a: a["train"][1].update(report="  ")), ["train1", "report"]),
    "no images": (lambda root: change(root, lambda a: a["train"][1].update(image_path=[])), ["train1", "image_path"]),
    "a duplicated id": (lambda root: change(root, lambda a: a["val"][1].update(id="train1")), ["train1", "val"]),
    "a path that leaves the root": (
        lambda root: change(root, lambda a: a["train"][1].update(image_path=["../../etc/passwd"])),
        ["train1", "../../etc/passwd"],
    ),
    "an absolute path": (
        lambda root: change(root, lambda a: a["train"][1].update(image_path=["/etc/passwd"])),
        ["train1", "/etc/passwd"],
    ),
    "an image missing": (lambda root: (root / "images" / "train1" / "0.png").unlink(), ["train1", "0.png"]),
    "an image of zero size": (lambda root: image(root, b""), ["train1", "0.png"]),
    "an image truncated": (
        lambda root: image(root, (root / "images" / "train1" / "0.png").read_bytes()[:400]),
        ["train1", "0.png"],
    ),
    "an image that is text": (lambda root: image(root, b"hello"), ["train1", "0.png"]),
}


def one_line(result):
    assert result.code == 2, result.err
    lines = [line for line in result.err.splitlines() if line.startswith("hardneg-")]
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err + result.out
    assert "Error executing job" not in result.err
    return lines[0]


@pytest.mark.parametrize("case", CASES)
def test_bad_data(cli, tiny_model, tmp_path, case):
    spoil, mentioned = CASES[case]
    root = tmp_path / "studies"
    root.mkdir()
    write_studies(root)
    spoil(root)
    result = cli("hardneg-train", *tiny_model, "data=annotations", f"data.root={root}", f"hydra.run.dir={tmp_path}/run")
    line = one_line(result)
    for part in mentioned:
        assert part in line
    assert not (tmp_path / "run").exists()


def test_good_data_with_a_further_list_trains_and_notes_it(cli, tiny_model, tmp_path, read_json, caplog):
    root = tmp_path / "studies"
    root.mkdir()
    write_studies(root)
    change(root, lambda a: a.update(none=[{"id": "x"}]))
    result = cli(
        "hardneg-train",
        *tiny_model,
        "data=annotations",
        f"data.root={root}",
        "data.datamodule.source.resize=40",
        "data.datamodule.source.crop=32",
        "data.datamodule.num_workers=0",
        "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert result.code == 0, result.err
    assert "none" in caplog.text + result.out
    assert read_json(tmp_path / "run/metrics.json")["test"]["BLEU-1"] >= 0


@pytest.mark.parametrize(
    ("overrides", "mentioned"),
    [
        (["trainer.max_epoch=3"], ["trainer.max_epoch", "trainer.max_epochs"]),
        (["hardening.margn=0.1"], ["hardening.margn", "hardening.margin"]),
        (["hardning=arc"], ["hardning", "hardening"]),
        (["hardening=ark"], ["hardening=ark", "arc", "segment"]),
        (["+hardening.speed=3"], ["hardening", "speed"]),
        (["hardening.margin=-1"], ["margin", "-1"]),
        (["schedule.unit=week"], ["schedule.unit", "week"]),
        (["visual.name=resnet_18"], ["resnet_18", "resnet18"]),
        (["backbone.heads=5"], ["heads"]),
        (["backbone=r2gen", "backbone.memory_heads=5"], ["heads 5"]),
        (["backbone=r2gencmn", "backbone.topk=9999"], ["topk", "9999"]),
        (["backbone=r2gen", "backbone.checkpoint=nowhere.pth"], ["nowhere.pth"]),
        (["backbone=huggingface", "backbone.name_or_path=nowhere"], ["nowhere"]),
        (["decoding.num_return=4"], ["decoding.num_return"]),
        (["decoding.beam_size=0"], ["decoding.beam_size", "0"]),
        (["decoding.top_k=5"], ["decoding.sample=true"]),
        (["data.batch_size=0"], ["batch_size", "0"]),
        (["data=annotations", "data.root=nowhere"], ["nowhere"]),
        (["data=annotations"], ["data.root"]),
        (["logger=wandb"], ["wandb", "pip install"]),
        (["logger=mlflow"], ["mlflow", "pip install"]),
        (["tokenizer=huggingface"], ["tokenizer.name_or_path"]),
        (["data.min_count=0"], ["min_count", "0"]),
        (["metrics.caption=null", "monitor=val/BLEU-4"], ["metrics.caption", "val/specificity"]),
        (["model.report_feature=both"], ["report_feature", "both"]),
        (["trainer.max_epochs=-1"], ["max_epochs"]),
        (["resume=nowhere"], ["nowhere", "config.yaml"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_settings(cli, tiny, tmp_path, overrides, mentioned):
    settings = [argument for argument in tiny if "caption" not in argument or "metrics.caption=null" not in overrides]
    if "backbone=huggingface" in overrides:
        settings = [argument for argument in settings if not argument.startswith("backbone.")]
    if any(o.startswith("data=") for o in overrides):
        settings = [argument for argument in settings if "source" not in argument]
    line = one_line(cli("hardneg-train", *settings, f"hydra.run.dir={tmp_path}/run", *overrides))
    for part in mentioned:
        assert part in line
    assert not (tmp_path / "run").exists()


def test_a_folder_that_was_there_keeps_what_is_in_it_even_if_empty(cli, tiny, tmp_path):
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    one_line(cli("hardneg-train", *tiny, f"hydra.run.dir={tmp_path}/mine", "hardening.margin=-1"))
    assert (tmp_path / "mine" / "empty").is_dir()


def test_unwritable_run_folder(cli, tiny, tmp_path):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file") in one_line(cli("hardneg-train", *tiny, f"hydra.run.dir={tmp_path}/file/run"))
    assert (tmp_path / "file").read_text() == ""


def test_checkpoint_of_another_vocabulary(cli, tiny, tmp_path):
    run = tmp_path / "run"
    assert cli("hardneg-train", *tiny, f"hydra.run.dir={run}").code == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = one_line(cli("hardneg-train", f"resume={run}", "data.min_count=20"))
    assert "vocabulary" in line
    whole = ("config.yaml", "overrides.yaml", "metrics.json", "predictions/test.jsonl", "checkpoints/last.ckpt")
    for path in map(run.joinpath, whole):
        assert path.read_bytes() == before[path], path


def test_evaluate_without_a_run_and_with_a_broken_checkpoint(cli, tiny, tmp_path):
    assert "config.yaml" in one_line(cli("hardneg-evaluate", f"run={tmp_path}/nowhere"))
    assert "run" in one_line(cli("hardneg-evaluate"))
    run = tmp_path / "run"
    assert cli("hardneg-train", *tiny, f"hydra.run.dir={run}").code == 0
    (tmp_path / "broken.ckpt").write_bytes((run / "checkpoints/last.ckpt").read_bytes()[:1000])
    assert "broken.ckpt" in one_line(cli("hardneg-evaluate", f"run={run}", f"checkpoint={tmp_path}/broken.ckpt"))
    torch.save({"weights": torch.ones(1)}, tmp_path / "foreign.ckpt")
    assert "foreign.ckpt" in one_line(cli("hardneg-evaluate", f"run={run}", f"checkpoint={tmp_path}/foreign.ckpt"))
    assert "split" in one_line(cli("hardneg-evaluate", f"run={run}", "split=train"))
    assert not list(run.glob("evaluation*"))


def test_released_files_that_do_not_fit(cli, tiny, tmp_path):
    run, file = tmp_path / "run", tmp_path / "released.pth"
    resnet = ["visual=resnet18", "+visual.options.in_chans=3"]
    small = [argument for argument in tiny if not argument.startswith("visual.")]
    assert cli("hardneg-train", *small, "backbone=r2gen", *resnet, f"hydra.run.dir={run}").code == 0
    assert cli("hardneg-export", f"run={run}", f"output={file}").code == 0
    before = file.read_bytes()

    def refused(*overrides):
        settings = [*small, "visual=resnet18", f"backbone.checkpoint={file}", f"hydra.run.dir={tmp_path}/other"]
        line = one_line(cli("hardneg-train", *settings, *overrides))
        assert not (tmp_path / "other").exists()
        return line

    line = refused("backbone=r2gen", "data.min_count=20")
    assert "logit.weight" in line
    assert "the vocabulary must be that of the weights" in line
    assert "These are weights of R2Gen: choose it" in refused("backbone=r2gencmn", "backbone.topk=3")
    assert "missing: encoder_decoder.model.encoder.layers.1" in refused("backbone=r2gen", "backbone.layers=2")
    assert "does not fit `resnet34`" in refused("backbone=r2gen", "visual.name=resnet34")
    file.write_bytes(before[:5000])
    assert "released.pth" in refused("backbone=r2gen")
    assert "released.pth" in one_line(cli("hardneg-evaluate", f"run={run}", f"checkpoint={file}"))

    plain = tmp_path / "plain"
    assert cli("hardneg-train", *tiny, f"hydra.run.dir={plain}").code == 0
    assert "TransformerDecoder" in one_line(cli("hardneg-export", f"run={plain}", f"output={tmp_path}/x.pth"))
    grounded = tmp_path / "grounded"
    settings = [*small, "backbone=r2gen", *resnet, "objective=gk_mvlp", f"hydra.run.dir={grounded}"]
    assert cli("hardneg-train", *settings).code == 0
    assert "gk_mvlp" in one_line(cli("hardneg-export", f"run={grounded}", f"output={tmp_path}/x.pth"))
    file.write_bytes(before)
    assert "gk_mvlp" in one_line(cli("hardneg-evaluate", f"run={grounded}", f"checkpoint={file}"))
    assert "output" in one_line(cli("hardneg-export", f"run={run}"))
    assert "nowhere" in one_line(cli("hardneg-export", f"run={tmp_path}/nowhere", f"output={tmp_path}/x.pth"))
    assert not (tmp_path / "x.pth").exists()
    (tmp_path / "a file").touch()
    line = one_line(cli("hardneg-export", f"run={run}", f"output={tmp_path}"))
    assert f"output: expected a file to write, but got {tmp_path}: it is a folder. Name another." in line
    line = one_line(cli("hardneg-export", f"run={run}", f"output={tmp_path}/a file/x.pth"))
    assert f"output: the folder {tmp_path}/a file cannot be made (File exists). Name another." in line


def test_export_leaves_the_folder_it_is_called_in(cli, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    one_line(cli("hardneg-export", "run=nowhere", "output=x.pth"))
    assert (tmp_path / "here").is_dir()
