"""Which image files of several splits hold the same bytes, read only where their sizes leave it open."""

import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from hardneg_plugin.data.studies import SplitName

BLOCK = 1 << 20


def file_size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def keys_of_files(
    files: Mapping[SplitName, Sequence[Sequence[Path]]],
) -> dict[SplitName, list[frozenset[Hashable]]]:
    """By split, for each study a key per file: files of two splits have one key if they hold the same bytes.

    Args:
        files: by split those of each study; a file that cannot be read gets no key.
    """
    sizes = {name: [[file_size(path) for path in paths] for paths in studies] for name, studies in files.items()}
    splits_of = Counter(
        size for studies in sizes.values() for size in {size for of_study in studies for size in of_study}
    )
    keys: dict[SplitName, list[frozenset[Hashable]]] = {}
    for name, studies in files.items():
        keys[name] = []
        for paths, of_study in zip(studies, sizes[name], strict=True):
            marks: list[Hashable] = [
                _digest(path) if splits_of[size] > 1 else (name, size)
                for path, size in zip(paths, of_study, strict=True)
                if size is not None
            ]
            keys[name].append(frozenset(mark for mark in marks if mark is not None))
    return keys


def _digest(path: Path) -> bytes | None:
    digest = blake2b(digest_size=16)
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except OSError:
        return None
    return digest.digest()
