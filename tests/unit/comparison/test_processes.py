"""Processes of a comparison; a small script stands in for hardneg-train."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from hardneg_plugin.comparison import processes
from hardneg_plugin.comparison.planned_runs import PlannedRun, at_work_on, check_same_settings, run_folder
from hardneg_plugin.comparison.processes import RunProcess, launched_processes, local_processes, run_all, task_processes
from hardneg_plugin.comparison.progress import ComparisonProgress
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import write_json

STAND_IN = r"""
import pathlib, re, signal, sys, time
folder = pathlib.Path(re.search("'(.*)'", [a for a in sys.argv if a.startswith(("hydra.run.dir=", "resume="))][-1]).group(1))
folder.mkdir(parents=True, exist_ok=True)
arguments = " ".join(sys.argv)
print("begin", time.time(), flush=True)
if "fail=1" in arguments:
    print("train.py: error: data.root: there is no such folder.", file=sys.stderr)
    sys.exit(2)
if "kill=1" in arguments:
    import os; os.kill(os.getpid(), signal.SIGKILL)
if "wait=1" in arguments:
    try:
        (folder / "config.yaml").write_text("{}")
        time.sleep(60)
    except KeyboardInterrupt:
        (folder / "interrupted").touch()
        sys.exit(130)
time.sleep(0.3)
print("end", time.time(), flush=True)
(folder / "metrics.json").write_text("{}")
"""


@pytest.fixture(autouse=True)
def stand_in(monkeypatch, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(processes, "TRAIN", (sys.executable, "-S", str(script)))
    monkeypatch.setattr(processes, "POLL", 0.02)


@pytest.fixture
def plan(tmp_path):
    def runs(**variants):
        return [
            PlannedRun(
                name, seed, [override, f"seed={seed}"], {"kind": override}, run_folder(tmp_path / "c", name, seed)
            )
            for name, override in variants.items()
            for seed in (1, 2)
        ]

    return runs


def silent(processes, ended):
    pass


def spans(runs):
    """When each run began and ended, as it says in its log."""
    return [tuple(float(line.split()[1]) for line in run.log.read_text().splitlines()) for run in runs]


@pytest.mark.parametrize("jobs", [1, 2])
def test_so_many_run_at_a_time(plan, tmp_path, jobs):
    runs = plan(host="a=1", arc="b=1")
    with at_work_on(tmp_path / "c") as lock:
        assert run_all(local_processes(runs), jobs, lock, silent) == {}
    assert [run.state for run in runs] == ["finished"] * 4
    times = spans(runs)
    at_once = max(sum(begin <= moment < end for begin, end in times) for moment, _ in times)
    assert at_once == jobs
    assert local_processes(runs) == []


def test_a_run_that_fails_is_told_and_stops_no_other(plan, tmp_path):
    runs = plan(bad="fail=1", dead="kill=1", good="a=1")
    with at_work_on(tmp_path / "c") as lock:
        failed = run_all(local_processes(runs), 1, lock, silent)
    assert {name: work.error for name, work in failed.items()} == {
        "bad, seed 1": "data.root: there is no such folder.",
        "bad, seed 2": "data.root: there is no such folder.",
        "dead, seed 1": "ended by SIGKILL",
        "dead, seed 2": "ended by SIGKILL",
    }
    assert [run.name for run in runs if run.state == "finished"] == ["good, seed 1", "good, seed 2"]


@pytest.mark.parametrize(
    ("number", "error", "code"), [(signal.SIGINT, KeyboardInterrupt, None), (signal.SIGTERM, SystemExit, 143)]
)
def test_an_interrupt_ends_the_processes_and_they_go_on_afterwards(plan, tmp_path, number, error, code):
    runs = plan(slow="wait=1")

    def interrupt_once_begun():
        while any(run.state == "missing" for run in runs):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt_once_begun, daemon=True).start()
    with at_work_on(tmp_path / "c") as lock, pytest.raises(error) as ended:
        run_all(local_processes(runs), 2, lock, silent)
    if code is not None:
        assert ended.value.code == code
    assert all((run.folder.path / "interrupted").exists() for run in runs)
    assert [work.arguments[1:] for work in local_processes(runs)] == [
        [f"resume='{run.folder.path}'", "trust=true"] for run in runs
    ]


def test_a_process_that_starts_while_the_signal_arrives_is_ended_too(plan, tmp_path, monkeypatch):
    processes = local_processes(plan(slow="wait=1"))
    start = RunProcess.start

    def interrupted(process, *options):
        start(process, *options)
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunProcess, "start", interrupted)
    with at_work_on(tmp_path / "c") as lock, pytest.raises(SystemExit):
        run_all(processes, 2, lock, silent)
    assert [process.is_running for process in processes] == [False, False]
    assert processes[0].popen is not None


def test_a_folder_is_held_by_one_command_and_by_a_training_that_outlives_it(tmp_path):
    folder = tmp_path / "c"
    with at_work_on(folder) as lock:
        with pytest.raises(UserError, match="another hardneg-compare"), at_work_on(folder):
            pass
        child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    with pytest.raises(UserError, match="a training that it has started"), at_work_on(folder):
        pass
    child.communicate(b"\n")
    with at_work_on(folder):
        pass


def test_a_folder_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not a folder of hardneg-compare"), at_work_on(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex", "train.py"]


def test_a_launcher_gets_the_missing_seeds_of_a_variant_at_once_and_what_is_to_go_on_by_itself(plan, tmp_path):
    runs = plan(host="a=1", arc="b=1")
    write_json(runs[0].folder.metrics, {})
    runs[3].folder.path.mkdir(parents=True)
    runs[3].folder.config.touch()
    begin = ["--multirun", "hydra/launcher=basic", "hydra.launcher.x=1"]
    end = {
        name: [f"hydra.sweep.dir='{tmp_path}/c/runs/{name}'", "hydra.sweep.subdir=seed_${seed}"]
        for name in ("host", "arc")
    }
    assert [work.arguments for work in launched_processes(runs, "basic", ["hydra.launcher.x=1"])] == [
        [*begin, "a=1", "seed=2", *end["host"]],
        [*begin, "b=1", "seed=1", *end["arc"]],
        [*begin, f"resume='{runs[3].folder.path}'", "trust=true", *end["arc"]],
    ]
    both = launched_processes(plan(queue="c=1"), "basic", [])
    assert [work.arguments[2:4] for work in both] == [["c=1", "seed=1,2"]]


def test_runs_of_other_settings_are_refused_with_the_difference(plan):
    run = plan(host="a")[0]
    run.folder.path.mkdir(parents=True)
    nested = {"data": {"size": 3}, "model": {"x": None}, "decoding": {"y": [1]}, "resume": None}
    planned = PlannedRun("host", 1, [], {**nested, "place": f"{run.folder.path}/checkpoints"}, run.folder)
    text = "data: {size: %s}\nmodel: {x: null}\ndecoding: {y: [1]}\nresume: before\nplace: /moved/from/checkpoints\n"
    run.folder.config.write_text(text % 3)
    check_same_settings([planned])
    run.folder.config.write_text(text % 4)
    with pytest.raises(UserError, match=r"seed_1 was trained under other settings: data\.size is 4 there and 3 here"):
        check_same_settings([planned])


def test_how_progress_was_shown_does_not_matter_and_other_callbacks_do(plan):
    run = plan(host="a")[0]
    run.folder.path.mkdir(parents=True)
    parts = {"data": {"size": 3}, "model": {"x": 1}, "decoding": {"y": 1}}

    def settings(bar, checkpoint):
        return {**parts, "callbacks": {"progress_bar": bar, "checkpoint": {"_target_": checkpoint}}}

    run.folder.config.write_text(OmegaConf.to_yaml(settings({"_target_": "a.Bar", "refresh_rate": 10}, "a.Checkpoint")))
    check_same_settings([PlannedRun("host", 1, [], settings({"_target_": "b.Bar"}, "a.Checkpoint"), run.folder)])
    check_same_settings([PlannedRun("host", 1, [], settings(None, "a.Checkpoint"), run.folder)])
    with pytest.raises(UserError, match=r"checkpoint\._target_ is a\.Checkpoint there and b\.Checkpoint here"):
        check_same_settings([PlannedRun("host", 1, [], settings(None, "b.Checkpoint"), run.folder)])


def test_settings_that_earlier_versions_had_not_and_change_no_number_do_not_matter(plan):
    run = plan(host="a")[0]
    run.folder.path.mkdir(parents=True)
    parts = {"data": {"size": 3}, "model": {"x": 1}, "decoding": {"y": 1}}
    before = {**parts, "callbacks": {"checkpoint": {"save_on_train_epoch_end": True}}}
    now = {**parts, "overwrite": False, "callbacks": {"checkpoint": {}, "divergence": {"patience": 3}}}
    run.folder.config.write_text(OmegaConf.to_yaml(before))
    check_same_settings([PlannedRun("host", 1, [], now, run.folder)])


def test_each_run_that_ended_is_a_line(plan, tmp_path, capsys):
    runs = plan(bad="fail=1", good="a=1")
    with (
        at_work_on(tmp_path / "c") as lock,
        ComparisonProgress(runs, 1, [], lambda run: ", val/BLEU-4 0.100") as progress,
    ):
        progress.console = Console(stderr=True, width=200, highlight=False)
        run_all(local_processes(runs), 1, lock, progress)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rpartition(" (")[0] for line in lines] == [
        "[0/4] bad, seed 1: did not finish: data.root: there is no such folder.",
        "[0/4] bad, seed 2: did not finish: data.root: there is no such folder.",
        "[1/4] good, seed 1: finished, val/BLEU-4 0.100",
        "[2/4] good, seed 2: finished, val/BLEU-4 0.100",
    ]


def test_finished_runs_do_the_tasks_that_they_lack(plan, tmp_path, monkeypatch):
    script = tmp_path / "tasks.py"
    script.write_text(
        """
import pathlib, re, sys
given = dict(argument.split("=", 1) for argument in sys.argv[1:])
for task in given["tasks"].strip("[]").split(","):
    if task == "vqa":
        sys.exit("tasks.py: error: vqa: no.")
    for split in given["split"].strip("[]").split(","):
        path = pathlib.Path(given["run"].strip("'")) / "tasks" / f"{task}_{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
"""
    )
    monkeypatch.setattr(processes, "TASKS", (sys.executable, "-S", str(script)))
    runs = plan(host="a=1", arc="b=1")
    for run in runs[:3]:
        write_json(run.folder.metrics, {})
    (runs[0].folder.tasks).mkdir()
    for split in ("val", "test"):
        (runs[0].folder.tasks / f"zero_shot_{split}.jsonl").touch()
    (runs[1].folder.tasks).mkdir()
    (runs[1].folder.tasks / "zero_shot_val.jsonl").touch()
    works = task_processes(runs, ["zero_shot", "retrieval"])
    assert [(work.runs[0].name, work.arguments[1:3]) for work in works[:2]] == [
        ("host, seed 1", ["tasks=[retrieval]", "split=[val,test]"]),
        ("host, seed 2", ["tasks=[zero_shot,retrieval]", "split=[val,test]"]),
    ]
    assert len(works) == 3
    assert run_all(works, 2, os.open(os.devnull, os.O_RDONLY), lambda *_: None) == {}
    assert task_processes(runs, ["zero_shot", "retrieval"]) == []
    failed = run_all(task_processes(runs, ["vqa"]), 2, os.open(os.devnull, os.O_RDONLY), lambda *_: None)
    assert {name: work.error for name, work in failed.items()} == dict.fromkeys(
        ["host, seed 1", "host, seed 2", "arc, seed 1"], "vqa: no."
    )


def begun(plan):
    """A run of a comparison that has begun as it should, and what would run code if it were resumed."""
    run = plan(host="a.b=1")[0]
    (run.folder.path / "checkpoints").mkdir(parents=True)
    settings = {"data": {"size": 3}, "model": {"_target_": "mine.Model"}, "decoding": {"y": 1}, "monitor": "val/R@5"}
    run.folder.config.write_text(OmegaConf.to_yaml(settings))
    run.folder.overrides.write_text(OmegaConf.to_yaml(["a.b='1'", "seed=1", "monitor='val/R@5'"]))
    return PlannedRun("host", 1, ["a.b='1'", "seed=1"], settings, run.folder)


@pytest.mark.parametrize(
    "override",
    ["+callbacks.x._target_=os.system", "hydra.searchpath=[/x]", "--config-dir=/x", "seed=2", "a.b=1,2", "nonsense"],
)
def test_a_run_that_would_be_resumed_under_other_settings_is_refused(plan, override):
    """Its config.yaml is compared, but it is its overrides.yaml that is replayed."""
    run = begun(plan)
    check_same_settings([run])
    run.folder.overrides.write_text(OmegaConf.to_yaml([*run.overrides, override]))
    with pytest.raises(UserError, match=r"seed_1 was trained under other settings: its overrides\.yaml has"):
        check_same_settings([run])


def test_a_setting_is_not_hidden_by_a_key_with_dots(plan):
    run = begun(plan)
    text = run.folder.config.read_text().replace("mine.Model", "os.system")
    run.folder.config.write_text(f"{text}model._target_: mine.Model\n")
    with pytest.raises(UserError, match="other settings"):
        check_same_settings([run])


def test_a_link_out_of_a_run_of_a_comparison_is_refused(plan, tmp_path):
    run = begun(plan)
    run.folder.last.symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"symbolic link .*compare\.folder"):
        check_same_settings([run])


def test_the_quotes_of_an_override_do_not_matter(plan):
    run = begun(plan)
    run.folder.overrides.write_text(OmegaConf.to_yaml(['a.b="1"', "seed=1"]))
    check_same_settings([run])
