"""Imports point down only: the order of the layers, kept by reading the code."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "hardneg_plugin"

# From the bottom up. A layer may import itself and those below; rooms of one layer that are listed apart may not import
# one another.
LAYERS = [
    [["errors"]],
    [["functional"], ["schedule"], ["distributed"], ["json_file", "neighbours", "whole_file"], ["knowledge"]],
    [["bank"], ["grounding"]],
    [["objectives"]],
    [["mixin", "wrap", "features", "param_group", "signatures"]],
    [["backbones"], ["data"], ["metrics"], ["tasks"], ["lr"], ["optimization"], ["callbacks"]],
    [["config"]],
    [["runs"], ["writing"]],
    [
        [
            "scoring",
            "study_model",
            "aligned_model",
            "generator",
            "hard_negative_generator",
            "pretraining",
            "baselines",
            "downstream",
            "mining",
            "inspection",
            "alignment_inspection",
            "heat_maps",
            "diagnosis",
        ]
    ],
    [["pages"], ["comparing"]],
    [["apps"]],
]
# The plug-in does not know the trainer's rooms, nor they the plug-in.
MUST_NOT_IMPORT = {
    room: {"objectives", "mixin", "schedule"}
    for room in ("backbones", "data", "metrics", "lr", "optimization", "callbacks")
}


def rooms():
    return {
        room: (level, group)
        for level, layer in enumerate(LAYERS)
        for group, names in enumerate(layer)
        for room in names
    }


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "hardneg_plugin" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if room == "__init__":
        assert set(imports(path)) <= {"mixin", "objectives", "wrap"}
        return
    level, group = rooms()[room]
    for imported in imports(path):
        other_level, other_group = rooms()[imported]
        assert other_level < level or (other_level, other_group) == (level, group), f"{room} imports {imported}"
        assert imported not in MUST_NOT_IMPORT.get(room, set()), f"{room} imports {imported}"
