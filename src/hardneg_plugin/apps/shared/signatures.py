"""What a `_target_` accepts, read from its source: to import torch and Lightning for it would take seconds."""

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hardneg_plugin.apps.shared.kinds import ANY, OBJECT, PLAIN, Kind, choice, list_of, mapping_of

DEEPEST = 12
"""Imports and aliases that are followed from one name."""
LISTS = {"list", "List", "Sequence", "Iterable", "Collection", "set", "frozenset"}
MAPPINGS = {"dict", "Dict", "Mapping", "MutableMapping"}
OBJECTS = {"Callable", "Tensor", "Module"}


@dataclass(frozen=True)
class Signature:
    """The arguments of a function or constructor.

    Args:
        name: as in its source.
        arguments: for each argument the kinds of value that its annotation allows.
        is_open: whether it takes arguments of other names.
    """

    name: str
    arguments: Mapping[str, tuple[Kind, ...]]
    is_open: bool


@cache
def signature_of(target: str) -> Signature | None:
    """The signature of what a `_target_` names; None where its source cannot be read.

    >>> signature_of("hardneg_plugin.functional.hardening.Arc").arguments["margin"]
    (Kind(name='float', choice=None, items=(), length=None),)
    """
    found = _find(target)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.FunctionDef):
        decorators = {_dotted(decorator) for decorator in node.decorator_list}
        return _of_function(module, node, is_bound="classmethod" in decorators)
    return _of_class(module, node) if isinstance(node, ast.ClassDef) else None


class _Module:
    """The names that a source file defines or imports at its top level."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.defined: dict[str, ast.stmt] = {}
        self.imported: dict[str, str] = {}
        for node in _top_level(ast.parse(path.read_bytes())):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                self.defined[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.defined[node.targets[0].id] = node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self.defined[node.target.id] = node
            elif isinstance(node, ast.Import):
                self.imported |= {a.asname or a.name.split(".")[0]: a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = self.package.rsplit(".", node.level - 1)[0] if node.level else ""
                origin = ".".join(part for part in (above, node.module) if part)
                self.imported |= {a.asname or a.name: f"{origin}.{a.name}" for a in node.names}


def _top_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements of a module, those within `if` and `try` included."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _top_level(node)


@cache
def _read(name: str) -> _Module | None:
    path = _file_of(name)
    try:
        return None if path is None else _Module(name, path)
    except (OSError, SyntaxError, ValueError):
        return None


def _file_of(name: str) -> Path | None:
    """The source of a module; of its packages only the first is looked for, and none is imported."""
    first, *below = name.split(".")
    try:
        found = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if found is None or found.origin is None:
        return None
    if not found.submodule_search_locations:
        return None if below or not found.origin.endswith(".py") else Path(found.origin)
    for folder in found.submodule_search_locations:
        place = Path(folder, *below)
        for path in (place / "__init__.py", place.with_suffix(".py")):
            if path.is_file():
                return path
    return None


def _find(name: str, depth: int = 0) -> tuple[_Module, ast.stmt] | None:
    """The statement that defines a dotted name, followed through imports."""
    if depth > DEEPEST:
        return None
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = _read(".".join(parts[:cut]))
        if module is None:
            continue
        member, *below = parts[cut:]
        if member in module.imported and member not in module.defined:
            return _find(".".join([module.imported[member], *below]), depth + 1)
        node = module.defined.get(member)
        for attribute in below:
            body = node.body if isinstance(node, ast.ClassDef) else []
            node = next((inner for inner in body if getattr(inner, "name", None) == attribute), None)
        return None if node is None else (module, node)
    return None


def _of_class(module: _Module, node: ast.ClassDef, depth: int = 0) -> Signature | None:
    """Of `__init__`, with the arguments of bases that it hands on; or of the fields of a dataclass."""
    own = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if own is not None:
        signature = _of_function(module, own, is_bound=True, name=node.name)
        if not signature.is_open:
            return signature
        arguments, is_open = dict(signature.arguments), True
    else:
        is_dataclass = any(_dotted(d).endswith("dataclass") for d in node.decorator_list)
        of_class = {
            f.target.id: _kinds(f.annotation, module)
            for f in node.body
            if is_dataclass and isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)
            if "ClassVar" not in ast.unparse(f.annotation)
        }
        arguments, is_open = of_class, False
    for base in node.bases:
        name = _dotted(base.value if isinstance(base, ast.Subscript) else base)
        if name.split(".")[-1] in ("object", "ABC", "Protocol", "Generic", "Module", "Callback"):
            continue
        found = _find(_full(name, module)) if depth < DEEPEST else None
        inherited = (
            _of_class(found[0], found[1], depth + 1)
            if found is not None and isinstance(found[1], ast.ClassDef)
            else None
        )
        if inherited is None:
            is_open = True
        else:
            arguments = {**inherited.arguments, **arguments}
            is_open = is_open or inherited.is_open
    return Signature(node.name, arguments, is_open)


def _of_function(module: _Module, node: ast.FunctionDef, *, is_bound: bool, name: str | None = None) -> Signature:
    every = [*node.args.posonlyargs, *node.args.args][1 if is_bound else 0 :] + node.args.kwonlyargs
    arguments = {a.arg: (ANY,) if a.annotation is None else _kinds(a.annotation, module) for a in every}
    return Signature(name or node.name, arguments, node.args.kwarg is not None)


def _kinds(annotation: ast.expr, module: _Module, depth: int = 0) -> tuple[Kind, ...]:
    """The kinds of value that an annotation allows."""
    if isinstance(annotation, ast.Constant):
        if annotation.value is None:
            return (PLAIN["None"],)
        if isinstance(annotation.value, str):
            return _kinds(ast.parse(annotation.value, mode="eval").body, module, depth)
        return (ANY,)
    if isinstance(annotation, ast.BinOp):
        return _kinds(annotation.left, module, depth) + _kinds(annotation.right, module, depth)
    if isinstance(annotation, ast.Subscript):
        return _of_generic(annotation, module, depth)
    return _of_name(_dotted(annotation), module, depth)


def _of_generic(annotation: ast.Subscript, module: _Module, depth: int) -> tuple[Kind, ...]:
    name = _dotted(annotation.value).split(".")[-1]
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    if name == "Literal":
        return tuple(choice(value.value) for value in inner if isinstance(value, ast.Constant))
    if name == "Union":
        return tuple(kind for part in inner for kind in _kinds(part, module, depth))
    if name == "Optional":
        return (*_kinds(inner[0], module, depth), PLAIN["None"])
    if name in LISTS:
        return (list_of(_kinds(inner[0], module, depth)),)
    if name in ("tuple", "Tuple"):
        is_open = len(inner) == 2 and isinstance(inner[1], ast.Constant) and inner[1].value is ...
        return (list_of(_kinds(inner[0], module, depth), None if is_open else len(inner)),)
    if name in MAPPINGS:
        return (mapping_of(_kinds(inner[-1], module, depth)),)
    if name == "Annotated":
        return _kinds(inner[0], module, depth)
    return (OBJECT,)


def _of_name(name: str, module: _Module, depth: int) -> tuple[Kind, ...]:
    last = name.split(".")[-1]
    if last in PLAIN:
        return (PLAIN[last],)
    if last in LISTS or last in ("tuple", "Tuple"):
        return (list_of((ANY,)),)
    if last in MAPPINGS:
        return (mapping_of((ANY,)),)
    if last in OBJECTS:
        return (OBJECT,)
    found = _find(_full(name, module)) if name and last != "Any" and depth < DEEPEST else None
    if found is not None and isinstance(found[1], ast.ClassDef):
        return (OBJECT,)
    if found is not None and isinstance(found[1], ast.Assign | ast.AnnAssign) and found[1].value is not None:
        if isinstance(found[1].value, ast.Call):  # a TypeVar or a NewType
            return (ANY,)
        return _kinds(found[1].value, found[0], depth + 1)
    return (ANY,)


def _full(name: str, module: _Module) -> str:
    """A name of a module with where it comes from."""
    first, _, below = name.partition(".")
    if first in module.imported and first not in module.defined:
        return ".".join(part for part in (module.imported[first], below) if part)
    return f"{module.name}.{name}"


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
