"""The house: every folder has one level, imports point down, nothing runs in a circle; `-s` draws it."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "hardneg_plugin"

# From the ground up, one room a level. A room imports itself and rooms before it.
PLUG_IN = [
    "errors",
    "files",
    "tensor_file",
    "parquet_file",
    "distributed",
    "agreement",
    "divergence",
    "knowledge",
    "functional",
    "neighbours",
    "grounding",
    "objectives",
    "plugin",
    "hf",
]
TRAINER = [
    "folder_lock",
    "terminal",
    "plain_console",
    "progress",
    "config",
    "data",
    "backbones",
    "metrics",
    "runs",
    "models",
    "training",
    "evaluation",
    "comparison",
    "pages",
    "apps",
]
LEVELS = [*PLUG_IN, *TRAINER, "examples", "benchmarks"]
# Packages that the plug-in half leaves to the trainer and to the user's own module.
OF_THE_TRAINER = {"hydra", "omegaconf", "torchvision", "transformers", "timm", "pycocoevalcap"}
# The generators know nothing of the objectives that are plugged into them.
APART = {room: {"objectives", "plugin"} for room in ("data", "backbones", "metrics")}


def modules():
    """Every file by its dotted name below hardneg_plugin, examples and benchmarks included; a package by its folder's."""
    files = {path: path.relative_to(SOURCE) for path in SOURCE.rglob("*.py")}
    files |= {
        path: path.relative_to(ROOT) for room in ("examples", "benchmarks") for path in (ROOT / room).glob("*.py")
    }
    return {".".join(short.with_suffix("").parts).removesuffix(".__init__"): path for path, short in files.items()}


def imports(path):
    """Dotted names of what a file imports, each taken as a module and, for `from a import b`, as a member of one too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from ((node.module, f"{node.module}.{alias.name}") for alias in node.names)


def graph():
    """The modules that each module imports."""
    known = modules()
    edges = {}
    for name, path in known.items():
        edges[name] = set()
        for module, member in imports(path):
            if module.split(".")[0] != "hardneg_plugin":
                continue
            target = member if member.removeprefix("hardneg_plugin.") in known else module
            target = target.removeprefix("hardneg_plugin").removeprefix(".")
            assert target in known or not target, f"{path} imports {target}, which is not there"
            if target and target != name:
                edges[name].add(target)
    return edges


def room(module):
    return module.split(".")[0]


def rooms(edges):
    """The files behind each arrow between two rooms."""
    arrows = defaultdict(list)
    for name, targets in edges.items():
        for target in targets:
            if room(name) != room(target):
                arrows[room(name), room(target)].append((name, target))
    return arrows


def circles(edges):
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_room_has_one_level():
    assert len(set(LEVELS)) == len(LEVELS)
    there = {room(name) for name in modules()} - {"__init__"}
    assert there == set(LEVELS)


def test_imports_point_down():
    level = {name: number for number, name in enumerate(LEVELS)}
    arrows = rooms({name: targets for name, targets in graph().items() if name != "__init__"})
    upward = {f"{a} -> {b}": files for (a, b), files in arrows.items() if level[a] <= level[b]}
    assert not upward
    assert not [f"{a} -> {b}" for a, b in arrows if b in APART.get(a, ())]
    from_the_package = {room(target) for target in graph()["__init__"]}
    assert from_the_package <= {"functional", "objectives", "plugin", "hf", "models"}  # each at its first use

    print(f"\n{len(LEVELS)} rooms at the top, {len(arrows)} arrows, upward imports {len(upward)}")
    for name in reversed(LEVELS):
        below = sorted((b for a, b in arrows if a == name), key=level.get, reverse=True)
        print(
            f"{level[name] + 1:3}  {name:12} -> {', '.join(f'{b} {len(arrows[name, b])}' for b in below) or 'nothing'}"
        )
        if name == TRAINER[0]:
            print("     -- the trainer above, the plug-in below --")


def test_nothing_runs_in_a_circle():
    edges = graph()
    assert circles(edges) == []
    # nor among the folders and files that lie side by side in one folder
    inside = defaultdict(lambda: defaultdict(set))
    for name, targets in edges.items():
        for target in targets:
            a, b = name.split("."), target.split(".")
            shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
            if shared is not None:
                inside[".".join(a[:shared])][a[shared]].add(b[shared])
    found = {folder or "hardneg_plugin": circles(parts) for folder, parts in inside.items()}
    assert not {folder: circle for folder, circle in found.items() if circle}
    print(f"\ncircles 0 among {len(edges)} files and {len(inside)} folders")


def test_the_plug_in_imports_no_package_of_the_trainer():
    for name, path in modules().items():
        if room(name) in PLUG_IN:
            packages = {module.split(".")[0] for module, _ in imports(path)}
            allowed = {"transformers"} if room(name) == "hf" else set()
            assert not (packages & OF_THE_TRAINER) - allowed, name


def test_the_unit_tests_mirror_the_tree():
    folders = {path.relative_to(SOURCE).parent for path in SOURCE.rglob("*.py")}
    for path in (ROOT / "tests" / "unit").rglob("test_*.py"):
        assert path.parent.relative_to(ROOT / "tests" / "unit") in folders, path
