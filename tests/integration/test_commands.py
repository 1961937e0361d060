"""The commands from end to end on tiny settings: what they write, and that a run can be scored again and resumed."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from hardneg_plugin.evaluation.inspected_study import quantise
from hardneg_plugin.metrics.chexpert import CONDITIONS
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.pages.from_runs import build_page
from hardneg_plugin.runs.csv_log import read_csv_log
from hardneg_plugin.runs.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]

TINY_LLAMA = [
    "backbone.config.hidden_size=16",
    "backbone.config.intermediate_size=16",
    "backbone.config.num_hidden_layers=1",
    "backbone.config.num_attention_heads=2",
    "backbone.config.num_key_value_heads=2",
]


def test_train_leaves_a_whole_run_folder_and_evaluate_gives_the_same_scores(cli, tiny, tmp_path, read_json):
    run = tmp_path / "run"
    arguments = [argument for argument in tiny if argument not in ("baselines=false", "metrics.caption.meteor=false")]
    result = cli("hardneg-train", *arguments, f"hydra.run.dir={run}", "trainer.max_epochs=2")
    assert result.code == 0, result.err
    written = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "overrides.yaml",
        "metrics.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "predictions/val.jsonl",
        "predictions/test.jsonl",
        "logs/csv/version_0/metrics.csv",
    } <= written
    assert any(name.startswith("logs/tensorboard/events") for name in written)
    metrics = read_json(run / "metrics.json")
    for split in ("val", "test"):
        assert {"BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr", "findings_F1", "R@1", "unique_share", "report_loss"} <= metrics[
            split
        ].keys()
    assert {"cut/BLEU-4", "cut/CIDEr"} <= metrics["test"].keys()
    assert set(metrics["baselines"]) == {"most frequent report", "report of the most similar image"}
    assert metrics["training"]["epochs"] == 2
    assert metrics["parameters"]["training_only"] == 16 * (16 + 32) + 1  # two heads and the logit scale
    records = [json.loads(line) for line in (run / "predictions/test.jsonl").read_text().splitlines()]
    assert [record["id"] for record in records] == [f"phantom-test-{i:06d}" for i in range(6)]
    known = {"id", "reference", "cut_reference", "generated", "patient", "labels", "findings", "measured", "scores"}
    assert all(record.keys() == known for record in records)
    for split in ("val", "test"):
        intervals = metrics["intervals"][split]
        assert {
            "BLEU-4",
            "findings_attributes_F1",
            "findings_F1_rare",
            "findings_macro_F1",
            "informativeness",
            "specificity",
            "R@1",
            "peers_R@1",
            "report_loss",
        } <= intervals.keys()
        assert all(low <= metrics[split][name] <= high for name, (low, high) in intervals.items())
    assert "Test split" in result.out
    assert "most frequent" in result.out
    assert "data        PhantomStudies: 24 train, 6 val, 6 test; 2 views a study, 32 x 32 px\n" in result.out
    assert "\nsteps       6, 3 an epoch\nbest.ckpt   by val/findings_attributes_F1\n" in result.out
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert metrics["selected_by"] == {
        "monitor": "val/findings_attributes_F1",
        "mode": "max",
        "epoch": best["epoch"] + 1,
        "step": best["global_step"],
    }
    assert f"best.ckpt, epoch {best['epoch'] + 1} of 2 " in result.out
    assert best["provenance"] == {**metrics["provenance"], "versions": metrics["versions"]}
    assert metrics["provenance"]["data"]["studies"] == {"train": 24, "val": 6, "test": 6}
    assert metrics["provenance"]["command"].startswith("hardneg-train 'visual.options.channels=[8,8,16,16]' ")
    assert str(run) in result.out

    again = cli("hardneg-evaluate", f"run={run}")
    assert again.code == 0, again.err
    (folder,) = run.glob("evaluation_*")
    assert read_json(folder / "metrics.json")["test"] == pytest.approx(metrics["test"])
    assert (folder / "predictions/test.jsonl").read_text() == (run / "predictions/test.jsonl").read_text()
    greedy = cli("hardneg-evaluate", run, "split=val", "checkpoint=last", "decoding.beam_size=1")
    assert greedy.code == 0, greedy.err
    elsewhere = [argument for argument in tiny if argument.startswith("data.datamodule.source")]
    other = cli("hardneg-evaluate", f"run={run}", "data=phantom", *elsewhere, "data.datamodule.source.seed=7")
    assert other.code == 0, other.err
    # each in a folder of its own, however quickly they follow one another
    assert (
        len(list(run.glob("evaluation_*/metrics.json"))) == len(list(run.glob("evaluation_*/predictions/*.jsonl"))) == 3
    )

    alone = cli("hardneg-score", run / "predictions/test.jsonl")
    assert alone.code == 0, alone.err
    scores = read_json(run / "predictions/test.scores.json")
    assert scores["test"] == metrics["test"]
    assert scores["intervals"]["test"] == metrics["intervals"]["test"]


def test_a_run_of_an_earlier_version_is_resumed_by_the_score_that_it_began_with(cli, tiny, tmp_path, read_json):
    run = tmp_path / "run"
    assert cli("hardneg-train", *tiny, f"hydra.run.dir={run}", "monitor=val/BLEU-4").code == 0
    # when that was the default, and checkpoints did not say where they came from
    (run / "overrides.yaml").write_text((run / "overrides.yaml").read_text().replace("- monitor=val/BLEU-4\n", ""))
    for name in ("best", "last"):
        path = run / f"checkpoints/{name}.ckpt"
        content = torch.load(path, weights_only=True)
        assert [key for key in content["callbacks"] if key.startswith("ModelCheckpoint{'monitor': 'val/BLEU-4'")]
        del content["provenance"]
        torch.save(content, path)
    resumed = cli("hardneg-train", f"resume={run}", "trainer.max_epochs=2")
    assert resumed.code == 0, resumed.err
    metrics = read_json(run / "metrics.json")
    assert metrics["selected_by"]["monitor"] == "val/BLEU-4"
    assert metrics["val"]["BLEU-4"] == max(curve_of(run, "val/BLEU-4"))
    assert "other data" not in resumed.out
    again = cli("hardneg-train", f"resume={run}", "trainer.max_epochs=3", "data.datamodule.source.test=5")
    assert again.code == 0, again.err
    assert "last.ckpt was trained on other data than those of now" in again.out


def test_the_best_of_several_validations_in_an_epoch_is_kept(cli, tiny, tmp_path, read_json):
    settings = ["+trainer.val_check_interval=1", "monitor=val/report_loss", "callbacks.last.every_n_train_steps=1"]
    run = tmp_path / "run"
    # three steps, of which the later ones make it worse
    worse = ["optimizer.lr=3", "lr_schedule=constant", "trainer.gradient_clip_val=null"]
    result = cli("hardneg-train", *tiny, *settings, *worse, f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    losses = curve_of(run, "val/report_loss")[:3]
    assert min(losses) < losses[-1]
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == losses.index(min(losses)) + 1
    metrics = read_json(run / "metrics.json")
    assert metrics["selected_by"] == {
        "monitor": "val/report_loss",
        "mode": "min",
        "epoch": 1,
        "step": best["global_step"],
    }
    assert metrics["val"]["report_loss"] == pytest.approx(min(losses))


def curve_of(run, name):
    return [row.values[name] for row in read_csv_log(RunFolder(run)) if name in row.values]


def test_data_whose_findings_cannot_be_read_are_judged_by_their_loss(cli, tiny_model, tmp_path, read_json):
    home = tmp_path / "studies"
    (home / "images").mkdir(parents=True)
    lists = {}
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        lists[split] = []
        for i in range(count):
            noise = np.random.default_rng(i if split != "val" else 100 + i).integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(noise).save(home / f"images/{split}{i}.png")
            report = f"das herz ist normal gross in studie {i} ."
            lists[split].append({"id": f"{split}{i}", "report": report, "image_path": [f"{split}{i}.png"]})
    (home / "annotation.json").write_text(json.dumps(lists))
    settings = [*tiny_model, "data=annotations", f"data.root={home}", "data.min_count=1", "trainer.max_epochs=1"]
    settings += [f"data.datamodule.{key}" for key in ("num_workers=0", "source.resize=32", "source.crop=32")]
    result = cli("hardneg-train", *settings, "data.findings=null", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 0, result.err
    chosen = read_json(tmp_path / "run/metrics.json")["selected_by"]
    assert (chosen["monitor"], chosen["mode"]) == ("val/specificity", "max")
    assert "of 4 studies in val 4 the exact report of a training study" in result.out
    assert "of 4 studies in test 4 the exact report, 4 an image of a training study" in result.out

    refused = cli(
        "hardneg-train", *settings, "data.findings=null", "monitor=val/findings_F1", f"hydra.run.dir={tmp_path}/no"
    )
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "data.findings is null, but monitor is val/findings_F1" in refused.err


def test_a_predictions_file_of_another_system(cli, tmp_path, read_json):
    text = "there is a small left pleural effusion ."
    lines = [{"id": str(i), "reference": text if i else "the heart is normal .", "generated": text} for i in range(3)]
    (tmp_path / "theirs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = cli("hardneg-score", "predictions=theirs.jsonl", "findings=phantom", "output=out/scores.json")
    assert result.code == 0, result.err
    scores = read_json(tmp_path / "out" / "scores.json")["theirs"]
    assert scores["findings_attributes_precision"] == pytest.approx(2 / 3)
    assert scores["unique_share"] == pytest.approx(1 / 3)
    assert scores["informativeness"] == pytest.approx(1 / 2)  # two studies right, a false alarm in the third
    english = cli("hardneg-score", "predictions=theirs.jsonl", "findings=english", "output=out/english.json")
    assert english.code == 0, english.err
    of_english = read_json(tmp_path / "out" / "english.json")["theirs"]
    assert {name: of_english[name] for name in scores} == pytest.approx(scores)
    # two files of texts by id, one of them in UTF-16, with the blanks that ROUGE-L counts
    (tmp_path / "res.json").write_text(json.dumps({line["id"]: ["there is  a small effusion ."] for line in lines}))
    (tmp_path / "gts.json").write_bytes(json.dumps({line["id"]: [text] for line in lines}).encode("utf-16"))
    by_id = cli("hardneg-score", "res.json", "references=gts.json", "metrics.caption.meteor=false")
    assert by_id.code == 0, by_id.err
    assert "gts.json: read as utf-16." in by_id.out
    assert "3 of 6 texts have several blanks in a row" in by_id.out
    (of_files,) = [read_json(tmp_path / "res.scores.json")["res"]]
    common, theirs, ours = 6, 7, 8  # words, with the empty one between two blanks
    precision, recall = common / theirs, common / ours
    rouge = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert of_files["ROUGE-L"] == pytest.approx(rouge, abs=1e-9)
    seen = cli("hardneg-score", "res.json", "references=gts.json", "texts=seen", "metrics.caption.meteor=false")
    assert seen.code == 0, seen.err
    assert read_json(tmp_path / "res.scores.json")["res"]["ROUGE-L"] > rouge
    for name, label in (("generated", 1), ("references", 1)):
        rows = [f"{i},{','.join([str(label)] * 14)}" for i in range(3)]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"id,{','.join(CONDITIONS)}", *rows]))
    labels = [f"clinical.label_files.{name}={name}.csv" for name in ("generated", "references")]
    labelled = cli(
        "hardneg-score", "predictions=theirs.jsonl", "clinical=label_files", *labels, "output=out/labels.json"
    )
    assert labelled.code == 0, labelled.err
    of_labels = read_json(tmp_path / "out" / "labels.json")["theirs"]
    printed = dict(re.findall(r"│ (labels_F1_\S+) +│ +([\d.]+) │", labelled.out))
    assert printed == {name: f"{value:.3f}" for name, value in of_labels.items() if name.startswith("labels_")} != {}
    for wrong, told in (
        (["res.json"], "Name the file of the references by references=FILE"),
        (["predictions=theirs.jsonl", "texts=raw"], "texts: expected one of as_given, seen or null, but got 'raw'"),
        (["predictions=none.jsonl"], "none.jsonl, but it cannot be read"),
        (["predictions=theirs.jsonl", "findings=other"], "findings: expected one of phantom, english or null"),
        (["predictions=theirs.jsonl", "run=x"], "run: there is no such config key"),
        (["predictions=theirs.jsonl", "clinical=label_files"], "clinical.label_files.generated must be given"),
    ):
        result = cli("hardneg-score", *wrong)
        assert result.code == 2
        assert result.err.count("\n") == 1
        assert told in result.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["predictions=x.jsonl"],
            "predictions: there is no such config key; a predictions file is scored by hardneg-score",
        ),
        (["a", "task=vqa"], "task: there is no such config key; downstream tasks are done by hardneg-tasks RUN."),
        (["run=a", "tasks=all"], "tasks: there is no such config key; downstream tasks are done by hardneg-tasks RUN."),
        (["a", "b"], "run: expected one path, but got a, b."),
        (["a", "run=b"], "run: expected one path, but got a, run=b."),
        (["it's"], "it's holds no config.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_evaluate_names_the_command_for_what_it_does_not_do(cli, arguments, told):
    result = cli("hardneg-evaluate", *arguments)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert told in result.err


@pytest.mark.parametrize("model", ["host", "hard_negatives"])
@pytest.mark.parametrize("backbone", ["transformer", "r2gen", "r2gencmn", "huggingface", "causal_lm"])
def test_every_backbone_trains_bare_and_with_hard_negatives_and_is_scored_again(
    cli, tiny, tmp_path, read_json, backbone, model
):
    sizes = {
        "transformer": ["backbone.max_patches=null"],
        "r2gen": ["backbone.memory_heads=2"],
        "r2gencmn": ["backbone.memory_size=32", "backbone.topk=4"],
        "huggingface": ["backbone.config.n_embd=32", "backbone.config.n_head=2", "backbone.config.n_layer=1"],
        "causal_lm": TINY_LLAMA,
    }[backbone]
    settings = [
        argument
        for argument in tiny
        if not (backbone in ("huggingface", "causal_lm") and argument.startswith("backbone."))
        and not (model == "host" and argument.startswith("model."))
    ]
    run = tmp_path / "run"
    result = cli("hardneg-train", *settings, f"backbone={backbone}", *sizes, f"model={model}", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    scores = read_json(run / "metrics.json")["test"]
    assert ("R@1" in scores) == (model == "hard_negatives")
    again = cli("hardneg-evaluate", f"run={run}")
    assert again.code == 0, again.err
    (folder,) = run.glob("evaluation_*")
    assert read_json(folder / "metrics.json")["test"] == pytest.approx(scores)


def test_a_causal_language_model_shows_where_it_looks_writes_reports_and_cannot_be_exported(
    cli, tiny, tmp_path, read_json
):
    settings = [argument for argument in tiny if not argument.startswith("backbone.")]
    adapted = ["backbone.adapt=lora", "backbone.bridge=queries", "backbone.queries=4", "backbone.bridge_heads=2"]
    run, page = tmp_path / "run", tmp_path / "page.html"
    trained = cli("hardneg-train", *settings, "backbone=causal_lm", *TINY_LLAMA, *adapted, f"hydra.run.dir={run}")
    assert trained.code == 0, trained.err
    shown = cli("hardneg-page", f"run={run}", f"output={page}")
    assert shown.code == 0, shown.err
    assert "6 studies" in shown.out
    text, model, content = page.read_text(), ReportGenerator.from_run(run), build_page({"run": RunFolder(run)}, "test")
    words = 0
    for study in content.studies:
        (report,) = model.generate([study.views], attention=True)
        written = study.written["run"]
        assert report.text == written.text
        # over the patches of a word; one layer, no sliding window
        torch.testing.assert_close(report.attention.sum((1, 2, 3)), torch.ones(len(report.words)))
        assert written.attention.shape == report.attention.shape
        np.testing.assert_allclose(written.attention, quantise(report.attention), atol=1)
        assert f'"run":"{base64.b64encode(written.attention.tobytes()).decode()}"' in text
        words += len(report.words)
    assert words
    Image.new("L", (32, 32)).save(tmp_path / "image.png")
    written = cli("hardneg-predict", str(run), str(tmp_path / "image.png"), f"output={tmp_path}/reports.jsonl")
    assert written.code == 0, written.err
    assert set(json.loads((tmp_path / "reports.jsonl").read_text())) == {"id", "images", "report"}
    exported = cli("hardneg-export", f"run={run}", f"output={tmp_path}/released.pth")
    assert (exported.code, exported.err.count("\n")) == (2, 1)
    assert "Expected R2Gen or R2GenCMN, as released weights are of those, but got CausalLMDecoder." in exported.err
    assert "backbone=r2gen or" in exported.err
    resumed = cli("hardneg-train", f"resume={run}", "trainer.max_epochs=2")
    assert resumed.code == 0, resumed.err
    assert read_json(run / "metrics.json")["training"]["steps"] == 6


@pytest.mark.parametrize("architecture", ["r2gen", "r2gencmn"])
def test_released_weights_out_and_in_again(cli, tiny, tmp_path, read_json, architecture):
    memory = {"r2gen": ["backbone.memory_heads=2"], "r2gencmn": ["backbone.memory_size=32", "backbone.topk=4"]}
    settings = [argument for argument in tiny if not argument.startswith("visual.")]
    settings += [f"backbone={architecture}", *memory[architecture], "visual=resnet18"]
    run, file, started = tmp_path / "run", tmp_path / "out" / "released.pth", tmp_path / "started"
    result = cli("hardneg-train", *settings, "+visual.options.in_chans=3", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    trained = read_json(run / "metrics.json")["test"]["report_loss"]

    exported = cli("hardneg-export", f"run={run}", f"output={file}")
    assert exported.code == 0, exported.err
    assert str(file) in exported.out
    assert not list(tmp_path.glob("*.yaml"))  # it leaves the file and nothing else

    zero = cli(
        "hardneg-train",
        *settings,
        "visual.pretrained=true",  # nothing is downloaded where there is a checkpoint
        f"backbone.checkpoint={file}",
        "trainer.max_epochs=0",
        f"hydra.run.dir={started}",
    )
    assert zero.code == 0, zero.err
    assert "checkpoint=last" in zero.out
    assert read_json(started / "metrics.json")["test"]["report_loss"] == pytest.approx(trained, rel=1e-5)

    both = [f"checkpoint={file}", f"checkpoint={started}/checkpoints/last.ckpt"]
    for checkpoint in both:
        assert cli("hardneg-evaluate", f"run={run}", checkpoint).code == 0
    file.unlink()  # what training started from is not needed any more
    assert cli("hardneg-evaluate", f"run={started}", "checkpoint=last").code == 0
    for folder in [*run.glob("evaluation_*"), *started.glob("evaluation_*")]:
        assert read_json(folder / "metrics.json")["test"]["report_loss"] == pytest.approx(trained, rel=1e-5)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=host"],
        ["hardening=ascent", "negatives.k=2", "negatives.pool=4"],
        ["hardening=none", "alignment=triplet", "separation=none"],
        ["experiment=ithn_released"],
        ["model.report_feature=text_only", "hardening=segment", "schedule=cosine"],
        ["objective.width=null", "backbone.width=16", "hardening=projection", "schedule=constant"],
        ["metrics.caption=null", "monitor=val/report_loss"],
        # all of trainer=gpu but the GPU
        ["trainer.precision=bf16-mixed", "optimizer.fused=true", "model.channels_last=true"],
        ["lr_schedule=constant", "backbone.max_patches=null", "model.visual_lr=1e-4", "trainer.precision=bf16-mixed"],
    ],
    ids=lambda overrides: " ".join(overrides),
)
def test_every_variant_trains(cli, tiny, tmp_path, read_json, overrides):
    smoke = [argument for argument in tiny if not argument.startswith("trainer.max_epochs")]
    if "metrics.caption=null" in overrides:
        smoke.remove("metrics.caption.meteor=false")
    if "model=host" in overrides:
        smoke.remove("objective.width=16")
    result = cli("hardneg-train", *smoke, f"hydra.run.dir={tmp_path}/run", "trainer=smoke", *overrides)
    assert result.code == 0, result.err
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["test"]["report_loss"] > 0
    assert (metrics["parameters"]["training_only"] == 0) == ("model=host" in overrides)
    assert ("BLEU-4" in metrics["test"]) == ("metrics.caption=null" not in overrides)


def test_a_run_is_scored_again_in_the_precision_of_its_training(cli, tiny, tmp_path, read_json):
    run = tmp_path / "run"
    trained = cli("hardneg-train", *tiny, "trainer=smoke", "trainer.precision=bf16-mixed", f"hydra.run.dir={run}")
    assert trained.code == 0, trained.err
    of_training, seen = read_json(run / "metrics.json")["test"], {}
    for precision in ([], ["trainer.precision=32-true"]):
        before = set(run.glob("evaluation_*"))
        assert cli("hardneg-evaluate", f"run={run}", *precision).code == 0
        (folder,) = set(run.glob("evaluation_*")) - before
        scores = read_json(folder / "metrics.json")
        seen[scores["precision"]] = scores["test"]
    assert seen["bf16-mixed"] == of_training
    assert seen["32-true"] != of_training
    refused = cli("hardneg-evaluate", run, "decoding.precision=bfloat16")
    assert refused.code == 2
    assert "decoding.precision" in refused.err.splitlines()[-1]
    assert "trainer.precision=32-true" in refused.err.splitlines()[-1]
    before = set(run.glob("evaluation_*"))
    assert cli("hardneg-evaluate", run, "decoding.precision=bfloat16", "trainer.precision=32-true").code == 0
    (folder,) = set(run.glob("evaluation_*")) - before
    scores = read_json(folder / "metrics.json")
    assert scores["decoding"]["precision"] == "bfloat16"
    assert scores["test"]["report_loss"] == seen["32-true"]["report_loss"]  # the search alone


def test_a_run_that_started_from_a_file_of_weights_is_scored_without_that_file(cli, tiny, tmp_path, read_json):
    network = timm.create_model("resnet10t", channels=[8, 8, 16, 16], stem_width=8, in_chans=3)
    torch.save(network.state_dict(), tmp_path / "start.pth")
    result = cli("hardneg-train", *tiny, f"hydra.run.dir={tmp_path}/run", f"visual.weights={tmp_path}/start.pth")
    assert result.code == 0, result.err
    (tmp_path / "start.pth").unlink()
    assert cli("hardneg-evaluate", f"run={tmp_path}/run").code == 0
    (scores,) = (tmp_path / "run").glob("evaluation_*/metrics.json")
    assert read_json(scores)["test"] == pytest.approx(read_json(tmp_path / "run" / "metrics.json")["test"])


def test_the_same_command_twice_gives_the_same_numbers(cli, tiny, tmp_path, read_json):
    for name in ("first", "second"):
        assert cli("hardneg-train", *tiny, f"hydra.run.dir={tmp_path}/{name}").code == 0
    first, second = (read_json(tmp_path / name / "metrics.json") for name in ("first", "second"))
    assert first["test"] == second["test"]
    other = cli("hardneg-train", *tiny, f"hydra.run.dir={tmp_path}/other", "seed=2")
    assert other.code == 0
    assert read_json(tmp_path / "other" / "metrics.json")["test"] != first["test"]


def test_multirun_runs_each_job_in_its_own_folder(cli, tiny, tmp_path):
    result = cli("hardneg-train", "--multirun", *tiny, f"hydra.sweep.dir={tmp_path}/sweep", "seed=1,2")
    assert result.code == 0, result.err
    assert sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/metrics.json")) == ["0", "1"]
