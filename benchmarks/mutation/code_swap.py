"""A fault put into functions that are already imported: their code objects are replaced."""

import gc
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType


class CannotSwap(Exception):
    """The fault needs the module to be imported anew."""


def codes_by_path(code: CodeType) -> dict[tuple[str, ...], CodeType]:
    """The code objects below one, by their names from the outermost on; a name that is there again is numbered.

    Args:
        code: of a module.
    """

    def below(code: CodeType, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], CodeType]]:
        times: dict[str, int] = {}
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                times[inner.co_name] = times.get(inner.co_name, 0) + 1
                number = times[inner.co_name]
                deeper = (*path, inner.co_name if number == 1 else f"{inner.co_name}#{number}")
                yield deeper, inner
                yield from below(inner, deeper)

    return dict(below(code, ()))


class ImportedModule:
    """The functions of a module as they are, and what replaces them.

    Args:
        file: of the module.
    """

    def __init__(self, file: Path) -> None:
        self.file = str(file)
        self.codes = codes_by_path(compile(file.read_text(encoding="utf-8"), self.file, "exec"))
        self.functions: dict[CodeType, list[FunctionType]] = {}

    def find(self, functions: list[FunctionType]) -> None:
        """Note the functions of this module.

        Args:
            functions: all that there are.
        """
        for function in functions:
            if function.__code__.co_filename == self.file:
                self.functions.setdefault(function.__code__, []).append(function)

    def function_of(self, code: CodeType) -> str:
        """The name of the outermost function that a code object belongs to; empty for bodies of modules and classes."""
        for path, known in self.codes.items():
            if known == code:
                return self._outermost(path)
        return ""

    def swap(self, source: str, function: str) -> None:
        """Replace the code of a function and of what is defined in it.

        Args:
            source: of the module with a fault.
            function: as `Class.method`.

        Raises:
            CannotSwap: nothing of that name is alive, or its closure differs.
        """
        mutated = codes_by_path(compile(source, self.file, "exec"))
        swapped = False
        for path, code in self.codes.items():
            if self._outermost(path) != function:
                continue
            new = mutated.get(path)
            for alive in self.functions.get(code, []):
                if new is None or new.co_freevars != code.co_freevars:
                    raise CannotSwap
                alive.__code__ = new
                swapped = True
        if not swapped:
            raise CannotSwap

    def _outermost(self, path: tuple[str, ...]) -> str:
        for length in range(1, len(path) + 1):
            code = self.codes[path[:length]]
            if code.co_flags & 2:  # CO_NEWLOCALS: a function's, no class's
                return ".".join(name.split("#")[0] for name in path[:length])
        return ""


def all_functions() -> list[FunctionType]:
    """Every Python function that is alive."""
    return [found for found in gc.get_objects() if type(found) is FunctionType]
