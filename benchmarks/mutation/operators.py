"""The mutants of a module: its source with one small fault each.

Operators are mutmut's, but for those whose mutants nearly always raise at once (None assigned, an argument replaced by None) or
change a text that only people read. Added: a condition forced, an operand dropped, a call left out, a copy left out.
What a CPU can't tell is left out, such as `device=`.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst as cst
from libcst.metadata import ByteSpanPositionProvider, MetadataWrapper
from mutmut.mutation import mutators

SILENT = {"device", "stacklevel", "non_blocking", "pin_memory", "strict"}
"""Keyword arguments that change nothing that a test on a CPU sees, and `strict=`, where lengths agree unless there is a bug."""
TEXTS = {"warn", "warn_on_first_rank", "UserError", "ValueError", "TypeError", "cast", "TypeVar", "getLogger"}
"""Calls whose arguments are left alone: messages and types."""
COPIES = {"clone", "detach", "copy", "abs"}
"""Methods that are left out in a mutant."""


@dataclass(frozen=True)
class Mutant:
    """A module with one fault."""

    path: str
    """Of the module, below the package."""
    function: str
    """The outermost function that has the fault, as `Class.method`; empty in bodies of modules and classes."""
    line: int
    operator: str
    before: str
    after: str
    source: str
    """Of the whole module with the fault."""
    key: str
    """The same in each run as long as function and fault are."""
    function_hash: str


def mutants_of(package: Path, path: str) -> list[Mutant]:
    """All mutants of a module.

    Args:
        package: folder of the package.
        path: of the module, below it.
    """
    source = (package / path).read_text(encoding="utf-8")
    wrapper = MetadataWrapper(cst.parse_module(source), unsafe_skip_copy=True)
    finder = _Finder()
    wrapper.visit(finder)
    found, seen, times = [], {source}, Counter[tuple[str, ...]]()
    for site in finder.sites:
        mutated = _replaced(source.encode(), wrapper.module, site)
        if mutated in seen or not _compiles(mutated):
            continue
        seen.add(mutated)
        before, after = _changed(source, mutated)
        name = (path, site.function, site.operator, before, after)
        times[name] += 1
        key = hashlib.sha1("\0".join([*name, str(times[name])]).encode()).hexdigest()[:12]
        text = wrapper.module.code_for_node(site.outermost) if site.outermost else source
        function_hash = hashlib.sha1(text.encode()).hexdigest()[:12]
        found.append(
            Mutant(path, site.function, _line(source, site), site.operator, before, after, mutated, key, function_hash)
        )
    return found


def _replaced(source: bytes, module: cst.Module, site: "_Site") -> str:
    code = module.code_for_node(site.replacement).encode()  # with its parentheses, around which are those of the node
    return (source[: site.start] + code + source[site.start + site.length :]).decode()


def _line(source: str, site: "_Site") -> int:
    return source.encode()[: site.start].count(b"\n") + 1


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _changed(source: str, mutated: str) -> tuple[str, str]:
    """The lines that differ, before and after."""
    old, new = source.splitlines(), mutated.splitlines()
    start = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    end = next((i for i, (a, b) in enumerate(zip(old[::-1], new[::-1], strict=False)) if a != b), 0)
    return tuple(" ".join(" ".join(lines[start : len(lines) - end]).split()) for lines in (old, new))  # type: ignore


@dataclass
class _Site:
    node: cst.CSTNode
    replacement: cst.CSTNode
    operator: str
    function: str
    outermost: cst.FunctionDef | None
    start: int
    length: int


class _Finder(cst.CSTVisitor):
    """Collects what can be replaced, with its function."""

    METADATA_DEPENDENCIES = (ByteSpanPositionProvider,)

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[_Site] = []
        self._scopes: list[cst.FunctionDef | cst.ClassDef] = []
        self._left_alone: set[int] = set()

    def on_visit(self, node: cst.CSTNode) -> bool:
        if id(node) in self._left_alone or isinstance(
            node,
            cst.Annotation | cst.Decorator | cst.Import | cst.ImportFrom | cst.Raise | cst.Assert | cst.FormattedString,
        ):
            return False
        if isinstance(node, cst.Call):
            name = _called(node)
            if name in TEXTS:
                return False
            silent = [argument for argument in node.args if argument.keyword and argument.keyword.value in SILENT]
            self._left_alone |= {id(argument) for argument in silent}
            if name == "require":  # what follows the condition is the message
                self._left_alone |= {id(argument) for argument in node.args[1:]}
        for name, operator in OPERATORS:
            place = node.test if isinstance(node, cst.If) else node
            for replacement in operator(node):
                function, outermost = self._function(node)
                span = self.get_metadata(ByteSpanPositionProvider, place)
                self.sites.append(_Site(place, replacement, name, function, outermost, span.start, span.length))
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._scopes.append(node)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if self._scopes and self._scopes[-1] is original_node:
            self._scopes.pop()

    def _function(self, node: cst.CSTNode) -> tuple[str, cst.FunctionDef | None]:
        names = []
        for scope in self._scopes:
            names.append(scope.name.value)
            if isinstance(scope, cst.FunctionDef):
                defaults = _contains(scope.params, node)  # run where the function is defined
                return ("", None) if defaults else (".".join(names), scope)
        return "", None


def _contains(tree: cst.CSTNode, node: cst.CSTNode) -> bool:
    return tree is node or any(_contains(child, node) for child in tree.children)


def _called(call: cst.Call) -> str:
    function = call.func
    return function.attr.value if isinstance(function, cst.Attribute) else getattr(function, "value", "")


def _dropped_argument(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`f(a, b=c)` -> `f(a)`; the last of several positional ones."""
    if not isinstance(node, cst.Call):
        return
    for i, argument in enumerate(node.args):
        keyword = argument.keyword and argument.keyword.value
        is_last = i == len(node.args) - 1 and i > 0
        if keyword in SILENT or argument.star == "*" or not (keyword or argument.star or is_last):
            continue
        yield node.with_changes(args=[*node.args[:i], *node.args[i + 1 :]])


def _dropped_operand(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`a & b` -> `a`, `b`; `a + b` -> `a`."""
    if isinstance(node, cst.BooleanOperation):
        yield from (node.left, node.right)
    elif isinstance(node, cst.BinaryOperation):
        yield node.left
        if isinstance(node.operator, cst.BitAnd | cst.BitOr):
            yield node.right


def _forced_condition(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`if a:` -> `if True:`, `if False:`."""
    if isinstance(node, cst.If):
        for value in ("True", "False"):
            yield cst.Name(value)


def _dropped_statement(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """A call whose value is not used -> nothing."""
    if isinstance(node, cst.Expr) and isinstance(node.value, cst.Call):
        yield cst.Expr(cst.Name("None"))


def _dropped_copy(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """`a.clone()` -> `a`."""
    if (
        isinstance(node, cst.Call)
        and not node.args
        and _called(node) in COPIES
        and isinstance(node.func, cst.Attribute)
    ):
        yield node.func.value


def _of_mutmut(
    kind: type, operator: Callable[..., Iterable[cst.CSTNode]]
) -> Callable[[cst.CSTNode], Iterable[cst.CSTNode]]:
    def mutants(node: cst.CSTNode) -> Iterable[cst.CSTNode]:
        return operator(node) if isinstance(node, kind) and not _is_negative_integer(node) else ()

    return mutants


def _is_negative_integer(node: cst.CSTNode) -> bool:
    """`-1` is a dimension as a rule: its number is changed anyway, and +1 is the same one of two."""
    return isinstance(node, cst.UnaryOperation) and isinstance(node.expression, cst.Integer)


OPERATORS: list[tuple[str, Callable[[cst.CSTNode], Iterable[cst.CSTNode]]]] = [
    *(
        (operator.__name__.removeprefix("operator_"), _of_mutmut(kind, operator))
        for kind, operator in mutators.mutation_operators
        if operator.__name__.removeprefix("operator_") not in ("string", "assignment", "arg_removal", "lambda", "match")
    ),
    ("dropped argument", _dropped_argument),
    ("dropped operand", _dropped_operand),
    ("forced condition", _forced_condition),
    ("dropped statement", _dropped_statement),
    ("dropped copy", _dropped_copy),
]
