"""Files of tensors, read without running code from them, and without more memory than they have bytes."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin.errors import UserError

MAX_DIRECTORY = 2**24
"""Bytes of a file's list of what it holds; a model of ten thousand tensors has less than a tenth."""
MAX_VALUES = 2_000_000
"""Values of what is unpickled, counted as often as they are referred to."""
_SMALL = 2**26
"""Bytes up to which a tensor may be larger than what is stored of it, as an expanded buffer is."""
_END, _END64 = b"PK\5\6", b"PK\6\6"
_AGAIN = "Do not use it, or save it again with torch.save where it was made."


def read_tensors(path: Path, *, map_location: str = "cpu", mmap: bool = False) -> Any:
    """What `torch.save` wrote: tensors and plain values.

    Args:
        path: the file.
        map_location, mmap: as of `torch.load`.

    Raises:
        UserError: it would become larger than it is: it is compressed, or refers to the same values over and over.
        Exception: whatever `torch.load` raises of a broken file, or of one that holds more than tensors and plain values.
    """
    check_tensor_file(path)
    content = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    check_values(content, path)
    return content


def check_tensor_file(path: Path) -> None:
    """Refuse a file that becomes larger when it is read: `torch.save` compresses nothing.

    Args:
        path: the file; one of another kind than `torch.save` writes today passes.

    Raises:
        UserError: with what is wrong.
        OSError, zipfile.BadZipFile: it cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    if (size := _directory_size(path)) > MAX_DIRECTORY:
        raise UserError(f"{path}: expected the weights of a model, but it lists {size:,} bytes of names. {_AGAIN}")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise UserError(
                f"{path}: expected weights as torch.save writes them, but {entry.filename!r} is compressed. {_AGAIN}"
            )
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UserError(f"{path}: expected weights as torch.save writes them, but its parts overlap. {_AGAIN}")


def _directory_size(path: Path) -> int:
    """Bytes of the central directory of a zip file, by its end."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16 - 200))
        end = file.read()
    place, place64 = end.rfind(_END), end.rfind(_END64)
    size = int.from_bytes(end[place + 12 : place + 16], "little") if place >= 0 else 0
    return max(
        size if size < 2**32 - 1 else 0,
        int.from_bytes(end[place64 + 40 : place64 + 48], "little") if place64 >= 0 else 0,
    )


def check_values(content: Any, path: Path) -> None:
    """Refuse values that would take much more memory once they are copied.

    Args:
        content: what was unpickled.
        path: of the file, for the message.

    Raises:
        UserError: it holds more than `MAX_VALUES` values, or a tensor that is much larger than what is stored of it.
    """
    left, waiting = MAX_VALUES, [iter((content,))]
    while waiting:
        for value in waiting[-1]:
            left -= 1
            if isinstance(value, Tensor):
                _check_stored(value, path)
            elif isinstance(value, Mapping):
                waiting.append(iter(value.values()))
                break
            elif isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes | bytearray):
                waiting.append(iter(value))
                break
        else:
            waiting.pop()
        if left < 0:
            raise UserError(
                f"{path}: expected at most {MAX_VALUES:,} values, but it refers to more, or to itself. {_AGAIN}"
            )


def _check_stored(tensor: Tensor, path: Path) -> None:
    size = tensor.numel() * tensor.element_size()
    if tensor.layout == torch.strided and size > _SMALL and size > tensor.untyped_storage().nbytes():
        raise UserError(f"{path}: expected whole tensors, but one of {size:,} bytes has fewer stored. {_AGAIN}")
