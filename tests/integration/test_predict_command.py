"""hardneg-predict and `ReportGenerator.from_run`: reports for files as people have them, by a run that may be a stranger's."""

import csv
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from PIL import Image

from hardneg_plugin.apps import train
from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.caption import CaptionScores
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.models.report_generator import ReportGenerator


def call_train(*arguments):
    with pytest.MonkeyPatch.context() as patch:
        GlobalHydra.instance().clear()
        patch.setattr(sys, "argv", ["hardneg-train", *map(str, arguments)])
        handlers = list(logging.getLogger().handlers)
        train.main()
        logging.getLogger().handlers[:] = handlers


def write_studies(root):
    """Studies of one and two views in the R2Gen layout, of odd sizes; the report tells dark images from bright ones."""
    random = np.random.default_rng(0)
    annotation = {}
    for split, count in (("train", 24), ("val", 4), ("test", 5)):
        annotation[split] = []
        for index in range(count):
            names = [f"{split}{index}/{view}.png" for view in range(1 + index // 2 % 2)]
            is_bright = index % 2
            for name in names:
                path = root / "images" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                size = random.integers(40, 90, 2)
                Image.fromarray(random.integers(150 * is_bright, 100 + 150 * is_bright, size, dtype=np.uint8)).save(
                    path
                )
            report = (
                "large pleural effusion on the left" if is_bright else "the lungs are clear and the heart is normal"
            )
            annotation[split].append({"id": f"{split}{index}", "report": report, "image_path": names})
    (root / "annotation.json").write_text(json.dumps(annotation))
    return annotation


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    return root, write_studies(root)


TINY = [
    "visual.options.channels=[8,8,16,16]",
    "visual.options.stem_width=8",
    "backbone.width=32",
    "backbone.heads=2",
    "backbone.layers=1",
    "objective.width=16",
    "decoding.max_length=12",
    "metrics.caption.meteor=false",
    "baselines=false",
    "callbacks.progress_bar.refresh_rate=0",
    "trainer.log_every_n_steps=1",
    "data.datamodule.num_workers=0",
    "data=annotations",
    "data.datamodule.source.resize=72",
    "data.datamodule.source.crop=64",
]


@pytest.fixture(scope="module")
def trained(studies, tmp_path_factory):
    """A run on these studies; not to be changed."""
    run = tmp_path_factory.mktemp("trained") / "run"
    call_train(
        *TINY, f"data.root={studies[0]}", "data.min_count=1", "data.batch_size=4", "trainer.max_epochs=6", "optimizer.lr=0.01",
        f"hydra.run.dir={run}",
    )  # fmt: skip
    return run


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it to do anything with."""
    return Path(shutil.copytree(trained, tmp_path / "a run"))


@pytest.fixture
def expected(trained):
    """What scoring the test split wrote, by study."""
    lines = (trained / "predictions" / "test.jsonl").read_text().splitlines()
    return {record["id"]: record["generated"] for record in map(json.loads, lines)}


@pytest.fixture
def views(studies):
    root, annotation = studies
    return {study["id"]: [str(root / "images" / name) for name in study["image_path"]] for study in annotation["test"]}


def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def one_line(result):
    assert result.code == 2, result.err
    lines = [line for line in result.err.splitlines() if line.startswith("hardneg-")]
    assert len(lines) == 1, result.err
    assert "Traceback" not in result.err + result.out
    return lines[0]


def test_a_run_writes_what_its_scoring_wrote(trained, expected, views):
    model = ReportGenerator.from_run(trained, device="cpu")
    assert len(set(expected.values())) > 1  # a model that ignores its images would pass whatever it is given
    assert not model.training
    assert model.image_size == 64
    for batch_size in (1, 3, 16):
        reports = model.generate([views[name] for name in expected], batch_size=batch_size)
        assert [report.text for report in reports] == list(expected.values())
    last = ReportGenerator.from_run(trained / "checkpoints" / "last.ckpt", device="cpu")
    weights = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, weights[name]) for name, value in last.state_dict().items())
    assert not isinstance(last, HardNegativeReportGenerator)  # which is for training


def test_images_may_be_given_as_anything(trained, views):
    model = ReportGenerator.from_run(trained, device="cpu")
    paths = [files[0] for files in views.values()]
    arrays = [np.asarray(Image.open(path)) for path in paths]
    wanted = [report.text for report in model.generate(paths)]
    for given in (
        [Path(path) for path in paths],
        [Image.open(path) for path in paths],
        [Image.open(path).convert("RGB") for path in paths],
        arrays,
        [torch.from_numpy(array.copy())[None] for array in arrays],
        [[path] for path in paths],
    ):
        assert [str(report) for report in model.generate(given)] == wanted
    assert [model.generate(paths[0])[0].text] == wanted[:1]
    assert model.generate([]) == []
    for wrong in (
        [[]],
        [np.zeros((4, 4))],
        [np.zeros((3, 4, 4), np.uint8)],
        [7],
        [Image.new("I;16", (9, 9))],
        ["none"],
    ):
        with pytest.raises(UserError):
            model.generate(wrong)
    for number in ({"beam_size": 0}, {"max_length": 0}, {"batch_size": 0}):
        with pytest.raises(UserError, match=next(iter(number))):
            model.generate(paths[0], **number)
    assert len(model.generate(paths[0], max_length=2)[0].words) == 2


def test_attention_is_that_of_the_decoder_over_the_views_of_the_study(trained, views):
    model = ReportGenerator.from_run(trained, device="cpu")
    together = model.generate(list(views.values()), attention=True)
    for files, report in zip(views.values(), together, strict=True):
        maps = report.attention
        assert maps.shape == (len(report.words), len(files), 2, 2)
        torch.testing.assert_close(maps.sum((1, 2, 3)), torch.ones(len(report.words)))
        (alone,) = model.generate([files], attention=True)
        torch.testing.assert_close(alone.attention, maps)
        shares = maps.flatten(2).sum(2)
        assert [view for view, _ in report.views()] == shares.argmax(1).tolist()
        assert [share for _, share in report.views()] == pytest.approx(shares.amax(1).tolist())
    # by the decoder's own maps of the last study
    images = torch.stack([torch.stack(list(model_views(model, files)))])
    features = model.visual(images)
    decoded = model.decoder.decode(features.patches, model.decoding, attention=True)
    direct = decoded.attention[0, 0].mean((0, 1))[: len(report.words)]
    torch.testing.assert_close(report.attention.flatten(1), direct)
    assert model.generate(files[0])[0].attention is None


def model_views(model, files):
    from hardneg_plugin.models.report_io import read_views

    return read_views(files, model.image_size)


def test_a_run_is_read_where_scores_cannot_be_computed(run, views, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(UserError):
        CaptionScores()
    (run / "checkpoints" / "best.ckpt").unlink()  # then the last
    assert ReportGenerator.from_run(run).generate(views["test0"][0])[0].text


def test_the_four_ways_to_name_images(cli, trained, studies, expected, views, tmp_path):
    folder = tmp_path / "folder"
    for name, files in views.items():
        target = folder if len(files) == 1 else folder / name
        target.mkdir(parents=True, exist_ok=True)
        for file in files:
            shutil.copy(file, target / (f"{name}.png" if len(files) == 1 else Path(file).name))
    (folder / "notes.txt").write_text("none of the images")
    (folder / ".hidden.png").write_text("nor this")
    table = studies[0] / "table.csv"  # paths start from it
    with table.open("w", newline="") as file:
        rows = [[name, "|".join(str(Path(f).relative_to(studies[0])) for f in files)] for name, files in views.items()]
        csv.writer(file).writerows([["id", "images"], *rows])

    def texts(*arguments):
        result = cli("hardneg-predict", *arguments, "output=out.jsonl")
        assert result.code == 0, result.err
        return {record["id"]: record for record in read_jsonl("out.jsonl")}, result.out

    records, shown = texts(trained, table)
    assert {name: record["report"] for name, record in records.items()} == expected
    for name, report in expected.items():
        assert name in shown
        assert " ".join(report.split()) in " ".join(shown.split())
    assert texts(f"run={trained}", f"images={table}")[0] == records
    records, _ = texts(f"run={trained}", f"images={folder}")
    assert {name.removesuffix(".png"): record["report"] for name, record in records.items()} == expected
    listed = json.dumps(list(views.values()))
    records, _ = texts(f"run={trained}", f"images={listed}")
    assert [record["report"] for record in records.values()] == list(expected.values())
    assert [record["images"] for record in records.values()] == list(views.values())
    single = views["test3"][1]
    assert texts(trained, f"images={listed}", single)[0].keys() == {single, *records}
    assert not list(tmp_path.glob("*.yaml"))  # nothing but what was asked for


NAMES = ["a b.png", "x=y.png", "c,d.png", "[e].png", "${oc.env:HOME}.png", "it's.png", 'q".png', "ü.png", "(1).PNG"]
DASHED = ["-f.png", "--help", "run=g.png", "hydra.run.dir=x.png"]


def test_names_of_files_are_taken_as_they_are(cli, trained, views, tmp_path):
    for name in NAMES + DASHED:
        shutil.copy(views["test0"][0], tmp_path / name)
    result = cli("hardneg-predict", trained, *NAMES[:4], "beam_size=1", *NAMES[4:], "output=out.jsonl", "--", *DASHED)
    assert result.code == 0, result.err
    records = read_jsonl("out.jsonl")
    assert [record["id"] for record in records] == NAMES + DASHED
    assert len({record["report"] for record in records}) == 1
    assert all(name in result.out for name in NAMES + DASHED)


def test_reports_in_bfloat16(cli, trained, views):
    result = cli("hardneg-predict", trained, *views["test2"], "precision=bfloat16", "device=cpu", "output=o.jsonl")
    assert result.code == 0, result.err
    assert all(record["report"] for record in read_jsonl("o.jsonl"))


def test_which_view_each_word_rests_on(cli, trained, views):
    result = cli(
        "hardneg-predict", trained, f"images={json.dumps([views['test2']])}", "attention=true", "output=o.jsonl"
    )
    assert result.code == 0, result.err
    (record,) = read_jsonl("o.jsonl")
    assert [word["word"] for word in record["words"]] == record["report"].split()
    assert all(word["view"] in (1, 2) and 0.5 <= word["share"] <= 1 for word in record["words"])
    first = record["words"][0]
    assert f"{first['word']} [view {first['view']} {first['share']:.0%}]" in result.out
    table = cli("hardneg-predict", trained, *views["test2"], "attention=true", "output=o.csv")
    assert table.code == 0, table.err
    with open("o.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["images"] for row in rows] == views["test2"]
    assert rows[0]["words"].startswith(f"{rows[0]['report'].split()[0]} [1 1.0]")


def test_a_broken_image_is_told_and_the_others_are_written(cli, trained, views, tmp_path):
    Path("broken.png").write_bytes(Path(views["test0"][0]).read_bytes()[:60])
    result = cli(
        "hardneg-predict", trained, "broken.png", views["test0"][0], "missing.png", "output=o.jsonl", "batch_size=2"
    )
    assert result.code == 1
    assert "Traceback" not in result.err
    told = [line for line in result.err.splitlines() if "left out" in line]
    assert [("broken.png" in told[0]), ("missing.png" in told[1]), "2 of 3" in told[2]] == [True] * 3
    assert [record["id"] for record in read_jsonl("o.jsonl")] == [views["test0"][0]]
    before = Path("o.jsonl").read_bytes()
    none = cli("hardneg-predict", trained, "broken.png", "output=o.jsonl")
    assert none.code == 2
    assert "None of the 1 studies" in none.err
    assert Path("o.jsonl").read_bytes() == before


def test_help(cli):
    result = cli("hardneg-predict", "--help")
    assert result.code == 0
    assert "hardneg-predict RUN IMAGE ..." in result.out
    assert "beam_size=N" in result.out


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        ([], ["run must be given"]),
        (["IMAGE"], ["images", "RUN IMAGE"]),
        (["RUN"], ["images"]),
        (["nowhere", "IMAGE"], ["nowhere", "config.yaml"]),
        (["RUN", "IMAGE", "IMAGE"], ["2 times"]),
        (["RUN", "IMAGE", "output=x.txt"], ["output", ".jsonl", ".csv", "x.txt"]),
        (["RUN", "IMAGE", "output=IMAGE/x.csv"], ["output"]),
        (["RUN", "IMAGE", "beam_size=0"], ["beam_size", "0"]),
        (["RUN", "IMAGE", "beam_size=many"], ["beam_size", "many"]),
        (["RUN", "IMAGE", "precision=int4"], ["precision", "bfloat16", "int4"]),
        (["RUN", "IMAGE", "batch_size=null"], ["batch_size"]),
        (["RUN", "IMAGE", "attention=often"], ["attention", "often"]),
        (["RUN", "IMAGE", "beem_size=2"], ["beem_size", "beam_size"]),
        (["RUN", "IMAGE", "checkpoint=nowhere.ckpt"], ["nowhere.ckpt"]),
        (["RUN", "IMAGE", "checkpoint=IMAGE"], ["0.png", "cannot be read"]),
        (["RUN", "IMAGE", "device=cuda:99"], ["device"]),
        (["RUN", "empty"], ["empty", "PNG"]),
        (["RUN", "images=[[]]"], ["images"]),
        (["RUN", "images=[{a: b}]"], ["images"]),
        (["RUN", "none.csv"], ["none.csv"]),
        (["RUN", "wrong.csv"], ["wrong.csv", "images", "path"]),
        (["RUN", "gap.csv"], ["gap.csv", "line 2"]),
        (["RUN", "bytes.csv"], ["bytes.csv"]),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_one_line(cli, trained, views, arguments, mentioned):
    Path("empty").mkdir()
    Path("wrong.csv").write_text("id,path\na,b\n")
    Path("gap.csv").write_text("id,images\n,b.png\n")
    Path("bytes.csv").write_bytes(b"id,images\n\xff\xfe,x\n")
    filled = [a.replace("RUN", str(trained)).replace("IMAGE", views["test0"][0]) for a in arguments]
    line = one_line(cli("hardneg-predict", *filled))
    for part in mentioned:
        assert part in line


def spoil(run, key, node):
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, key, node, merge=False, force_add=True)
    (run / "config.yaml").write_text(OmegaConf.to_yaml(config))


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A module of someone else's whose import, and each function of which, leaves a file; that file."""
    mark = tmp_path / "was here"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "stranger.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\ndef act(*_, **__): Path({str(mark)!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    yield mark
    sys.modules.pop("stranger", None)


KEYS = [
    "model",
    "model.visual",
    "model.visual.options.extra",
    "model.backbone",
    "model.optimizer",
    "model.hard_negatives.hardening",
    "model.decoding",
    "model.caption",
    "decoding",
    "data.datamodule",
    "data.datamodule.source",
    "data.datamodule.tokenizer",
    "callbacks.extra",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_run_of_a_stranger_runs_nothing(run, stranger, key):
    spoil(run, key, {"_target_": "stranger.act"})
    with pytest.raises(UserError, match=rf"{key}\._target_ is stranger\.act, .*trust=true") as refused:
        ReportGenerator.from_run(run)
    assert "\n" not in str(refused.value)
    assert "stranger" not in sys.modules
    assert not stranger.exists()


def test_no_command_runs_anything_of_a_stranger(cli, run, views, stranger):
    spoil(run, "model.visual", {"_target_": "stranger.act"})
    for command in (
        ["hardneg-predict", run, views["test0"][0]],
        ["hardneg-evaluate", f"run='{run}'"],
        ["hardneg-export", f"run='{run}'", "output=x.pth"],
    ):
        line = one_line(cli(*command))
        assert "model.visual._target_ is stranger.act" in line
        assert "trust=true" in line
    assert "trust: expected true or false" in one_line(cli("hardneg-predict", run, views["test0"][0], "trust=no"))
    assert not stranger.exists()
    assert not list(run.glob("evaluation_*"))


def test_a_run_that_is_trusted_runs_what_it_names(run, views, stranger):
    spoil(run, "model.optimizer", {"_target_": "stranger.act", "_partial_": True})
    model = ReportGenerator.from_run(run, trust=True)
    assert stranger.exists()  # so the tests above could have failed
    assert model.generate(views["test0"][0])[0].text


@pytest.mark.parametrize(
    ("change", "mentioned"),
    [
        ({"backbone": {"_target_": "stranger.act"}}, "_target_ is stranger.act"),
        ({"backbone": {"width": {"_target_": "stranger.act"}}}, "width._target_ is stranger.act"),
        ({"backbone": {"width": "${oc.env:HOME}"}}, "oc.env"),
        ({"more": Path("x")}, "cannot be read"),  # a pickled object
        ({"tokenizer": {"kind": "words"}}, "vocabulary"),
        ({"tokenizer": 7}, "tokenizer"),
        ({"backbone": None}, "backbone"),
        ({"state_dict": {}}, "does not fit"),
    ],
    ids=str,
)
def test_a_checkpoint_of_a_stranger_runs_nothing(run, stranger, change, mentioned):
    path = run / "checkpoints" / "best.ckpt"
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(UserError, match=r"best\.ckpt") as refused:
        ReportGenerator.from_run(run)
    assert mentioned in str(refused.value)
    assert not stranger.exists()


def test_a_checkpoint_names_no_class_even_if_trusted(run, stranger):
    """A comparison trusts the settings of its runs, which it has compared; their checkpoints it has not."""
    path = run / "checkpoints" / "best.ckpt"
    torch.save({**torch.load(path, weights_only=True), "backbone": {"width": {"_target_": "stranger.act"}}}, path)
    with pytest.raises(UserError, match=r"best\.ckpt: width\._target_ is 'stranger\.act'"):
        ReportGenerator.from_run(run, trust=True)
    assert not stranger.exists()


def test_scoring_reads_the_checkpoint_of_a_stranger_as_carefully(cli, run, stranger):
    path = run / "checkpoints" / "best.ckpt"
    torch.save({**torch.load(path, weights_only=True), "backbone": {"_target_": "stranger.act"}}, path)
    assert "_target_ is stranger.act" in one_line(cli("hardneg-evaluate", f"run='{run}'"))
    assert not stranger.exists()


@pytest.mark.parametrize(
    "override",
    [
        "+callbacks.extra._target_=stranger.act",
        "+callbacks.extra={_target_: stranger.act}",
        "hardening._target_=stranger.act",
        "+hydra.callbacks.extra._target_=stranger.act",
        "hydra.searchpath=[file://ELSEWHERE]",
        "experiment=ELSEWHERE/evil",
        "--config-dir=ELSEWHERE",
        "trust=true",
        "data.root=${oc.env:HOME}",
    ],
)
def test_resuming_the_run_of_a_stranger_runs_nothing(cli, run, stranger, override):
    evil = run.parent / "elsewhere" / "evil.yaml"
    evil.write_text("# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: stranger.act\n")
    overrides = OmegaConf.load(run / "overrides.yaml")
    added = override.replace("ELSEWHERE", str(evil.parent))
    (run / "overrides.yaml").write_text(OmegaConf.to_yaml([*overrides, added]))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    line = one_line(cli("hardneg-train", f"resume='{run}'"))
    assert "trust=true" in line
    assert not stranger.exists()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_run_of_ones_own_is_resumed_without_trust(cli, run, read_json):
    result = cli("hardneg-train", f"resume='{run}'", "trainer.max_epochs=7")
    assert result.code == 0, result.err
    assert read_json(run / "metrics.json")["training"]["epochs"] == 7
    assert not [line for line in OmegaConf.load(run / "overrides.yaml") if line.startswith(("trust", "resume"))]


def test_reports_for_real_x_rays(cli, real_data, tmp_path):
    """Three studies of the test split, by a model that has just been trained a little on others."""
    root, run = real_data("covid_cxr_notes"), tmp_path / "run"
    result = cli(
        "hardneg-train", *TINY, f"data.root={root}", "data.datamodule.source.check=stat",
        "trainer.max_epochs=1", "trainer.limit_train_batches=4",
        "trainer.limit_val_batches=1", "trainer.limit_test_batches=1", f"hydra.run.dir={run}",
    )  # fmt: skip
    assert result.code == 0, result.err
    chosen = json.loads((root / "annotation.json").read_text())["test"][:3]
    files = [[str(root / "images" / name) for name in study["image_path"]] for study in chosen]
    result = cli("hardneg-predict", run, f"images={json.dumps(files)}", "attention=true", "output=real.jsonl")
    assert result.code == 0, result.err
    scored = {record["id"]: record["generated"] for record in read_jsonl(run / "predictions" / "test.jsonl")}
    records = read_jsonl("real.jsonl")
    assert [record["report"] for record in records] == [scored[study["id"]] for study in chosen]
    assert all(record["report"] for record in records)
    assert all(Path(views[0]).name in result.out for views in files)
