"""Paths on the command line reach the config as they were typed."""

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hardneg_plugin.apps.shared.positional import with_path_as_setting
from hardneg_plugin.apps.shared.typed_paths import as_typed, how_to_quote, typed_path
from hardneg_plugin.errors import UserError

NAMES = [
    "outputs/mine",
    "my studies",
    "my studies (2)",
    "a, b",
    "Börse/Röntgen [neu]",
    "it's",
    'say "ah"',
    "2024",
    "1e3",
    "nan",
    "a=b",
    "a:b",
    "50%",
    "back\\slash",
    "trailing\\",
    "x{1}",
    "#5",
    "$HOME",
    " leading",
]
"""Names that no list, mapping, quote or interpolation begins with."""


def value_of(argument):
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert not override.is_sweep_override()
    return override.value()


@pytest.mark.parametrize("key", ["data.root", "output", "hydra.run.dir", "source.table", "+data.paired.table", "run"])
@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_taken_as_typed(key, name):
    (argument,) = as_typed([f"{key}={name}"])
    assert value_of(argument) == name


@pytest.mark.parametrize("name", ["[a]", "{b}", "[a, b]"])
def test_a_list_is_a_path_where_there_is_one_of_that_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert as_typed([f"run={name}"]) == [f"run={name}"]
    Path(name).mkdir()
    assert value_of(*as_typed([f"run={name}"])) == name


@pytest.mark.parametrize(
    "argument",
    [
        "data.root='a b'", 'data.root="a b"', "data.root=${oc.env:DATA}", "resume=null", "data.datamodule.source.boxes=true",
        "seed=1", "hardening=arc,ascent", "model.name=a b", "--cfg", "data.root", "images=[[a.png,b.png]]", "data.root=",
    ],
)  # fmt: skip
def test_all_else_is_hydras(argument):
    assert as_typed([argument]) == [argument]


@pytest.mark.parametrize("key", ["run", "resume", "data.root", "output", "hydra.run.dir"])
def test_a_path_that_looks_like_a_reference_is_refused_where_it_is_there(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert as_typed([f"{key}=a${{b}}"]) == [f"{key}=a${{b}}"]
    Path("a${b}").mkdir()
    with pytest.raises(UserError, match=rf"^{key}: a\$\{{b\}} has \$\{{ in its name, which Hydra reads as a reference"):
        as_typed([f"{key}=a${{b}}"])
    with pytest.raises(UserError, match=r"^run: a"):
        with_path_as_setting(["a${b}"], "evaluate", "run")


def test_several_values_are_a_sweep_where_one_is_asked_for():
    assert as_typed(["data.root=a,b", "--multirun"]) == ["data.root=a,b", "--multirun"]
    assert as_typed(["data.root=a,b"]) == ["data.root='a,b'"]
    assert as_typed(["--", "data.root=a,b"]) == ["--", "data.root=a,b"]


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert value_of(*as_typed(["data.root=~/my studies"])) == f"{tmp_path}/my studies"
    assert typed_path("~nobody-of-this-name/x") == "~nobody-of-this-name/x"
    Path("~").mkdir()
    assert typed_path("~") == "~"


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("logger.wandb.project=chest (2)", "Quote its value: \"logger.wandb.project='chest (2)'\""),
        ("model.name=it's", "Quote its value: \"model.name='it\\'s'\""),
        ("prepared", "prepared: expected SETTING=VALUE"),
    ],
)
def test_what_hydra_cannot_read_is_told_with_its_quoting(argument, told):
    line = how_to_quote(["seed=1", "--cfg", argument])
    assert told in line


def test_the_quoting_that_is_told_is_right():
    line = how_to_quote(["a.b=chest (2)"])
    assert value_of(line.split("Quote its value: ")[1].strip('"')) == "chest (2)"
    assert how_to_quote(["a.b=chest"]) is None
