"""Commands that are printed, read back by a shell, by the commands' own reading of paths, and by Hydra."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from hardneg_plugin.apps.shared.positional import with_path_as_setting
from hardneg_plugin.apps.shared.typed_paths import as_typed
from hardneg_plugin.runs.shell import command_line

NAMES = [
    "outputs/mine", "a b", "a  b ", "it's", 'say "ah"', "[neu]", "{x: y}", "a,b", "a=b", "seed=3", "split=val", "-dash", "--help",
    "~", "~/x", "$HOME", "${oc.env:HOME}", "`id`", "a;b", "a&b", "é ü 漢", "back\\slash", "end\\", "2024", "null", "True",
    "'quoted'", '"quoted"', "#5", "!x", "*", "new\nline", "a\tb",
]  # fmt: skip


def words_of(lines):
    """The arguments that bash makes of each line, by one shell."""
    show = f"{shlex.quote(sys.executable)} -c 'import json, sys; print(json.dumps(sys.argv[1:]))'"
    script = "\n".join(line.replace("COMMAND", show, 1) for line in lines)
    printed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in printed.splitlines()]


def value_of(argument):
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert not override.is_sweep_override()
    return override.value()


@pytest.mark.slow
def test_every_printed_path_comes_back_from_the_shell():
    settings = words_of([command_line("COMMAND", "data=prepared", data__root=name) for name in NAMES])
    for name, arguments in zip(NAMES, settings, strict=True):
        assert [value_of(argument) for argument in as_typed(arguments)] == ["prepared", name]
    alone = words_of([command_line("COMMAND", Path(name), "checkpoint=last") for name in NAMES])
    for name, arguments in zip(NAMES, alone, strict=True):
        run, checkpoint = with_path_as_setting(as_typed(arguments), "evaluate", "run")
        assert (Path(value_of(run)), checkpoint) == (Path(name), "checkpoint=last")


def test_simple_paths_are_printed_plainly():
    assert command_line("hardneg-evaluate", Path("outputs/a-b_1")) == "hardneg-evaluate outputs/a-b_1"
    assert command_line("hardneg-train", resume="outputs/mine") == "hardneg-train resume=outputs/mine"
    assert command_line("hardneg-train", resume="my run") == "hardneg-train resume='my run'"
