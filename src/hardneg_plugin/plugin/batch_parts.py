"""A batch in parts by study, and the outputs of parts as those of one batch."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hardneg_plugin.errors import UserError

Chunks = int | Callable[[Any], Sequence[Any]]
"""Into how many parts a batch is split, or a callable from the batch to its parts."""


def split(batch: Any, chunks: Chunks) -> list[Any]:
    """A batch in parts of equal size; the last may be smaller.

    Tensors, arrays and lists with an entry per study are cut along their first dimension, at any depth of mappings, sequences,
    named tuples and dataclasses. What has no studies goes to every part: scalars, tensors without dimensions, strings, None, empty
    lists and objects of other classes. A sequence whose members all have B rows is a collection of such members; another one of
    length B has an entry per study, and so have several records with a text or a number each.

    Args:
        batch: of B studies.
        chunks: the number of parts, at most B of them; or a callable from the batch to its parts.

    Returns:
        The parts, of the batch's classes; `[batch]` where there is one part.

    Raises:
        UserError: entries with different numbers of studies, or none that has studies.

    >>> split({"images": torch.zeros(5, 3), "ids": ["a", "b", "c", "d", "e"], "scale": 0.5}, 2)[1]
    {'images': tensor([[0., 0., 0.],
            [0., 0., 0.]]), 'ids': ['d', 'e'], 'scale': 0.5}
    """
    if callable(chunks):
        return list(chunks(batch))
    return cut(batch, max(1, -(-count_studies(batch) // chunks)))


def cut(batch: Any, size: int) -> list[Any]:
    """A batch in parts of `size` studies; the last may be smaller.

    Args:
        batch: as of `split`.
        size: a positive integer.

    Raises:
        UserError: as of `split`.
    """
    studies = count_studies(batch)
    return [_rows(batch, slice(start, start + size), studies) for start in range(0, studies, size)] or [batch]


def count_studies(batch: Any) -> int:
    """The number of studies in a batch.

    Raises:
        UserError: entries with different numbers of studies, or none that has studies.
    """
    sizes = _sizes(batch)
    if not sizes:
        raise UserError(f"chunks: {_reason(batch)} {_REMEDY}")
    return sizes[0]


def join(values: Sequence[Any], sizes: Sequence[int], weights: Sequence[Any]) -> Any:
    """What a step on a whole batch would have returned, from what it returned for each part.

    Entries per study are concatenated; where other dimensions differ, they are padded with zeros at their end. Floating-point
    scalars give their weighted mean. What is equal in all parts stays. Anything else becomes the list of the parts' values.

    Args:
        values: by part.
        sizes: number of studies of each part.
        weights: of the parts in a mean.

    >>> join([{"loss": torch.tensor(1.0), "ids": ["a", "b"]}, {"loss": torch.tensor(4.0), "ids": ["c"]}], [2, 1], [2, 1])
    {'loss': tensor(2.), 'ids': ['a', 'b', 'c']}
    """
    first = values[0]
    if any(type(value) is not type(first) for value in values):
        return list(values)
    if isinstance(first, Tensor | np.ndarray):
        return _join_arrays(values, sizes, weights)
    members = [dict(_members(value)) for value in values]
    if _is_record(first) and all(part.keys() == members[0].keys() for part in members):
        return _rebuilt(first, {key: join([part[key] for part in members], sizes, weights) for key in members[0]})
    if isinstance(first, list | tuple) and any(map(len, values)):
        if all(_is_collection(value, size) for value, size in zip(values, sizes, strict=True)):
            if len({len(value) for value in values}) == 1:
                return type(first)(join(entries, sizes, weights) for entries in zip(*values, strict=True))
        elif all(len(value) == size for value, size in zip(values, sizes, strict=True)):
            return type(first)(entry for value in values for entry in value)
        return list(values)
    if isinstance(first, float):
        # by tensors, which divide by zero
        return float(weighted_mean([torch.tensor(value, dtype=torch.float64) for value in values], weights))
    return first if all(_is_same(value, first) for value in values) else list(values)


def cat_padded(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other, padded with zeros at the end of other dimensions to the longest.

    >>> cat_padded([torch.ones(1, 2), torch.ones(1, 3)])
    tensor([[1., 1., 0.],
            [1., 1., 1.]])
    """
    longest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]

    def padded(tensor: Tensor) -> Tensor:
        missing = [long - size for long, size in zip(longest, tensor.shape[1:], strict=True)]
        edges = [edge for size in reversed(missing) for edge in (0, size)]  # from the last dimension
        return F.pad(tensor, edges) if any(edges) else tensor

    return torch.cat([padded(tensor) for tensor in tensors])


def weighted_mean(values: Sequence[Any], weights: Sequence[Any]) -> Any:
    """`Σ w v / Σ w`.

    Args:
        values: numbers, or tensors of one shape.
        weights: of as many.
    """
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a batch, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif _is_record(value) or isinstance(value, list | tuple):
        for _, member in _members(value):
            yield from tensors_in(member)


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A value of the same classes with other tensors, at any depth.

    Args:
        value: tensors, mappings, sequences, named tuples and dataclasses of them; other values stay.
        change: from a tensor to the one in its place.

    >>> map_tensors({"a": torch.ones(2), "b": "text"}, lambda tensor: 2 * tensor)
    {'a': tensor([2., 2.]), 'b': 'text'}
    """
    if isinstance(value, Tensor):
        return change(value)
    if _is_record(value):
        return _rebuilt(value, {key: map_tensors(member, change) for key, member in _members(value)})
    if type(value) in (list, tuple):
        return type(value)(map_tensors(member, change) for member in value)
    return value


_REMEDY = "Pass chunks as a callable from the batch to a list of its parts, if it should be split otherwise."


def _is_same(value: Any, other: Any) -> bool:
    try:
        return value is other or bool(value == other)
    except (TypeError, ValueError, RuntimeError):  # compared element by element
        return False


def _is_record(value: Any) -> bool:
    """Whether a value is a collection of named entries."""
    is_named_tuple = isinstance(value, tuple) and hasattr(value, "_fields")
    return isinstance(value, Mapping) or is_named_tuple or (is_dataclass(value) and not isinstance(value, type))


def _members(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif is_dataclass(value):
        yield from ((field.name, getattr(value, field.name)) for field in fields(value))


def _rebuilt(value: Any, members: dict[Any, Any]) -> Any:
    """A record of the same class with other members."""
    if isinstance(value, tuple):
        return value._make(members.values())  # type: ignore[attr-defined]
    new = copy.copy(value)
    set_member = new.__setitem__ if isinstance(value, Mapping) else partial(object.__setattr__, new)
    for key, member in members.items():
        set_member(key, member)
    return new


def _sizes(value: Any) -> list[int] | None:
    """The numbers of studies that a value may have, the likeliest first; empty where its members disagree, None without any."""
    if isinstance(value, Tensor | np.ndarray):
        return [len(value)] if value.ndim else None
    if _is_record(value):
        return _common(value)
    if not isinstance(value, list | tuple) or isinstance(value, torch.Size) or not value:
        return None
    if len(value) > 1 and all(_is_record(member) and _has_scalars(member) for member in value):
        return [len(value)]
    return list(dict.fromkeys([*(_common(value) or []), len(value)]))


def _has_scalars(record: Any) -> bool:
    """Whether a record has a text or a number of its own, as that of one study has."""
    return any(isinstance(member, str | int | float) for _, member in _members(record))


def _common(value: Any) -> list[int] | None:
    """The numbers of studies that all members of a collection may have."""
    known = [sizes for _, member in _members(value) if (sizes := _sizes(member)) is not None]
    if not known:
        return None
    return [size for size in known[0] if all(size in sizes for sizes in known)]


def _is_collection(value: Any, studies: int) -> bool:
    """Whether each member of a sequence has an entry per study, rather than the sequence itself."""
    return studies in (_sizes(value) or []) and studies in (_common(value) or [])


def _rows(value: Any, rows: slice, studies: int) -> Any:
    sizes = _sizes(value)
    if sizes is None:
        return value
    if _is_record(value):
        return _rebuilt(value, {key: _rows(member, rows, studies) for key, member in _members(value)})
    if isinstance(value, list | tuple) and _is_collection(value, studies):
        return type(value)(_rows(member, rows, studies) for member in value)
    return value[rows]


def _reason(value: Any, place: str = "batch") -> str:
    """Why a value has no number of studies: the first two places that disagree."""
    before: tuple[str, list[int]] | None = None
    for key, member in _members(value):
        where, sizes = f"{place}[{key!r}]", _sizes(member)
        if sizes is None:
            continue
        if not sizes:
            return _reason(member, where)
        if before is not None and not set(sizes) & set(before[1]):
            return (
                f"expected every entry of the batch to have as many studies, but {before[0]} has {before[1][0]} "
                f"and {where} has {sizes[0]}."
            )
        before = before or (where, sizes)
    return f"expected {place} to hold tensors or lists with an entry per study, but found none in a {type(value).__name__}."


def _join_arrays(values: Sequence[Any], sizes: Sequence[int], weights: Sequence[Any]) -> Any:
    ranks = {value.ndim for value in values}
    if len(ranks) > 1:
        return list(values)
    if ranks == {0}:
        if isinstance(values[0], Tensor) and values[0].is_floating_point():
            return weighted_mean(values, weights)
        return values[0] if all(bool(value == values[0]) for value in values) else list(values)
    if any(len(value) != size for value, size in zip(values, sizes, strict=True)):
        return list(values)
    if isinstance(values[0], Tensor):
        return cat_padded(values)
    return np.concatenate(values) if len({value.shape[1:] for value in values}) == 1 else list(values)
