"""The run of someone else: whatever its files say, nothing outside of its folder changes and none of their code runs.

docs/SECURITY.md names these tests.
"""

import contextlib
import io
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra

from hardneg_plugin.apps import evaluate, page, train

sys.path.append(str(Path(__file__).parent))
from strangers import Watch, contents

SECONDS = float(os.environ.get("FUZZ_SECONDS", "25"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
MAINS = {"train": train.main, "evaluate": evaluate.main, "page": page.main}
TINY = [
    "visual.options.channels=[8,8,8,8]",
    "visual.options.stem_width=8",
    "backbone.width=8",
    "backbone.heads=1",
    "backbone.layers=1",
    "objective.width=8",
    "data.batch_size=4",
    "data.max_length=8",
    "decoding.beam_size=1",
    "metrics.caption=null",
    "metrics.rank_by_likelihood=[]",
    "baselines=false",
    "data.datamodule.source.train=8",
    "data.datamodule.source.val=4",
    "data.datamodule.source.test=4",
    "data.datamodule.source.size=32",
    "trainer.max_epochs=1",
    "trainer.num_sanity_val_steps=0",
    "monitor=val/report_loss",
    "callbacks.progress_bar.refresh_rate=0",
    "callbacks.diagnosis.studies=0",
]
CHECKPOINT = "pytorch_lightning.callbacks.ModelCheckpoint"
LOGGERS = "pytorch_lightning.loggers"


def call(command, *arguments):
    """Run a command in this process; gives its code, its error output, and an error that it did not explain."""
    GlobalHydra.instance().clear()
    out, error, code, raised = io.StringIO(), io.StringIO(), 0, None
    before, sys.argv = sys.argv, [f"hardneg-{command}", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            MAINS[command]()
    except SystemExit as stop:
        code = stop.code
    except Exception as problem:  # a defect; nothing may have been written for that
        code, raised = 1, problem
    finally:
        sys.argv = before
    return SimpleNamespace(code=code, err=error.getvalue(), raised=raised)


@pytest.fixture(scope="module")
def watch():
    return Watch()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of one epoch; and everything that a command imports late is imported."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert call("train", *TINY, f"hydra.run.dir={folder}").code == 0
    assert call("evaluate", folder).code == 0
    assert call("page", folder).code == 0
    for path in folder.glob("evaluation_*"):
        shutil.rmtree(path)
    return folder


class Sandbox:
    """A copy of the run in a home with something to lose, in which commands are called."""

    def __init__(self, folder, finished, watch):
        self.folder, self.watch = folder, watch
        self.home, self.run = folder / "home", folder / "downloads" / "run"
        (self.home / ".ssh").mkdir(parents=True)
        self.victim = self.home / ".ssh" / "authorized_keys"
        self.victim.write_text("ssh-ed25519 own\n")
        (self.home / "secret.json").write_text("{}")
        shutil.copytree(finished, self.run)
        (self.run.parent / "evil").mkdir()
        (self.run.parent / "evil" / "evil.yaml").write_text("_target_: stranger.act\n")
        (self.run.parent / "stranger.py").write_text("import pathlib\npathlib.Path(__file__ + '.ran').touch()\n")
        self.places = {"victim": self.victim, "home": self.home, "evil": self.run.parent / "evil" / "evil"}

    def override(self, *texts, file="overrides.yaml"):
        """Add overrides to those that the run is resumed under."""
        path = self.run / file
        known = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump([*known, *texts]))

    def set(self, key, value):
        """Set a setting of config.yaml."""
        path = self.run / "config.yaml"
        config = node = yaml.safe_load(path.read_text())
        *above, last = key.split(".")
        for name in above:
            node = node.setdefault(name, {}) if isinstance(node, dict) else node[int(name)]
        node[last] = value
        path.write_text(yaml.safe_dump(config))

    def checkpoint(self, change, name="last.ckpt"):
        """Change a checkpoint."""
        path = self.run / "checkpoints" / name
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)

    def call(self, command="train", *arguments):
        """Call a command on the run, and check that nothing else has changed."""
        before = contents(self.folder, self.run)
        arguments = [f"resume='{self.run}'", "trainer.max_epochs=2"] if command == "train" else [self.run, *arguments]
        with self.watch.on(self.run) as done:
            ended = call(command, *arguments)
        assert contents(self.folder, self.run) == before, (command, ended.err)
        assert not done, (command, done, ended.err)
        assert "stranger" not in sys.modules
        return ended

    def refused(self, command="train", *arguments):
        """The line by which a command refuses the run; nothing in the run has changed either."""
        before = contents(self.run, None)
        ended = self.call(command, *arguments)
        assert (ended.code, ended.raised) == (2, None), ended
        assert contents(self.run, None) == before
        assert ended.err.count("\n") == 1, ended.err
        return ended.err


@pytest.fixture
def sandbox(tmp_path, finished, watch, monkeypatch):
    made = Sandbox(tmp_path / "sandbox", finished, watch)
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.chdir(made.run.parent)
    monkeypatch.syspath_prepend(str(made.run.parent))
    return made


def test_a_run_as_it_is_goes_on_and_writes_into_its_folder_only(sandbox):
    """So the tests below could have failed: this one resumes, trains, validates, scores, logs and writes checkpoints."""
    before = contents(sandbox.run, None)
    ended = sandbox.call()
    assert (ended.code, ended.raised) == (0, None), ended
    assert json.loads((sandbox.run / "metrics.json").read_text())["training"]["epochs"] == 2
    after = contents(sandbox.run, None)
    assert {"logs/csv/version_1/metrics.csv", "checkpoints/last.ckpt"} <= {
        name for name in after if after[name] != before.get(name)
    }


@pytest.mark.parametrize("name", ["$HOME", "~", "{epoch}"])
def test_the_name_of_the_folder_leads_nowhere_else(sandbox, name):
    """Whoever packs an archive names the folder in it."""
    sandbox.run = sandbox.run.rename(sandbox.run.with_name(name))
    ended = sandbox.call()
    assert (ended.code, ended.raised) == (0, None), ended


def test_the_watch_sees_what_is_done_outside(sandbox):
    with sandbox.watch.on(sandbox.run) as done:
        (sandbox.run / "inside").write_text("x")
        sandbox.victim.write_text("x")
        (sandbox.run / "link").symlink_to(sandbox.home)
        (sandbox.run / "link" / "new").mkdir()
        os.system("true")
    assert [event for event, _ in done] == ["open", "os.mkdir", "os.system"]


PLACES = [
    "+callbacks.last.path={victim}",
    "++callbacks.last.path={victim}",
    "+callbacks.last._args_=[{victim}]",
    "+callbacks.checkpoint.dirpath={home}",
    "+callbacks.checkpoint.filename='../../../home/x'",
    "callbacks.checkpoint={{_target_: " + CHECKPOINT + ", dirpath: '{home}', save_top_k: -1}}",
    "+callbacks.more={{_target_: " + CHECKPOINT + ", dirpath: '{home}', save_top_k: -1}}",
    "+callbacks.more={{_target_: " + CHECKPOINT + ", filename: '../../../home/x', save_top_k: -1}}",
    "+callbacks.more={{_target_: " + CHECKPOINT + ", filename: '{victim}', save_top_k: -1}}",
    "+callbacks.more={{_target_: " + CHECKPOINT + ", filename: 'x\nssh-ed25519 theirs\n', save_top_k: -1}}",
    "+callbacks.more={{_target_: " + CHECKPOINT + ", _args_: ['{home}'], save_top_k: -1}}",
    "+logger.csv.save_dir={home}",
    "+logger.csv.name=../../home",
    "logger.csv.version='../../../../home/x'",
    "logger.csv.version='$HOME'",
    "+logger.tensorboard.sub_dir='../../../../home'",
    "+logger.tensorboard.log_dir={home}",
    "+logger.more={{_target_: " + LOGGERS + ".CSVLogger, save_dir: '{home}'}}",
    "+logger.more={{_target_: " + LOGGERS + ".TensorBoardLogger, save_dir: '{home}'}}",
    "+logger.more={{_target_: " + LOGGERS + ".MLFlowLogger, tracking_uri: 'file:{home}'}}",
    "+logger.more={{_target_: " + LOGGERS + ".MLFlowLogger, tracking_uri: 'http://127.0.0.1:9'}}",
    "+logger.more={{_target_: " + LOGGERS + ".WandbLogger, save_dir: '{home}'}}",
    "+logger.more={{_target_: " + LOGGERS + ".WandbLogger, settings: {{base_url: 'http://127.0.0.1:9'}}}}",
    "+model.x={{_target_: " + LOGGERS + ".CSVLogger, save_dir: '{home}'}}",
    "+trainer.default_root_dir={home}",
    "+trainer.profiler=advanced",
    "+trainer.plugins=[]",
    "+trainer.logger=true",
    "+trainer.callbacks=[]",
    "hydra.run.dir={home}",
    "hydra.output_subdir=../../home",
    "+hydra.job_logging.handlers.file={{class: logging.FileHandler, filename: '{victim}'}}",
]
CODE = [
    "+callbacks.x._target_=stranger.act",
    "model._target_=os.system",
    "trainer.strategy={{_target_: stranger.act}}",
    "+model.x=[{{y: {{_target_: os.system, _args_: ['touch {home}/x']}}}}]",
    "data.root=${{oc.env:HOME}}",
    "+data.x=${{oc.create:'_target_: os.system'}}",
    "+experiment={evil}",
    "callbacks={evil}",
    "+callbacks@hydra.callbacks=default",
    "hydra.searchpath=['file://{home}']",
    "--config-dir={home}",
    "trust=true",
    "++trust=true",
    "~trust",
    "resume='{home}'",
    "+visual.options.pretrained_cfg_overlay={{file: '{evil}'}}",
    "+visual.options.pretrained_cfg={{url: 'http://127.0.0.1:9/x', custom_load: true}}",
    "+visual.options.more=[{{pretrained_cfg_overlay: {{file: '{evil}'}}}}]",
    "+visual.options.checkpoint_path={evil}",
    "+visual.options.cache_dir={home}",
    "+backbone.config={{model_type: gpt2, _attn_implementation: someone/kernel}}",
    "+backbone.config={{model_type: gpt2, attn_implementation: {{text_config: someone/kernel}}}}",
    "+backbone.config={{model_type: gpt2, auto_map: {{AutoModelForCausalLM: stranger.Model}}}}",
    "+backbone.trust_remote_code=true",
    "+backbone.lora={{megatron_config: {{}}, megatron_core: stranger}}",
]


@pytest.mark.parametrize("override", [*PLACES, *CODE])
def test_overrides_that_would_write_elsewhere_or_run_code_are_refused(sandbox, override):
    sandbox.override(override.format(**sandbox.places))
    sandbox.refused()


@pytest.mark.parametrize("command", ["train", "evaluate", "page"])
@pytest.mark.parametrize(
    "place",
    [
        "checkpoints",
        "logs",
        "logs/csv",
        "logs/csv/version_1",
        "logs/tensorboard",
        "predictions",
        "checkpoints/last.ckpt",
        "x",
    ],
)
def test_a_link_out_of_the_run_is_refused(sandbox, place, command):
    link = sandbox.run / place
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(sandbox.victim if place.endswith((".ckpt", "x")) else sandbox.home)
    assert "symbolic link" in sandbox.refused(command)


def test_partial_files_left_as_links_are_not_followed(sandbox):
    """Links within the run, which are allowed, under every name that a partial file had in some version."""
    precious = sandbox.run / "precious"
    precious.write_text("theirs, but not to be written through a link")
    for name in (
        ".last.ckpt.part",
        "last.ckpt.part",
        ".last.ckpt.tmp",
        ".last.ckpt.0123456789abcdef",
        ".best.ckpt.part",
    ):
        (sandbox.run / "checkpoints" / name).symlink_to(precious)
    for name in (".metrics.json.part", ".config.yaml.part"):
        (sandbox.run / name).symlink_to(precious)
    ended = sandbox.call()
    assert (ended.code, ended.raised) == (0, None), ended
    assert precious.read_text().startswith("theirs")


def callback_paths(path):
    def change(content):
        for state in content["callbacks"].values():
            for key in [key for key in state if key.endswith("path")]:
                state[key] = path
            if "best_k_models" in state:
                state["best_k_models"] = {path: torch.tensor(99.0)}
                state |= {"kth_value": torch.tensor(99.0), "best_model_score": torch.tensor(99.0)}

    return change


@pytest.mark.parametrize(
    "path", ["{victim}", "{home}", "{run}/checkpoints/../../../home/.ssh/authorized_keys", "{run}"]
)
def test_paths_in_a_checkpoint_are_not_removed_and_not_written(sandbox, path):
    """A better score removes the checkpoint of the one before, and a checkpoint says which file that is."""
    path = path.format(run=sandbox.run, **sandbox.places)

    def change(content):
        callback_paths(path)(content)
        for state in content["callbacks"].values():
            if "dirpath" in state:
                state["dirpath"] = str(sandbox.run / "checkpoints")

    sandbox.checkpoint(change)
    sandbox.call()
    assert (sandbox.run / "config.yaml").is_file()


@pytest.mark.parametrize(
    "target",
    ["os.system", "stranger.act", f"{LOGGERS}.CSVLogger"],
)
def test_a_checkpoint_names_no_class(sandbox, target):
    for name in ("last.ckpt", "best.ckpt"):
        sandbox.checkpoint(lambda content: content.update(backbone={"x": [{"_target_": target}]}), name)
    assert "best.ckpt" in sandbox.refused("evaluate")


# -- mutations ------------------------------------------------------------------------------------------------------------

KEYS = [
    *("callbacks.last.path", "callbacks.checkpoint.dirpath", "callbacks.checkpoint.filename", "callbacks.more.dirpath"),
    *(
        "callbacks.more.filename",
        "logger.csv.save_dir",
        "logger.csv.name",
        "logger.csv.version",
        "logger.tensorboard.version",
    ),
    *(
        "logger.tensorboard.sub_dir",
        "trainer.default_root_dir",
        "trainer.profiler",
        "trainer.strategy",
        "trainer.plugins",
    ),
    *("hydra.run.dir", "hydra.job.name", "data.root", "data.datamodule.source.root", "tokenizer.name_or_path"),
    *(
        "visual.name",
        "visual.weights",
        "visual.options",
        "backbone",
        "backbone.name_or_path",
        "model",
        "monitor",
        "seed",
    ),
    *("optimizer", "optimizer._target_", "experiment", "callbacks", "logger", "metrics.caption", "decoding._target_"),
]
VALUES = [
    *(
        "{victim}",
        "{home}",
        "'../../../home/x'",
        "'..'",
        "'~/x'",
        "'$HOME/x'",
        "'a\nb'",
        "'\x1b[2J'",
        "'file://{home}'",
    ),
    *("'x/../../../home'", "'%(home)s'", "null", "0", "-1", "true", "[]", "{{}}", "''", "'{{epoch}}'", "'{run}'"),
    *(
        "${{oc.env:HOME}}",
        "${{hydra:runtime.cwd}}",
        "${{data.root}}",
        "${{.}}",
        "${{oc.create:x}}",
        "\\${{x}}",
        "'*'",
        "'&a'",
    ),
    "{{_target_: stranger.act}}",
    "{{_target_: " + CHECKPOINT + ", dirpath: '{home}'}}",
    "{{_target_: " + LOGGERS + ".CSVLogger, save_dir: '{home}'}}",
    "{{pretrained_cfg_overlay: {{file: '{evil}'}}}}",
    "{{model_type: gpt2, _attn_implementation: someone/kernel}}",
    "[{{_target_: os.system}}]",
]
LINES = [
    "- &a seed=1\n- *a\n",
    "- !!python/object/apply:os.system [touch x]\n",
    "- {seed: 1}\n",
    "seed: 1\n",
    "- >\n  seed=1\n",
    '- "seed=1\\0"\n',
    "- ~\n",
    "- -m\n",
    "- 'x=1\n\n  resume=y'\n",
    "\ufeff- seed=1\n",
]


def mutated_overrides(rng, sandbox):
    """Overrides of the run with some of someone else's among them; gives what they are."""
    places = {**sandbox.places, "run": sandbox.run}
    added = [
        rng.choice(["", "+", "++", "++", "~"]) + rng.choice(KEYS) + "=" + rng.choice(VALUES).format(**places)
        for _ in range(rng.choice([1, 1, 1, 2, 3]))
    ]
    if rng.random() < 0.2:
        with (sandbox.run / "overrides.yaml").open("a", encoding="utf-8") as file:
            file.write(rng.choice(LINES))
        return ["a line of YAML"]
    sandbox.override(*added)
    return added


def mutated_config(rng, sandbox):
    """A setting of config.yaml is another one."""
    key, value = rng.choice(KEYS), rng.choice(VALUES).format(**{**sandbox.places, "run": sandbox.run})
    with contextlib.suppress(TypeError, ValueError, IndexError, AttributeError):
        sandbox.set(key, yaml.safe_load(value) if rng.random() < 0.7 else value)
    return [f"{key}: {value}"]


def mutated_checkpoint(rng, sandbox):
    """Paths, and values of another type, in the state of callbacks or loops."""
    value = rng.choice(
        [str(sandbox.victim), str(sandbox.home), "../../../home", "", None, -1, {"_target_": "stranger.act"}, []]
    )

    def change(content):
        node = content
        for _ in range(rng.choice([1, 2, 3])):
            keys = [key for key in node if key != "state_dict"]
            key = rng.choice(sorted(keys, key=str))
            if not isinstance(node[key], dict) or not node[key]:
                break
            node = node[key]
        keys = sorted(node, key=str)
        node[rng.choice(keys)] = value

    sandbox.checkpoint(change, rng.choice(["last.ckpt", "best.ckpt"]))
    return [f"a value of a checkpoint: {value!r}"]


def mutated_links(rng, sandbox):
    """A link at some place, within the run or out of it."""
    places = [
        "logs/csv/version_1",
        "logs/tensorboard/hparams.yaml",
        "checkpoints/best.ckpt",
        "predictions/val.jsonl",
        "new",
    ]
    link = sandbox.run / rng.choice(places)
    link.unlink(missing_ok=True)
    target = rng.choice([sandbox.victim, sandbox.home, sandbox.home / "new", "../config.yaml", ".", link.name])
    link.symlink_to(target)
    return [f"{link} -> {target}"]


def test_mutated_runs_leave_everything_else_as_it_is(tmp_path, finished, watch, monkeypatch):
    """FUZZ_SECONDS=600 FUZZ_SEED=7 for a longer search; a failure names its seed and what was changed."""
    ends, started, number = {}, time.monotonic(), 0
    while time.monotonic() - started < SECONDS:
        rng = random.Random(f"{SEED} {number}")
        sandbox = Sandbox(tmp_path / f"{number}", finished, watch)
        with monkeypatch.context() as patch:
            patch.setenv("HOME", str(sandbox.home))
            patch.chdir(sandbox.run.parent)
            patch.syspath_prepend(str(sandbox.run.parent))
            mutate, commands = rng.choice(
                [
                    (mutated_overrides, ["train"]),
                    (mutated_overrides, ["train"]),
                    (mutated_config, ["train", "evaluate", "page"]),
                    (mutated_checkpoint, ["train", "evaluate"]),
                    (mutated_links, ["train", "evaluate", "page"]),
                ]
            )
            changed = mutate(rng, sandbox)
            command = rng.choice(commands)
            try:
                ended = sandbox.call(command)
            except AssertionError as error:
                raise AssertionError(f"FUZZ_SEED={SEED}, number {number}: {command} with {changed}") from error
        ends[ended.code] = ends.get(ended.code, 0) + 1
        if ended.raised is not None:
            print(f"number {number}: {command} with {changed} ended with {ended.raised!r}")
        shutil.rmtree(tmp_path / f"{number}")
        number += 1
    print(f"{number} mutated runs in {SECONDS:.0f} s; by exit code {ends}")
    assert ends
