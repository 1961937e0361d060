"""How commands start: help, version and completion without the imports of the work, and hints for what is refused."""

import json
import os
import re
import shlex
import subprocess
import sys

import hydra
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.help_text import asked_for
from hardneg_plugin.apps.shared.hydra_command import explain, is_first
from hardneg_plugin.apps.shared.limits import LIMITS
from hardneg_plugin.apps.shared.override_hints import needed_package
from hardneg_plugin.config import conf_dir

NAMES = list(LIMITS)
NEEDED = {"prepare": ["source=listed"], "mine": ["data=prepared"]}


def composed(command, *overrides):
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return hydra.compose(command, [*NEEDED.get(command, ()), *overrides])


@pytest.mark.parametrize("command", NAMES)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_says_what_a_command_is_for_with_examples_and_main_settings(command, option, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [f"hardneg-{command}", option])
    getattr(commands, command)()
    shown = capsys.readouterr().out
    purpose, usage, *_ = shown.split("\n\n")
    assert purpose.endswith(".")
    assert "\n" not in purpose
    lines = [line.strip() for line in usage.splitlines()]
    assert len(lines) == 3
    assert all(line.startswith(f"hardneg-{command} ") for line in lines)
    settings = shown.split("Main settings:\n")[1].split("\n\n")[0].splitlines()
    assert 3 <= len(settings) <= 13
    assert all(re.fullmatch(r"  \S+=\S+ +\S.*| {27}\S.*", line) for line in settings)
    assert f"hardneg-{command} " in shown.split("\n\n")[-1]
    assert "--cfg job" in shown.split("\n\n")[-1]
    assert max(map(len, shown.splitlines())) <= 132


@pytest.mark.parametrize("command", NAMES)
def test_the_settings_that_help_names_are_there_with_those_defaults(command):
    config = composed(command)
    text = asked_for(["--help"], command).split("Main settings:\n")[1]
    own = (conf_dir() / f"{command}.yaml").read_text()
    for key, default in re.findall(r"^  ([\w.]+)=(\S+) ", text, re.MULTILINE):
        if (conf_dir() / key).is_dir():  # a group
            chosen = re.search(rf"^  - (?:override )?{key}: (\S+)", own, re.MULTILINE)[1]
            assert default.isupper() or default == chosen, key
            continue
        if key.startswith("hydra."):
            continue
        value = OmegaConf.select(config, key, throw_on_missing=False, default="missing")
        assert value != "missing" or key in ("output", "source.table", "ceiling"), key
        if not re.search(r"[A-Z]{2}|\.\.\.|^N$|\[\[|^null$", default):
            wanted = yaml.safe_load(default)
            assert (OmegaConf.to_container(value) if OmegaConf.is_config(value) else value) == wanted, key


@pytest.mark.parametrize("command", NAMES)
def test_the_examples_of_help_compose(command):
    with_paths = {"evaluate", "score", "tasks", "page", "export", "predict"}
    for example in re.findall(rf"^  (hardneg-{command} .*)$", asked_for(["--help"], command), re.MULTILINE)[1:]:
        _, *arguments = shlex.split(example)
        if command in with_paths:
            arguments, paths = commands.split_arguments(arguments, command)
            assert paths
        if command == "compare":
            arguments, _, for_runs = commands.divided(arguments)
            composed("train", *for_runs)
        composed(command, *[argument for argument in arguments if not argument.startswith("hydra.")])


def test_version_and_paths_after_two_dashes():
    assert re.fullmatch(r"hardneg-plugin \d+\.\d+\.\d+\S*\n", asked_for(["--version"], "train"))
    assert asked_for(["RUN", "--", "--help", "--version"], "predict") is None


@pytest.mark.slow
def test_help_version_and_refusals_import_neither_torch_nor_lightning(tmp_path):
    code = (
        "import json, sys\n"
        "from hardneg_plugin.apps import commands\n"
        "name, *sys.argv = json.loads(sys.argv[1])\n"
        "try:\n    getattr(commands, name)()\n"
        "finally:\n    print('LOADED', *sorted({'torch', 'pytorch_lightning', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    lines = {
        ("train", "hardneg-train", "--help"): 0,
        ("predict", "hardneg-predict", "--version"): 0,
        ("train", "hardneg-train", "--cfg", "job"): 0,
        ("train", "hardneg-train", "trainer.max_epochs=three"): 2,
        ("train", "hardneg-train", "monitor=val/BLEU4"): 2,
        ("evaluate", "hardneg-evaluate"): 2,
    }
    for arguments, code_of_exit in lines.items():
        result = subprocess.run(
            [sys.executable, "-c", code, json.dumps(arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == code_of_exit, result.stderr
        assert result.stdout.splitlines()[-1].strip() == "LOADED", arguments
        assert "Traceback" not in result.stderr
        assert len(result.stderr.splitlines()) == (1 if code_of_exit else 0), result.stderr
    assert not list(tmp_path.glob("outputs/*"))


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("trainer=null", "hardneg-train: error: trainer=null: expected one of cpu, ddp, gpu, smoke."),
        (
            "visual.options.channels.x=3",
            "hardneg-train: error: The settings cannot be combined: invalid literal for int()",
        ),
        ("seed", "hardneg-train: error: seed: expected SETTING=VALUE; --help shows the main settings."),
        ("hardening", "hardneg-train: error: hardening: expected SETTING=VALUE"),
        ("~seed.x", "hardneg-train: error: Could not delete from config. 'seed.x' does not exist."),
        ("+seed=3", "hardneg-train: error: Could not append to config. An item is already at 'seed'."),
        ("monitor=val/BLEU4", "did you mean val/BLEU-4?"),
        ("resume=nowhere", "Expected the folder of a training run, but nowhere holds no config.yaml."),
        ("resume=a,b", "Expected the folder of a training run, but a,b holds no config.yaml."),
        ("hydra.run.dir=[a]", "hydra.run.dir: [a] does not fit there (Cannot convert 'list' to string: '['a']')."),
        ("hydra.run.dir={a: 1}", "As text it is \"hydra.run.dir='{a: 1}'\"."),
        ("hydra.run.dir=", "hydra.run.dir: expected a folder, but got nothing; the folder that you are in is"),
        ("hydra.run.dir='a\\${b}'", "hydra.run.dir: expected a folder without ${ in its name, but got"),
        ("--no-such-option", "unrecognized arguments: --no-such-option"),
    ],
)
def test_a_wrong_argument_is_one_line(argument, told, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hardneg-train", argument])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as stop:
        commands.train()
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert told in printed.err
    assert "Traceback" not in printed.err
    assert argument.startswith("--") or len(printed.err.splitlines()) == 1
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize("command", NAMES)
def test_a_folder_whose_name_looks_like_a_reference_is_refused_before_anything_is_made(
    command, capsys, monkeypatch, tmp_path
):
    (tmp_path / "a${now:%Y}").mkdir()
    monkeypatch.chdir(tmp_path / "a${now:%Y}")
    monkeypatch.setattr(sys, "argv", [command])
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as stop:
        getattr(commands, command.removeprefix("hardneg-"))()
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.err.startswith(
        f"{command}: error: {tmp_path}/a${{now:%Y}} has ${{ in its name, which Hydra reads as"
    )
    assert [path.name for path in tmp_path.rglob("*")] == ["a${now:%Y}"]


@pytest.mark.slow
def test_completion_by_tab_knows_groups_choices_and_keys(tmp_path):
    for line, wanted in (
        ("hardneg-train hardening=a", {"hardening=arc", "hardening=ascent", "hardening=alternating"}),
        ("hardneg-train trainer.max_e", {"trainer.max_epochs="}),
        ("hardneg-prepare sou", {"source="}),
    ):
        command = line.split()[0].removeprefix("hardneg-")
        code = f"import sys; sys.argv = ['hardneg-{command}', '-sc', 'query=bash']; from hardneg_plugin.apps import commands; "
        result = subprocess.run(
            [sys.executable, "-c", f"{code}commands.{command}()"],
            env={**os.environ, "COMP_LINE": line}, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert wanted <= set(result.stdout.split()), (line, result.stdout, result.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", ["hardneg-train ", "hardneg-train negatives=queue negatives.", "hardneg-train +experiment="]
)
def test_completion_that_reads_each_config_once_answers_what_hydra_does(tmp_path, line):
    count = (
        "from hydra._internal import config_repository as c; load = c.ConfigRepository.load_config; read = [];"
        "c.ConfigRepository.load_config = lambda *a, **k: (read.append(1), load(*a, **k))[1];"
    )
    hydras = "import hardneg_plugin.apps.shared.hydra_command as h; h.read_configs_once = lambda: None;"
    answers = []
    for more in (hydras, ""):
        code = (
            f"import sys; sys.argv = ['hardneg-train', '-sc', 'query=bash']; {count}{more}"
            "from hardneg_plugin.apps import commands; import atexit; atexit.register(lambda: print(len(read), file=sys.stderr));"
            "commands.train()"
        )
        answers.append(
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "COMP_LINE": line}, cwd=tmp_path, capture_output=True, text=True, check=True,
            )
        )  # fmt: skip
    assert answers[0].stdout == answers[1].stdout != "\n"
    assert int(answers[1].stderr) <= int(answers[0].stderr)
    if line == "hardneg-train ":
        assert int(answers[1].stderr) < int(answers[0].stderr) / 2


def refused(command, *overrides, argv=()):
    with pytest.raises(Exception) as error:  # of several kinds
        composed(command, *overrides)
    return explain(error.value, command)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["data.root=prep"], "it belongs to data=annotations, iu_xray, mimic_cxr or prepared: add data=prepared."),
        (["hardening.steps=3"], "it belongs to hardening=alternating or ascent: add hardening=ascent."),
        (["negatives.size=3"], "it belongs to negatives=queue: add negatives=queue."),
        (
            ["visual.options={a: 1}"],
            "visual.options.a: there is no such config key yet; with a plus it is added: +visual.options.a=",
        ),
        (["visual.options.in_chans=3"], "with a plus it is added: +visual.options.in_chans=..."),
        (["hardening.margn=0.1"], "hardening.margn: there is no such config key; did you mean hardening.margin?"),
        (["trainer.max_epoch=3"], "trainer.max_epoch: there is no such config key; did you mean trainer.max_epochs?"),
        (
            ["data.image_size=128"],
            "data.image_size: there is no such config key; did you mean data.datamodule.source.size?",
        ),
        (["learning_rate=1e-4"], "learning_rate: there is no such config key; did you mean optimizer.lr?"),
        (["lr=1e-4"], "lr: there is no such config key; did you mean optimizer.lr?"),
        (["gpus=2"], "gpus: there is no such config key; did you mean trainer.devices?"),
        (["colour=red"], "colour: there is no such config key."),
        (
            ["hardening=ark"],
            "hardening=ark: there is no such config; did you mean arc? There are: alternating, arc, ascent",
        ),
        (["seed=1,2"], "a list is seed=[1,2], text is \"seed='1,2'\", and several runs are asked for by --multirun."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_was_meant_by_an_override(overrides, told):
    assert told in refused("train", *overrides)


def test_keys_are_those_of_the_parts_that_the_command_line_chooses(monkeypatch):
    arguments = ["data=annotations", "backbone=r2gen", "backbone.memory_slot=3"]
    monkeypatch.setattr(sys, "argv", ["hardneg-train", *arguments])
    assert "did you mean backbone.memory_slots?" in refused("train", *arguments)
    arguments = ["data=annotations", "data.root=x", "data.image_size=224"]
    monkeypatch.setattr(sys, "argv", ["hardneg-train", *arguments])
    assert "did you mean data.datamodule.source.crop?" in refused("train", *arguments)


def test_a_group_that_must_be_chosen_is_told_with_its_choices():
    with pytest.raises(Exception) as error, hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra.compose("prepare", ["output=x"])
    assert explain(error.value, "prepare") == (
        "source must be given: add source=... to the command line, one of "
        "annotations, datasets, indiana, iu_xray, listed, mimic_cxr, rexrank."
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ImportError("No module named 'wandb'", name="wandb"), "pip install 'hardneg-plugin[wandb]'."),
        (
            ModuleNotFoundError("Requirement 'wandb>=0.12.10' not met. HINT: Try running `pip install`"),
            "hardneg-plugin[wandb]",
        ),
        (ImportError("No module named 'mlflow'", name="mlflow"), "hardneg-plugin[mlflow]"),
        (ImportError("No module named 'radgraph'", name="radgraph"), "pip install radgraph."),
        (ImportError("something"), "install it."),
    ],
)
def test_the_package_that_is_missing(error, told):
    assert told in needed_package(error)


def test_the_rank_is_known_before_lightning_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric.utilities.rank_zero", None)
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert is_first()
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert not is_first()
    monkeypatch.setenv("RANK", "0")
    assert is_first()


@pytest.mark.parametrize(
    ("command", "arguments", "told"),
    [
        ("evaluate", [], "run must be given: hardneg-evaluate RUN, or run=..."),
        ("page", [], "run must be given: hardneg-page RUN, or run=..."),
        ("export", ["mein lauf"], "output must be given: add output=... to the command line."),
        ("score", [], "predictions must be given: hardneg-score PREDICTIONS, or predictions=..."),
        ("predict", [], "run must be given: hardneg-predict RUN IMAGE..."),
        ("mine", ["data=phantom"], "output must be given: add output=... to the command line."),
        (
            "mine",
            ["output=x.parquet"],
            "data must be given: add data=... to the command line, one of annotations, iu_xray",
        ),
        (
            "prepare",
            ["output=x"],
            "source must be given: add source=... to the command line, one of annotations, datasets, indiana",
        ),
        ("evaluate", ["mein_lauf"], "mein_lauf holds no config.yaml; did you mean mein lauf?"),
        ("tasks", ["mein lauf", "split=all"], "split: expected val, test or a list of val or test, but got 'all'"),
        ("evaluate", ["mein lauf", "data.root=x"], "data.root: there is no such config key"),
    ],
)
def test_what_is_missing_or_wrong_is_told_before_the_work_is_imported(
    command, arguments, told, capsys, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mein lauf").mkdir()
    (tmp_path / "mein lauf" / "config.yaml").write_text("seed: 1\n")
    monkeypatch.setattr(sys, "argv", [f"hardneg-{command}", *arguments])
    monkeypatch.setattr(commands.pkgutil, "resolve_name", None)  # which imports it
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as stop:
        getattr(commands, command)()
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert told in printed.err
    assert len(printed.err.splitlines()) == 1
