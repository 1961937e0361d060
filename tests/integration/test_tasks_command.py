"""Pre-training and what comes after it: tasks from end to end, the same numbers again, and in one line what cannot be done."""

import json
import logging
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from hardneg_plugin.apps import train
from hardneg_plugin.folder_lock import hold_file

SMALL = [
    "trainer=smoke",
    "visual.options.channels=[8,8,16,16]",
    "visual.options.stem_width=8",
    "objective.width=16",
    "data.batch_size=8",
    "trainer.log_every_n_steps=1",
    "callbacks.progress_bar.refresh_rate=0",
]
TEXT = ["model.text.width=16", "model.text.heads=2", "model.text.layers=1", "model.text.feedforward_width=32"]
PRETRAIN = ["model=pretrain", *SMALL, *TEXT]
PHANTOM = [f"data.datamodule.source.{name}" for name in ("train=24", "val=12", "test=12", "size=32")]
QUICK = ["segmentation.studies=8", "segmentation.training.epochs=1", "vqa.epochs=1"]
TASKS = ("retrieval", "zero_shot", "linear_probe", "localisation", "segmentation", "vqa")


def call_train(run, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        GlobalHydra.instance().clear()
        patch.setattr(sys, "argv", ["hardneg-train", *map(str, arguments), f"hydra.run.dir={run}"])
        handlers = list(logging.getLogger().handlers)
        train.main()
        logging.getLogger().handlers[:] = handlers


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run; not to be changed."""
    run = tmp_path_factory.mktemp("runs") / "pretrained"
    call_train(run, *PRETRAIN, *PHANTOM)
    return run


@pytest.fixture
def run(pretrained, tmp_path):
    """A copy of it to do anything with."""
    return Path(shutil.copytree(pretrained, tmp_path / "run"))


@pytest.fixture(scope="module")
def annotated(tmp_path_factory):
    """A folder of ten studies per split that are no phantoms."""
    root = tmp_path_factory.mktemp("data")
    content = {}
    for split in ("train", "val", "test"):
        content[split] = []
        for i in range(10):
            path = f"{split}{i}/0.png"
            (root / "images" / path).parent.mkdir(parents=True)
            Image.effect_noise((48, 40), 20 + 5 * i).convert("L").save(root / "images" / path)
            text = f"{'Small left pleural effusion' if i % 2 else 'No effusion'} in study {i}. The heart is normal."
            content[split].append({"id": f"{split}{i}", "report": text, "image_path": [path]})
    (root / "annotation.json").write_text(json.dumps(content))
    return root


def on_disk(root):
    source = "data.datamodule.source"
    return [
        "data=annotations",
        f"data.root={root}",
        "data.datamodule.num_workers=0",
        f"{source}.resize=40",
        f"{source}.crop=32",
    ]


def refused(result):
    assert result.code == 2, result.err
    assert "Traceback" not in result.err + result.out
    (line,) = [line for line in result.err.splitlines() if line.startswith("hardneg-")]
    return line


def content_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_all_tasks_leave_their_scores_and_twice_the_same(cli, run, tmp_path, read_json):
    result = cli("hardneg-tasks", f"run={run}", "tasks=all", *QUICK)
    assert result.code == 0, result.err
    first = content_of(run / "tasks")
    assert set(first) == {f"{task}_test.{suffix}" for task in TASKS for suffix in ("json", "jsonl")}
    ids = [f"phantom-test-{i:06d}" for i in range(12)]
    for task in TASKS:
        written = read_json(run / "tasks" / f"{task}_test.json")
        assert written["scores"].keys() == written["intervals"].keys() == written["directions"].keys()
        for name, (low, high) in written["intervals"].items():
            assert 0 <= low <= written["scores"][name] <= high <= 1
        assert (written["studies"], written["seed"], written["data"]) == (12, 1, "the run's own")
        rows = [json.loads(line) for line in first[f"{task}_test.jsonl"].splitlines()]
        assert [row["id"] for row in rows] == ids
        assert f"{task} on the test split" in result.out
    measured = read_json(run / "metrics.json")["test"]
    assert read_json(run / "tasks" / "retrieval_test.json")["scores"] == pytest.approx(measured)
    assert {path.name for path in tmp_path.iterdir()} == {"run"}  # nothing is left where the command was called

    for name in ("linear_probe", "segmentation", "vqa"):  # alone as among others
        again = cli("hardneg-tasks", f"run={run}", f"tasks={name}", *QUICK)
        assert again.code == 0, again.err
    assert cli("hardneg-tasks", f"run={run}", "tasks=[retrieval,zero_shot,localisation]").code == 0
    assert content_of(run / "tasks") == first

    both = cli("hardneg-tasks", f"run={run}", "tasks=all", *QUICK, "split=[val,test]")
    assert both.code == 0, both.err
    found = content_of(run / "tasks")
    assert set(found) == {name.replace("_test", f"_{split}") for name in first for split in ("val", "test")}
    assert {name: found[name] for name in first} == first
    assert "vqa on the val split" in both.out

    other = cli("hardneg-tasks", f"run={run}", "tasks=[segmentation,vqa,vqa]", *QUICK, "seed=2", "split=val")
    assert other.code == 0, other.err
    assert other.out.count("vqa on the val split") == 1
    assert cli("hardneg-tasks", f"run={run}", "tasks=[segmentation,vqa]", *QUICK, "split=val").code == 0
    assert "phantom-val-000000" in (run / "tasks" / "vqa_val.jsonl").read_text()


def test_one_process_at_a_time_does_the_tasks_of_a_run(cli, run):
    with hold_file(run / "tasks" / ".lock", "held"):
        refused = cli("hardneg-tasks", run, "tasks=retrieval")
    assert refused.code == 2
    assert refused.err == (
        f"hardneg-tasks: error: {run}/tasks: another hardneg-tasks is at work on this run. Wait until it has ended.\n"
    )
    assert not list((run / "tasks").iterdir())
    assert cli("hardneg-tasks", run, "tasks=retrieval").code == 0
    assert {path.name for path in (run / "tasks").iterdir()} == {"retrieval_test.json", "retrieval_test.jsonl"}


def test_the_seed_is_that_of_heads_and_questions(cli, run, read_json):
    found = []
    for seed in (1, 2):
        assert cli("hardneg-tasks", f"run={run}", "tasks=[segmentation,vqa]", *QUICK, f"seed={seed}").code == 0
        found.append(content_of(run / "tasks"))
    assert found[0]["segmentation_test.jsonl"] != found[1]["segmentation_test.jsonl"]
    assert found[0]["vqa_test.jsonl"] != found[1]["vqa_test.jsonl"]


def test_a_run_of_pre_training_is_scored_again_and_mines(cli, run, tmp_path, read_json):
    measured = read_json(run / "metrics.json")
    assert not (run / "predictions").exists()
    assert measured["test"].keys() >= {"R@1", "r2i_R@5", "peers_R@1"}
    assert "scored_against" not in measured
    again = cli("hardneg-evaluate", f"run={run}")
    assert again.code == 0, again.err
    (folder,) = run.glob("evaluation_*")
    scored = read_json(folder / "metrics.json")
    assert scored["test"] == pytest.approx(measured["test"])
    assert "decoding" not in scored
    assert "reports" not in again.out
    assert not (folder / "predictions").exists()
    line = refused(cli("hardneg-evaluate", f"run={run}", "decoding.beam_size=1"))
    assert "writes no reports" in line

    table = tmp_path / "neighbours.parquet"
    mined = cli("hardneg-mine", *PHANTOM, "data=phantom", "embedder=run", f"embedder.run={run}", f"output={table}")
    assert mined.code == 0, mined.err
    assert len(pq.read_table(table)) == 24
    paired = ["negatives=paired", f"data.paired.table={table}", "schedule.warmup=0"]
    result = cli("hardneg-train", *PRETRAIN, *PHANTOM, *paired, f"hydra.run.dir={tmp_path}/paired")
    assert result.code == 0, result.err
    head, *lines = (tmp_path / "paired/logs/csv/version_0/metrics.csv").read_text().splitlines()
    rows = [dict(zip(head.split(","), line.split(","), strict=True)) for line in lines]
    assert any(float(row["train/negatives_found"] or 0) > 0 for row in rows)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("hardneg-predict", ["RUN", "chest.png"]),
        ("hardneg-page", ["run=RUN"]),
        ("hardneg-export", ["run=RUN", "output=x.pth"]),
        ("hardneg-evaluate", ["run=RUN", "checkpoint=x.pth"]),
    ],
)
def test_a_run_without_a_decoder_writes_nothing_and_says_what_it_is_for(cli, run, tmp_path, command, arguments):
    Image.effect_noise((48, 40), 20).convert("L").save(tmp_path / "chest.png")
    (tmp_path / "x.pth").write_bytes(b"")
    line = refused(cli(command, *(argument.replace("RUN", str(run)) for argument in arguments)))
    assert "no report decoder" in line
    assert f"hardneg-tasks {run} says" in line


@pytest.mark.parametrize("objective", ["reclf", "gk_mvlp"])
def test_other_objectives_say_where_they_look(cli, tmp_path, read_json, objective):
    run = tmp_path / "run"
    sizes = {
        "reclf": ["objective.word_region_width=8"],
        "gk_mvlp": ["grounding_width=16", "objective.heads=2"],
    }[objective]
    result = cli("hardneg-train", *PRETRAIN, *PHANTOM, f"objective={objective}", *sizes, f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    result = cli("hardneg-tasks", f"run={run}", "tasks=[localisation,zero_shot,retrieval]")
    assert result.code == 0, result.err
    assert 0 <= read_json(run / "tasks/localisation_test.json")["scores"]["IoU"] <= 1
    for task, name in (("zero_shot", "zero_shot_AUROC"), ("retrieval", "peers_r2i_R@5")):
        scores = read_json(run / f"tasks/{task}_test.json")["scores"]
        assert 0 <= scores[name] <= 1
        assert (f"pair_{name}" in scores) == (objective == "reclf")


def test_the_tasks_of_a_bare_host(cli, tmp_path, read_json):
    run = tmp_path / "host"
    small = [argument for argument in SMALL if not argument.startswith("model.")]
    decoder = ["backbone.width=32", "backbone.heads=2", "backbone.layers=1", "decoding.max_length=8", "baselines=false"]
    caption = ["metrics.caption=null", "monitor=val/findings_F1"]
    result = cli("hardneg-train", "model=host", *small, *decoder, *caption, *PHANTOM, f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    for task in ("zero_shot", "localisation", "retrieval"):
        line = refused(cli("hardneg-tasks", f"run={run}", f"tasks={task}"))
        assert f"tasks=[{task}] needs" in line
        assert "bare host: train with model=hard_negatives or model=pretrain." in line
    line = refused(cli("hardneg-tasks", f"run={run}", "tasks=all"))
    assert "leave it at tasks=[linear_probe,segmentation,vqa]" in line
    assert not (run / "tasks").exists()  # nothing is begun
    result = cli("hardneg-tasks", f"run={run}", "tasks=[linear_probe,segmentation,vqa]", *QUICK)
    assert result.code == 0, result.err
    assert "probe_100%_AUROC" in read_json(run / "tasks/linear_probe_test.json")["scores"]


def test_tasks_on_data_that_are_no_phantom(cli, run, annotated, tmp_path, read_json):
    own = tmp_path / "own"
    result = cli("hardneg-train", *PRETRAIN, *on_disk(annotated), "data.min_count=1", f"hydra.run.dir={own}")
    assert result.code == 0, result.err
    tasks = "tasks=[retrieval,zero_shot,linear_probe]"
    result = cli("hardneg-tasks", f"run={own}", tasks, "shares=[1.0]")
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (own / "tasks/zero_shot_test.jsonl").read_text().splitlines()]
    stated = [row["rankings"]["zero_shot_AUROC"]["pleural effusion"][1] for row in rows]
    assert stated == [i % 2 for i in range(10)]
    measured = read_json(own / "metrics.json")["test"]
    assert read_json(own / "tasks/retrieval_test.json")["scores"] == pytest.approx(measured)
    for task in ("localisation", "segmentation", "vqa"):
        line = refused(cli("hardneg-tasks", f"run={own}", f"tasks={task}"))
        assert f"tasks=[{task}] needs boxes, masks or facts of every finding, which only data=phantom has." in line
    assert f"leave it at {tasks}" in refused(cli("hardneg-tasks", f"run={own}", "tasks=all"))
    # a run of the phantom on other data
    result = cli("hardneg-tasks", f"run={run}", "tasks=[zero_shot,retrieval]", *on_disk(annotated))
    assert result.code == 0, result.err
    assert read_json(run / "tasks/zero_shot_test.json")["data"]["root"] == str(annotated)
    assert "test3" in (run / "tasks/retrieval_test.jsonl").read_text()


def test_zero_shot_and_retrieval_on_real_reports(cli, run, read_json, real_data):
    result = cli("hardneg-tasks", f"run={run}", "tasks=[zero_shot,retrieval]", *on_disk(real_data("iu_xray_tiny")))
    assert result.code == 0, result.err
    assert read_json(run / "tasks/retrieval_test.json")["studies"] == 2


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["tasks=foo"], ["tasks: expected all or some of retrieval, zero_shot, ", "'foo'"]),
        (["tasks=[vqa,foo]"], ["'foo'"]),
        (["tasks=[]"], ["tasks: expected all or some of", "none"]),
        (["tasks=null"], ["tasks: expected all or some of", "None"]),
        (["tasks=vqa", "split=train"], ["split", "train"]),
        (["tasks=vqa", "split=[test,test]"], ["split: expected val, test, or both as [val,test]", "test"]),
        (["tasks=vqa", "split=[]"], ["split", "[]"]),
        (["tasks=vqa", "seed=-1"], ["seed", "-1"]),
        (["tasks=vqa", "vqa.epochs=0"], ["vqa.epochs", "0"]),
        (["tasks=segmentation", "segmentation.studies=none"], ["segmentation.studies", "none"]),
        (["tasks=segmentation", "segmentation.training.lr=0"], ["lr", "0"]),
        (["tasks=linear_probe", "shares=0.5"], ["shares", "0.5"]),
        (["tasks=linear_probe", "shares=[2.0]"], ["shares", "2.0"]),
        (["tasks=vqa", "device=nowhere"], ["device=nowhere"]),
        (["tasks=vqa", "checkpoint=nowhere.ckpt"], ["checkpoint", "nowhere.ckpt"]),
        (["tasks=vqa", "steps=3"], ["steps: there is no such config key"]),
        (["tasks=vqa", "data=phantom", *PHANTOM, "data.datamodule.source.test=0"], ["Expected studies", "test"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else None,
)
def test_one_line_says_what_is_wrong(cli, pretrained, arguments, mentioned):
    line = refused(cli("hardneg-tasks", f"run={pretrained}", *arguments))
    assert all(part in line for part in mentioned), line
    assert not (pretrained / "tasks").exists()


def test_a_run_of_someone_else_builds_nothing_of_theirs(cli, run, tmp_path):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["knowledge"] = {"_target_": "pathlib.Path.touch", "self": str(tmp_path / "touched")}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    line = refused(cli("hardneg-tasks", f"run={run}", "tasks=zero_shot"))
    assert "data.knowledge._target_ is pathlib.Path.touch" in line
    assert "trust=true" in line
    assert not (tmp_path / "touched").exists()
    del config["data"]["knowledge"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    line = refused(cli("hardneg-tasks", f"run={run}", "tasks=[retrieval,zero_shot,vqa]"))
    assert "tasks=[zero_shot] needs data.knowledge, which the data do not have" in line
    assert "leave it at tasks=[retrieval,vqa]." in line
    assert not (run / "tasks").exists()  # nothing is begun
    assert cli("hardneg-tasks", f"run={run}", "tasks=retrieval").code == 0  # which asks for nothing that is known
