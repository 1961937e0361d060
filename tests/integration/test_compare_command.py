"""hardneg-compare: what it trains, what it leaves alone, and what it says. Most runs are made up here, without training."""

import json
import shutil
import signal
import sys

import pytest
import yaml
from omegaconf import OmegaConf

from hardneg_plugin.apps import compare
from hardneg_plugin.apps.shared.comparison_plan import planned
from hardneg_plugin.comparison import processes
from hardneg_plugin.comparison.planned_runs import at_work_on
from hardneg_plugin.comparison.plots import write_plots
from hardneg_plugin.comparison.processes import launched_processes
from hardneg_plugin.comparison.settings import ComparisonSettings
from hardneg_plugin.config import conf_dir
from hardneg_plugin.files import write_json, write_jsonl

WORDS = (
    "the lungs are clear",
    "there is a small left effusion",
    "a nodule is in the right upper lobe",
    "the heart is large",
)
STUDIES = 40


@pytest.fixture
def made_up(cli, tmp_path):
    """A comparison of variants whose runs are finished: each writes a share of its reports right. Gives the command."""

    def make(shares, seeds, *shared, finished=True):
        folder = tmp_path / "comparison"
        arguments = [f"compare.folder={folder}", f"compare.variants=[{','.join(shares)}]", f"compare.seeds={seeds}"]
        arguments += ["compare.page=0", "compare.resamples=400"]
        arguments += ["compare.measures=[findings_attributes_F1,specificity]"]
        runs = planned(settings(folder, list(shares), seeds), [], ["metrics.caption.meteor=false", *shared])
        (folder / "runs").mkdir(parents=True)
        (folder / "lock").touch()
        for run in runs:
            run.folder.write_config(OmegaConf.create(run.settings), run.overrides)
            for split in ("val", "test"):
                write_jsonl(run.folder.predictions(split), records(split, shares[run.variant], run.seed))
            log = run.folder.path / "logs/csv/version_0/metrics.csv"
            log.parent.mkdir(parents=True)
            log.write_text("epoch,step,val/BLEU-4\n0,9,0.1\n1,19,0.2\n")
            if finished:
                seconds = 10.0 if run.variant == "host" else 12.0
                write_json(
                    run.folder.metrics,
                    {"training": {"seconds": seconds}, "parameters": {"inference": 1000, "training_only": 0}},
                )
        return folder, ["hardneg-compare", *arguments, "metrics.caption.meteor=false", *shared]

    return make


def settings(folder, variants, seeds, **others):
    values = yaml.safe_load((conf_dir() / "compare.yaml").read_text())["compare"]
    return ComparisonSettings(**{**values, "folder": str(folder), "variants": variants, "seeds": seeds, **others})


def records(split, share, seed):
    """Of every ten studies, so many are right; which ones depends on the seed."""
    texts = [f"{WORDS[i % 4]} and mark {i} is seen" for i in range(STUDIES)]
    for i, text in enumerate(texts):
        right = (i * 7 + seed) % 10 < 10 * share
        stated = {"reference": [[f"finding {i % 4}", ()]], "generated": [[f"finding {i % 4 if right else 9}", ()]]}
        yield {
            "id": f"{split}-{i:03d}",
            "reference": text,
            "generated": text if right else texts[i - 1],
            "findings": stated,
        }


def test_a_real_difference_is_found_and_none_is_not(cli, made_up, read_json, monkeypatch):
    folder, command = made_up({"host": 0.3, "arc": 0.9, "mined": 0.3}, [1, 2])
    drawn = []
    monkeypatch.setattr(compare, "write_plots", lambda *given: (drawn.append(given[1]), write_plots(*given)))
    result = cli(*command)
    assert result.code == 0, result.err
    assert "arc against host, specificity on test: better: +0." in result.out
    assert "mined against host, specificity on test: no difference found: +0.000 (+0.000 to +0.000)" in result.out
    content = read_json(folder / "comparison.json")
    assert list(content["variants"]) == ["host", "arc", "mined"]
    assert drawn[0]["arc"][1]["val/BLEU-4"] == {1: 0.1, 2: 0.2}
    arc = content["variants"]["arc"]
    assert arc["overrides"] == [
        "data.regime=clinic",
        "metrics.caption.meteor=false",
        "model=hard_negatives",
        "hardening=arc",
    ]
    assert [len(of_seeds) for of_seeds in arc["scores"]["test"].values()] == [2] * len(arc["scores"]["test"])
    assert set(content["splits"]["test"]["intervals"]["arc"]) == set(content["measures"])
    documents = {"summary.md", *(f"comparison.{kind}" for kind in ("json", "md", "tex"))}
    assert {path.name for path in folder.iterdir()} == {"lock", "runs", "plots", *documents}


def test_a_variant_that_fails_is_left_out_and_nothing_is_compared_without_the_baseline(
    cli, made_up, read_json, monkeypatch
):
    folder, command = made_up({"host": 0.3, "arc": 0.9, "queue": 0.9}, [1, 2])
    failing = "import sys; print('train.py: error: no data.'); sys.exit(2)"
    monkeypatch.setattr(processes, "TRAIN", (sys.executable, "-S", "-c", failing))
    shutil.rmtree(folder / "runs/queue/seed_2")
    result = cli(*command)
    assert result.code == 1
    log = folder / "runs/queue/seed_2/train.log"
    assert f"hardneg-compare: queue, seed 2 did not finish: no data. ({log})\n" in result.err
    assert result.err.endswith("1 of 6 runs did not finish. Run the same command again to continue.\n")
    content = read_json(folder / "comparison.json")
    assert list(content["variants"]) == ["host", "arc"]
    assert content["notes"] == ["queue is left out because not all of its runs are finished: seed 2: no data."]

    (folder / "comparison.json").unlink()
    shutil.rmtree(folder / "runs/host/seed_1")
    result = cli(*command)
    assert result.code == 1
    assert "Nothing is compared without all runs of host." in result.err
    assert not (folder / "comparison.json").exists()


def test_a_curve_that_is_just_being_written_stops_nothing(made_up):
    folder, _ = made_up({"host": 0.3}, [1])
    run = compare.PlannedRun("host", 1, [], {}, compare.run_folder(folder, "host", 1))
    assert compare.last_score(["specificity"], run) == ", val/BLEU-4 0.200"
    (run.folder.path / "logs/csv/version_0/metrics.csv").write_text("epoch,step,val/BLEU-4\n0,9,0.1\n1,")
    assert compare.last_score(["specificity"], run) == ""


def test_an_interrupt_says_how_to_go_on(cli, made_up, monkeypatch):
    folder, command = made_up({"host": 0.3}, [1, 2])
    (folder / "runs/host/seed_2/metrics.json").unlink()
    monkeypatch.setattr(compare, "run_all", lambda *_: signal.raise_signal(signal.SIGINT))
    result = cli(*command)
    assert result.code == 130
    assert result.err == (
        "Interrupted; 1 of 2 runs are finished. Run the same command again to continue. With compare.partial=true it compares "
        "those.\n"
    )


@pytest.mark.slow
def test_a_comparison_that_was_cut_off_is_made_of_what_is_finished(cli, made_up, read_json, monkeypatch):
    folder, command = made_up({"host": 0.3, "arc": 0.9, "mined": 0.5, "queue": 0.5}, [1, 2, 3])
    for run in (
        "host/seed_3",
        "arc/seed_2",
        "mined/seed_1",
        "mined/seed_2",
        "queue/seed_1",
        "queue/seed_2",
        "queue/seed_3",
    ):
        (folder / "runs" / run / "metrics.json").unlink()
    shutil.rmtree(folder / "runs/queue")
    monkeypatch.setattr(compare, "run_all", lambda *_: pytest.fail("nothing is trained"))
    result = cli(*command, "compare.partial=true", "compare.pairs=[[arc,mined]]")
    assert result.code == 0, result.err
    content = read_json(folder / "comparison.json")
    assert content["notes"] == [
        "mined is left out: host is not finished under seed 3.",
        "queue is left out: none of its runs is finished.",
        "Not finished: host, seed 3; arc, seed 2. Differences are under the seeds that both variants have.",
        "arc against mined is left out: they have no finished seed in common.",
    ]
    assert all(note in result.out for note in content["notes"])
    assert {name: of["seeds"] for name, of in content["variants"].items()} == {"host": [1, 2], "arc": [1, 3]}
    of_seed_1 = [content["variants"][name]["scores"]["test"]["specificity"][0] for name in ("arc", "host")]
    found = content["splits"]["test"]["differences"]["arc"]["specificity"]["difference"]
    assert found == pytest.approx(of_seed_1[0] - of_seed_1[1])

    for seed in (1, 2):
        (folder / f"runs/host/seed_{seed}/metrics.json").unlink()
    result = cli(*command, "compare.partial=true")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"No run of host is finished in {folder}" in result.err


@pytest.mark.parametrize(
    ("shared", "regime"),
    [((), "clinic"), (("data.regime=uniform",), "uniform"), (("data=annotations", "data.root=x"), None)],
)
def test_compared_studies_of_the_phantom_are_those_of_a_clinic_by_default(tmp_path, shared, regime):
    (run,) = planned(settings(tmp_path, ["host"], [1]), [], list(shared))
    assert run.settings["data"].get("regime") == regime
    assert ("data.regime=clinic" in run.overrides) == (regime == "clinic")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare.variants=[host,asent]"], "asent is not defined; did you mean ascent?"),
        (
            ["trainer.max_epoch=2"],
            "variant host: trainer.max_epoch: there is no such config key; did you mean trainer.max_epochs?",
        ),
        (["data=annotations"], "variant host: data.root must be given"),
        (
            ["metrics.caption=null", "monitor=val/BLEU-4"],
            "variant host: metrics.caption is null, but monitor is val/BLEU-4",
        ),
        (["hydra.launcher.nodes=2"], "hydra.launcher.nodes=2 needs a launcher: add compare.launcher=..."),
        (["compare.launcher=nonesuch"], "Hydra has no launcher nonesuch here"),
        (["compare.folders=x"], "compare.folders: there is no such config key; did you mean compare.folder?"),
        (["--resume"], "--resume"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_nothing_is_made(cli, tmp_path, arguments, message):
    result = cli("hardneg-compare", *arguments)
    assert result.code == 2
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_other_settings_and_an_unknown_measure_are_told_and_change_nothing(cli, made_up):
    folder, command = made_up({"host": 0.3, "arc": 0.9}, [1])
    before = sorted(folder.rglob("*"))
    refused = cli(*command, "trainer.max_epochs=7")
    assert refused.code == 2
    assert "host/seed_1 was trained under other settings: trainer.max_epochs is 5 there and 7 here." in refused.err
    with at_work_on(folder):
        held = cli(*command)
    assert (held.code, held.err.count("\n")) == (2, 1)
    misspelt = cli(*command, "compare.measures=[specifcity]")
    assert misspelt.code == 2
    assert "but got specifcity. There are: BLEU-1," in misspelt.err
    assert sorted(folder.rglob("*")) == before


def test_what_is_missing_or_interrupted_is_trained_and_nothing_else(cli, tiny, tmp_path, read_json, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    folder = tmp_path / "comparison"
    tiny = [setting for setting in tiny if not setting.startswith("model.")]  # which a host does not have
    mine = ["model=hard_negatives", "hardening=ascent"]
    asked = settings(folder, ["host", "mine"], [1, 2], definitions={"host": ["model=host"], "mine": mine})
    with at_work_on(folder):
        # as compare.launcher=basic would, but in this process, which has imported everything already
        for work in launched_processes(planned(asked, [], tiny), "basic", []):
            swept = cli("hardneg-train", *work.arguments)
            assert swept.code == 0, swept.err
    runs = {
        f"{name}/seed_{seed}": folder / "runs" / name / f"seed_{seed}" for name in ("host", "mine") for seed in (1, 2)
    }
    scores = {name: read_json(run / "metrics.json")["test"] for name, run in runs.items()}
    written = {name: (run / "metrics.json").stat().st_mtime_ns for name, run in runs.items()}
    shutil.rmtree(runs["host/seed_1"])
    (runs["mine/seed_2"] / "metrics.json").unlink()

    command = ["hardneg-compare", *tiny, f"compare.folder={folder}", "compare.variants=[host,mine]"]
    command += ["compare.seeds=[1,2]", "compare.resamples=100", "compare.page=2", "compare.jobs=2"]
    command += [f"+compare.definitions.mine={json.dumps(mine)}"]
    result = cli(*command)
    assert result.code == 0, result.err
    assert [line.split(": finished")[0] for line in sorted(result.err.splitlines()) if line.startswith("[4/4]")] in (
        ["[4/4] host, seed 1"],
        ["[4/4] mine, seed 2"],
        ["[4/4] host, seed 1", "[4/4] mine, seed 2"],
    )
    for name, run in runs.items():
        is_new = (run / "metrics.json").stat().st_mtime_ns != written[name]
        assert is_new == (name in ("host/seed_1", "mine/seed_2"))
        assert read_json(run / "metrics.json")["test"] == scores[name]
    assert {path.name for path in (runs["mine/seed_2"] / "logs/csv").iterdir()} == {"version_0", "version_1"}
    resumed = read_json(folder / "comparison.json")["variants"]["mine"]
    assert resumed["seconds"][1] is None
    assert resumed["scores"]["test"]["BLEU-4"][1] == scores["mine/seed_2"]["BLEU-4"]
    assert "Studies and curves are of one run of each variant, the best on validation: host seed" in (
        folder / "page.html"
    ).read_text(encoding="utf-8")

    untouched = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    assert cli(*command, "compare.page=0").code == 0
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == untouched
