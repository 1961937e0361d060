"""A table of the places that a host offers to `plug_in`, from one step of it."""

import dataclasses
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.plugin.feature_pooling import kind_of
from hardneg_plugin.plugin.undisturbed import one_step, undisturbed

_ALIKE = 3
"""From this number on, the last of several elements of one kind stands for all; of blocks with modules inside, from two on."""
_DEPTH = 3
"""How many keys deep outputs and batches are listed."""
_PER = {2: "per study", 3: "per position", 4: "per cell of a map"}
_SEVERAL = 'Several calls: Feature(path, calls="mean"), calls="last", calls="stack" or the number of a call.'


def describe(host: nn.Module, batch: Any) -> str:
    """The places that a host offers to `plug_in`, as a table to print.

    One step runs, with a graph but without a backward pass, and leaves the host and the random generators as they were. For each
    module that it calls, for what `training_step` returns and for the batch, the table has the path, the number of calls, the
    shapes, whether there is a gradient, and whether there is a vector per study or per position. A tensor `(B, T)` without
    gradient whose values are 0 and 1 is a mask. Of layers that repeat it has the last, without what is inside; of modules that
    return the same tensor, the one with the shortest path.

    Shapes are all there is to tell studies from positions: a line below the table says so where a batch has as many of both.

    Args:
        host: a LightningModule, plugged in or not; or any other module, which is called with the batch.
        batch: of B studies, as the step gets it, on the host's device.

    Raises:
        UserError: the step fails before any module is called. If it fails later, the table says so.

    >>> host = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))
    >>> print(describe(host, torch.zeros(2, 5, 4)))
    Sequential, a step with 2 studies:
    path     calls  shape      gradient
    0        1      (2, 5, 8)  yes       per position
    1        1      (2, 5, 3)  yes       per position
    outputs         (2, 5, 3)  yes       per position
    batch           (2, 5, 4)  no        per position
    """
    if not isinstance(host, nn.Module):
        raise UserError(f"describe takes a module, but got {kind_of(host)}: pass an instance of the host.")
    looks, recent = [], _Recent()
    outputs, failure = None, None
    with undisturbed(host), torch.enable_grad():
        handles = []
        for path, module, note in _shown(host):
            looks.append(_Look(path, note, recent))
            handles.append(module.register_forward_hook(looks[-1]))
        try:
            outputs = one_step(host, batch)
        except Exception as error:  # whatever a host raises outside a trainer
            failure = error
        finally:
            for handle in handles:
                handle.remove()
        returned = [_Place(path, leaf) for path, leaf in _leaves(outputs, "outputs")]
    looks = [look for look in looks if look.calls]
    if failure is not None and not looks:
        raise UserError(
            f"describe: the step of {type(host).__name__} failed before it called a module: {first_line(failure)}. Pass a batch as "
            "its training_step gets it, on its device, and make its modules first where setup or configure_model makes them."
        ) from failure
    given = [_Place(path, leaf) for path, leaf in _leaves(batch, "batch")]
    of_modules = [place for look in looks for place in look.calls]
    sizes = Counter(place.shape[0] for place in given or of_modules if place.shape)
    studies = max(sizes, key=lambda size: sizes[size]) if sizes else 0
    rows = [row for look in looks if not look.is_alias for row in look.rows(studies)]
    rows += [place.row("") for place in (*returned, *given) if place.is_of(studies)]
    lines = [f"{type(host).__name__}, a step with {studies} studies:", *_table(rows)]
    others = [place for place in of_modules if place.is_float and len(place.shape) > 1 and not place.is_of(studies)]
    if others:
        lines.append(f"Further modules return tensors whose first size is not {studies}, as {others[0]}.")
    if any(row[1] not in ("", "1") for row in rows):
        lines.append(_SEVERAL)
    if studies == 1:
        lines.append(
            "The batch has one study, and other first sizes of 1 look alike: pass a batch of several studies to tell."
        )
    elif any(row[4].startswith(_PER[2]) for row in rows):
        lines += _doubt(studies, [*of_modules, *returned, *given])
    if failure is not None:
        lines.append(f"The step failed after these calls. {type(failure).__name__}: {first_line(failure)}.")
    return "\n".join(lines)


class _Place:
    """What can be said of a tensor or of a list of identities, without keeping it."""

    def __init__(self, path: str, value: Any) -> None:
        self.path = path
        self.shape: tuple[int, ...] = tuple(value.shape) if isinstance(value, Tensor) else (len(value),)
        self.is_float = isinstance(value, Tensor) and value.is_floating_point()
        self.gradient = isinstance(value, Tensor) and value.requires_grad
        self.dtype = str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value[0]).__name__
        self.is_mask = isinstance(value, Tensor) and value.ndim == 2 and not self.gradient and _is_0_1(value)

    def __str__(self) -> str:
        return f"{self.path} {self.shape}"

    def is_of(self, studies: int) -> bool:
        """Whether it has one entry for each study."""
        ranks = (2, 3, 4) if self.is_float else (1, 2)
        return len(self.shape) in ranks and self.shape[0] == studies

    def row(self, calls: str) -> tuple[str, ...]:
        """The columns of the table."""
        if self.is_mask:
            what = "mask"
        elif self.is_float:
            what = _PER[len(self.shape)]
        else:
            what = "identities" if len(self.shape) == 1 else "token ids"
        shape = f"{self.shape}" if self.is_float and not self.is_mask else f"{self.shape} {self.dtype}"
        return self.path, calls, shape, "yes" if self.gradient else "no", what

    def inner_sizes(self) -> tuple[int, ...]:
        """Sizes that could be a number of positions."""
        of_positions = len(self.shape) == 3 or not self.is_float or self.is_mask
        return self.shape[1:2] if of_positions else ()


class _Recent:
    """Which module returned a tensor that is still there."""

    def __init__(self) -> None:
        self._looks: dict[int, tuple[weakref.ref[Tensor], _Look]] = {}

    def swap(self, tensor: Tensor, look: "_Look") -> "_Look | None":
        """Note the module with the shortest path for a tensor; returns the one that gives way."""
        reference, earlier = self._looks.get(id(tensor), (None, None))
        if reference is None or earlier is None or reference() is not tensor:
            self._looks[id(tensor)] = weakref.ref(tensor), look
            return None
        if len(earlier.path) <= len(look.path):
            return look
        self._looks[id(tensor)] = weakref.ref(tensor), look
        return earlier


class _Look:
    """A forward hook that notes what a module returns."""

    def __init__(self, path: str, note: str, recent: _Recent) -> None:
        self.path, self.note, self.recent = path, note, recent
        self.count = 0
        self.calls: list[_Place] = []
        self.is_alias = False

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.count += 1
        self.calls += [_Place(path, leaf) for path, leaf in _leaves(output, self.path)]
        if isinstance(output, Tensor) and (alias := self.recent.swap(output, self)) is not None:
            alias.is_alias = True

    def rows(self, studies: int) -> Iterator[tuple[str, ...]]:
        """A row for each feature and mask of the output that has an entry for each study."""
        for path in dict.fromkeys(place.path for place in self.calls):
            every = [place for place in self.calls if place.path == path]
            places = [place for place in every if place.is_of(studies) and (place.is_float or place.is_mask)]
            if not places:
                continue
            _, calls, shape, gradient, what = places[-1].row(str(self.count))
            shapes = list(dict.fromkeys(str(place.shape) for place in places))
            shape = shape if len(shapes) == 1 else f"{shapes[0]} ... {shapes[-1]}"
            some = "" if len(places) == len(every) else f", in {len(places)} of {len(every)} calls"
            yield path, calls, shape, gradient, f"{what}{some}{self.note}"


def _shown(host: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """By path, the modules of a host that the table has, with what it adds to their row."""

    def walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module, str]]:
        alike = Counter(type(child) for child in module.children())
        children = dict(module.named_children())
        last = {type(child): name for name, child in children.items()}
        for name, child in children.items():
            enough = _ALIKE if next(child.children(), None) is None else 2
            repeats = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict) and alike[type(child)] >= enough
            if repeats and last[type(child)] != name:
                continue
            path = prefix if name == "_orig_mod" else f"{prefix}.{name}".lstrip(".")
            yield path, child, f", the last of {alike[type(child)]} alike" if repeats else ""
            if not repeats:
                yield from walk(child, path)

    yield from (entry for entry in walk(host, "") if entry[0].split(".")[0] not in ("", "hard_negatives"))


def _is_0_1(value: Tensor) -> bool:
    """Whether a tensor holds no other numbers, and a 1."""
    return value.dtype == torch.bool or bool(((value == 0) | (value == 1)).all() and value.any())


def _doubt(studies: int, places: Sequence[_Place]) -> Iterator[str]:
    """A line where a number of positions is that of the studies."""
    alike = next((place for place in places if studies in place.inner_sizes()), None)
    if alike is not None:
        yield (
            f"{studies} is the number of studies and of positions in {alike}: what is per study here may be per position of one "
            "study. Pass a batch of another size to tell."
        )


def _leaves(value: Any, path: str, depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """Tensors and lists of identities in a value, by their paths."""
    if isinstance(value, Tensor) or (
        isinstance(value, Sequence)
        and value
        and not isinstance(value, str)
        and all(isinstance(one, str | int) for one in value)
    ):
        yield path, value
    elif depth:
        for key, one in _entries(value, depth):
            if "." not in key:
                yield from _leaves(one, f"{path}.{key}", depth - 1)


def _entries(value: Any, depth: int) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(key), one) for key, one in value.items()]
    if hasattr(value, "_fields"):
        return [(name, getattr(value, name)) for name in value._fields]
    if isinstance(value, list | tuple):
        shapes = [one.shape for one in value if isinstance(one, Tensor)]
        if len(shapes) == len(value) >= _ALIKE and len(set(shapes)) == 1:
            return [("-1", value[-1])]
        return [(str(i), one) for i, one in enumerate(value)]
    of_a_whole = dataclasses.is_dataclass(value) or depth == _DEPTH
    return [(name, one) for name, one in getattr(value, "__dict__", {}).items() if name[0] != "_"] if of_a_whole else []


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    table = [("path", "calls", "shape", "gradient", ""), *rows]
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
