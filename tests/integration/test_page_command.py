"""hardneg-page: what runs wrote, read back from their folders, and the page that is made of it."""

import json
import logging
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from hardneg_plugin.apps import train
from hardneg_plugin.data.phantom import PhantomKnowledge, PhantomStudies
from hardneg_plugin.data.phantom.reading import read_findings
from hardneg_plugin.errors import UserError
from hardneg_plugin.knowledge import PRESENT
from hardneg_plugin.neighbours.groups import normalised
from hardneg_plugin.pages.from_runs import build_page
from hardneg_plugin.runs.folder import RunFolder

MODEL = [
    "visual.options.channels=[8,8,16,16]",
    "visual.options.stem_width=8",
    "backbone.width=32",
    "backbone.heads=2",
    "backbone.layers=1",
    "data.batch_size=8",
    "decoding.max_length=12",
    "metrics.caption.meteor=false",
    "baselines=false",
    "trainer.log_every_n_steps=1",
    "callbacks.progress_bar.refresh_rate=0",
]
PHANTOM = {"train": 24, "val": 6, "test": 12, "size": 64}


def call_train(run, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        GlobalHydra.instance().clear()
        patch.setattr(sys, "argv", ["hardneg-train", *MODEL, *map(str, arguments), f"hydra.run.dir={run}"])
        handlers = list(logging.getLogger().handlers)
        train.main()
        logging.getLogger().handlers[:] = handlers


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two runs on the same data; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    data = [f"data.datamodule.source.{name}={value}" for name, value in PHANTOM.items()]
    for name, model in (("host", ["model=host"]), ("arc", ["objective.width=16"])):
        call_train(folder / name, *data, *model, "trainer.max_epochs=2", "optimizer.lr=0.01")
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    """Copies of them to do anything with."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))


@pytest.fixture(scope="module")
def content(trained):
    return build_page({name: RunFolder(trained / name) for name in ("host", "arc")}, "test")


def predictions(run, split="test"):
    return [json.loads(line) for line in (run / "predictions" / f"{split}.jsonl").read_text().splitlines()]


def data_of(page):
    """What the script of a page reads."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text())
    return json.loads(data)


def write_predictions(run, records):
    (run / "predictions" / "test.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_each_study_has_what_every_run_wrote_about_it(trained, content):
    assert (content.title, content.variants, content.neighbours) == ("host, arc: test split", ["host", "arc"], [])
    split = PhantomStudies(**PHANTOM).split("test")
    assert [study.id for study in content.studies] == split.ids
    assert [study.original for study in content.studies] == split.reports
    for row, study in enumerate(content.studies):
        marks = [(mark.view, tuple(end / PHANTOM["size"] for end in mark.box)) for mark in split.marks(row)]
        assert [(("frontal", "lateral")[box.view], box.place) for box in study.boxes] == marks
    for name in content.variants:
        for study, record, sample in zip(content.studies, predictions(trained / name), split, strict=True):
            written = study.written[name]
            assert (study.id, study.reference, written.text) == (
                record["id"],
                record["reference"],
                record["generated"],
            )
            assert [view.tolist() for view in study.views] == sample["images"][:, 0].tolist()
            assert written.words == record["generated"].split()
            assert written.attention.shape == (len(written.words), 2, 2, 2)
            assert written.scores["CIDEr"] == record["scores"]["CIDEr"]
            stated, true = read_findings(record["generated"]), read_findings(record["reference"])
            verdicts = [verdict for _, verdict in written.findings]
            assert [verdicts.count(verdict) for verdict in ("correct", "wrong", "missed")] == [
                len(stated & true),
                len(stated - true),
                len(true - stated),
            ]
    missed = [text for study in content.studies for text, _ in study.written["arc"].findings]
    assert any("(" in text for text in missed)  # with attributes


def test_hard_negatives_are_no_matches_and_hardening_brings_them_closer(content):
    split = PhantomStudies(**PHANTOM).split("test")
    known = dict(zip(split.ids, zip(map(normalised, split.reports), split.labels, strict=True), strict=True))
    for study in content.studies:
        for written in study.written.values():
            assert all(a != b for a, b in zip(known[study.id], known[written.hard_negative], strict=True))
        assert study.written["host"].similarities is None
        of = study.written["arc"].similarities
        assert of.hard - 1e-5 <= of.hardened <= max(of.positive, of.hard) + 1e-5
        assert -1 <= of.positive <= 1


def test_scores_curves_and_configs_are_those_of_the_run_folders(trained, content, read_json):
    for name in content.variants:
        metrics = read_json(trained / name / "metrics.json")
        assert {score: each.value for score, each in content.scores[name].items()} == metrics["test"]
        for score, (low, high) in metrics["intervals"]["test"].items():
            assert (content.scores[name][score].low, content.scores[name][score].high) == (low, high)
        assert content.configs[name] == (trained / name / "config.yaml").read_text()
        curves = {curve.name: curve.points for curve in content.curves if curve.variant == name}
        assert [step for step, _ in curves["train/report_loss"]] == list(range(6))
        assert [step for step, _ in curves["val/CIDEr"]] == [2, 5]
        chosen = metrics["selected_by"]["epoch"]
        assert curves["val/BLEU-4"][chosen - 1][1] == metrics["val"]["BLEU-4"]
        assert not any(curve.startswith("test/") for curve in curves)
        assert ("train/hardened_similarity" in curves) == (name == "arc")
    host, arc = content.notes
    assert "TF-IDF" in host
    assert "hardened at 0.90" in arc


def test_a_limit_keeps_the_worst_and_the_best_and_what_they_refer_to(trained):
    content = build_page({"arc": RunFolder(trained / "arc")}, "test", limit=3)
    scores = {record["id"]: record["scores"] for record in predictions(trained / "arc")}
    (name,) = (found[1] for note in content.notes if (found := re.search(r"3 of 12 studies.* highest (\S+);", note)))
    shown = {study.id for study in content.studies}
    values = sorted(each[name] for each in scores.values())
    assert len(shown) == 3
    assert {values[0], values[-1]} <= {scores[study][name] for study in shown}
    neighbours = {study.id: study for study in content.neighbours}
    assert {study.written["arc"].hard_negative for study in content.studies} - shown == neighbours.keys()
    assert all(study.views and study.reference and not study.written for study in neighbours.values())


def test_studies_by_difference_are_those_where_the_runs_differ_most(trained):
    runs = {name: RunFolder(trained / name) for name in ("host", "arc")}
    content = build_page(runs, "test", limit=3, by_difference=True)
    name = content.by_difference
    scores = [{record["id"]: record["scores"][name] for record in predictions(run.path)} for run in runs.values()]
    apart = {study: abs(scores[0][study] - scores[1][study]) for study in scores[0]}
    shown = [apart[study.id] for study in content.studies]
    assert sorted(shown) == sorted(apart.values())[-3:]
    assert any(f"those whose {name} differs most between variants" in note for note in content.notes)


def test_baselines_of_a_run_are_on_its_page(runs, read_json):
    metrics = read_json(runs / "arc" / "metrics.json")
    metrics["baselines"] = {"most frequent report": {"BLEU-4": 0.125}}
    (runs / "arc" / "metrics.json").write_text(json.dumps(metrics))
    folders = {name: RunFolder(runs / name) for name in ("host", "arc")}
    assert build_page(folders, "test", limit=1).baselines == metrics["baselines"]
    assert build_page(folders, "val", limit=1).baselines == {}


def test_a_limited_page_shows_of_each_study_what_the_whole_page_shows(trained, content):
    runs = {name: RunFolder(trained / name) for name in ("host", "arc")}
    limited = build_page(runs, "test", limit=3)
    whole = {study.id: study for study in content.studies}
    assert len(limited.studies) == 3
    for study in limited.studies:
        for name, found in study.written.items():
            expected = whole[study.id].written[name]
            assert replace(found, attention=None, similarities=None) == replace(
                expected, attention=None, similarities=None
            )
            np.testing.assert_array_equal(found.attention, expected.attention)
            if name == "arc":
                assert vars(found.similarities) == pytest.approx(vars(expected.similarities), abs=1e-6)


def test_studies_of_any_number_of_views_and_a_run_without_a_best_checkpoint(tmp_path):
    random = np.random.default_rng(0)
    annotation = {}
    for split, count in (("train", 12), ("val", 2), ("test", 6)):
        annotation[split] = []
        for index in range(count):
            names = [f"{split}{index}_{view}.png" for view in range(1 + index % 3)]
            for name in names:
                path = tmp_path / "images" / name
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(random.integers(0, 255, random.integers(40, 90, 2), dtype=np.uint8)).save(path)
            report = f"The lungs are clear. Rib {index} is broken. The heart is large."
            annotation[split].append({"id": f"{split}{index}", "report": report, "image_path": names})
    (tmp_path / "annotation.json").write_text(json.dumps(annotation))
    data = ["data=annotations", f"data.root={tmp_path}", "data.min_count=1", "data.datamodule.num_workers=0"]
    data.append("data.findings=null")
    sizes = ["data.datamodule.source.resize=72", "data.datamodule.source.crop=64"]
    run = tmp_path / "run"
    call_train(run, *data, *sizes, "hardening=none", "trainer.max_epochs=0", "trainer.precision=bf16-mixed")
    content = build_page({"run": RunFolder(run)}, "test")
    assert [len(study.views) for study in content.studies] == [1, 2, 3, 1, 2, 3]
    assert {view.shape for study in content.studies for view in study.views} == {(64, 64)}
    for study in content.studies:
        written = study.written["run"]
        assert written.attention.shape[1] == len(study.views)
        assert written.findings is None
        assert written.similarities.hardened is None
    paths = {row["id"]: row["image_path"] for row in annotation["test"]}
    for study in build_page({"run": RunFolder(run)}, "test", limit=2, zoom=50).studies:
        kept = [Image.open(tmp_path / "images" / name).size for name in paths[study.id]]
        assert all(max(view.shape) == min(50, max(size)) for view, size in zip(study.large, kept, strict=True))
        for view, (width, height) in zip(study.large, kept, strict=True):
            assert view.shape[0] / view.shape[1] == pytest.approx(height / width, rel=0.03)
    assert content.notes == ["run: last checkpoint; hard negatives are the nearest by its report embeddings."]


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A run of each alignment that knows more of a study; not to be changed."""
    folder = tmp_path_factory.mktemp("aligned")
    data = [f"data.datamodule.source.{name}={value}" for name, value in PHANTOM.items()]
    small = ["objective.width=16", "trainer.max_epochs=1"]
    call_train(folder / "words", *data, *small, "objective=reclf", "objective.word_region_width=8")
    call_train(folder / "entities", *data, *small, "objective=gk_mvlp", "grounding_width=16")
    return folder


def test_what_alignments_know_is_shown_by_run(aligned):
    content = build_page({name: RunFolder(aligned / name) for name in ("words", "entities")}, "test")
    knowledge, split = PhantomKnowledge(), PhantomStudies(**PHANTOM).split("test")
    for study, report in zip(content.studies, split.reports, strict=True):
        words, entities = (study.written[name] for name in ("words", "entities"))
        assert words.entities is entities.reading is None
        read = words.reading.words
        assert read == study.reference.split()[: len(read)]
        assert words.reading.attention.shape == (len(read), 2, 2, 2)
        assert 0 < sum(words.reading.importance) < 1.00001
        stated = {
            prompt.phrase
            for prompt, fact in zip(knowledge.prompts, knowledge.facts(report), strict=True)
            if fact == PRESENT
        }
        assert {entity.phrase for entity in entities.entities if "stated" in entity.verdict.split(", ")[0]} == stated
    assert not any("is not known" in note for note in content.notes)


def test_a_run_whose_data_do_not_tell_what_reports_state(aligned, tmp_path):
    run = Path(shutil.copytree(aligned / "entities", tmp_path / "old"))
    config = OmegaConf.load(run / "config.yaml")
    del config.data.knowledge
    OmegaConf.save(config, run / "config.yaml")
    content = build_page({"old": RunFolder(run)}, "test")
    assert any("old: what reports state of its entities is not known" in note for note in content.notes)
    facts = {entity.fact for study in content.studies for entity in study.written["old"].entities}
    assert facts <= {None}


def test_the_page_of_a_run_with_entities(cli, aligned, tmp_path):
    result = cli("hardneg-page", f"run={aligned}/entities", "limit=3", f"output={tmp_path}/page.html")
    assert result.code == 0, result.err
    assert '"entities":{"entities":{"found":[' in (tmp_path / "page.html").read_text()


def test_the_page_of_a_run(cli, runs):
    result = cli("hardneg-page", f"run={runs}/arc", "limit=4")
    assert result.code == 0, result.err
    assert str(runs / "arc" / "page.html") in result.out
    assert "MB" in result.out
    texts = {record["id"]: record["generated"] for record in predictions(runs / "arc")}
    studies = data_of(runs / "arc" / "page.html")["studies"]
    assert len(studies) == 4
    assert all(study["written"]["arc"]["text"] == texts[study["id"]] for study in studies)


@pytest.mark.parametrize("named", ["[{0}/host, {0}/arc]", "{{host: {0}/host, arc: {0}/arc}}"])
def test_the_page_of_several_runs_on_data_that_have_moved(cli, runs, tmp_path, named):
    data = ["data=phantom", *(f"data.datamodule.source.{name}={value}" for name, value in PHANTOM.items())]
    arguments = [f"run={named.format(runs)}", "split=val", "device=cpu", *data]
    result = cli("hardneg-page", *arguments, f"output={tmp_path}/new/both.html")
    assert result.code == 0, result.err
    studies = data_of(tmp_path / "new" / "both.html")["studies"]
    for name in ("host", "arc"):
        written = [study["written"][name]["text"] for study in studies]
        assert written == [record["generated"] for record in predictions(runs / name, "val")]


def test_runs_of_a_list_need_folders_of_different_names(cli, trained):
    result = cli("hardneg-page", f"run=[{trained}/arc, {trained}/host/../arc]")
    assert result.code == 2
    assert "different names" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run=nowhere"], "nowhere holds no config.yaml"),
        (["run={}"], "at least one run"),
        (["run=[]"], "at least one run"),
        (["split=train"], "split: expected val or test"),
        (["limit=0"], "limit: expected a positive integer"),
        (["zoom=0"], "zoom: expected a positive integer"),
        (["output=page.pdf"], "output: expected the name of an .html file"),
        (["device=tpu9"], "device=tpu9"),
        (["data=annotations", "data.root=gone"], "gone"),
        (["data=phantom", "data.datamodule.source.test=11"], "phantom-test-000011"),
        (["data=phantom", "data.datamodule.source.test=12", "data.datamodule.source.seed=9"], "data have changed"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_what_is_wrong_is_told_in_one_line(cli, trained, arguments, message):
    before = sorted(trained.rglob("*"))
    run = [] if arguments[0].startswith("run=") else [f"run={trained}/arc"]
    result = cli("hardneg-page", *run, *arguments)
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert sorted(trained.rglob("*")) == before


@pytest.mark.parametrize("removed", ["metrics.json", "predictions/test.jsonl", "checkpoints/best.ckpt"])
def test_a_run_that_is_not_whole(runs, removed):
    (runs / "arc" / removed).unlink()
    with pytest.raises(UserError, match=removed.split("/")[-1].split(".")[0]):
        build_page({"arc": RunFolder(runs / "arc")}, "test")


def test_a_report_that_comes_out_otherwise_is_shown_as_predicted_and_many_are_an_error(runs):
    run, records = runs / "arc", predictions(runs / "arc")
    records[1]["generated"] += " effusion"
    write_predictions(run, records)
    content = build_page({"arc": RunFolder(run)}, "test")
    written = content.studies[1].written["arc"]
    assert (written.text, written.attention) == (records[1]["generated"], None)
    assert content.studies[2].written["arc"].attention is not None
    assert any("1 of 12 reports" in note for note in content.notes)
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for name, weight in checkpoint["state_dict"].items():
        if name.startswith("decoder"):
            weight.mul_(-1)
    torch.save(checkpoint, run / "checkpoints" / "best.ckpt")
    with pytest.raises(UserError, match="checkpoint or the images have changed"):
        build_page({"arc": RunFolder(run)}, "test")


def test_of_a_few_shown_studies_one_report_may_come_out_otherwise_but_not_two(runs):
    run, records = runs / "arc", predictions(runs / "arc")
    shown = [study.id for study in build_page({"arc": RunFolder(run)}, "test", limit=3).studies]
    first, second = (next(record for record in records if record["id"] == study) for study in shown[:2])
    first["generated"] += " effusion"
    write_predictions(run, records)
    content = build_page({"arc": RunFolder(run)}, "test", limit=3)
    assert [study.written["arc"].attention is None for study in content.studies] == [True, False, False]
    assert any("1 of 3 reports" in note for note in content.notes)
    second["generated"] += " effusion"
    write_predictions(run, records)
    with pytest.raises(UserError, match="2 of 3 reports differ"):
        build_page({"arc": RunFolder(run)}, "test", limit=3)


def test_runs_that_were_scored_on_different_studies(runs):
    write_predictions(runs / "host", predictions(runs / "host")[:-1])
    with pytest.raises(UserError, match="phantom-test-000011"):
        build_page({name: RunFolder(runs / name) for name in ("arc", "host")}, "test")
    content = build_page({"host": RunFolder(runs / "host")}, "test")  # as after trainer.limit_test_batches
    assert len(content.studies) == 11
    assert any("11 of the 12 studies" in note for note in content.notes)
