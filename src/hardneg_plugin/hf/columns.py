"""Columns of a data set that the objective reads and the model does not take, such as study ids."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.plugin.feature import Feature
from hardneg_plugin.plugin.feature_paths import FeaturePaths


def columns_read(places: FeaturePaths) -> list[str]:
    """The columns of a batch that paths name, in the order of the places.

    >>> columns_read(FeaturePaths(images="vision", reports="text", study_ids="batch.study", texts="batch.report"))
    ['study', 'report']
    """
    paths = (place.path if isinstance(place, Feature) else place for _, place in places.places())
    keys = [path.split(".") for path in paths if isinstance(path, str)]
    return list(dict.fromkeys(path[1] for path in keys if path[0] == "batch" and len(path) > 1))


def columns_taken(model: nn.Module) -> set[str]:
    """The columns that a model's `forward` names."""
    # of the class: accelerate and trl put functions of other signatures over it
    return set(inspect.signature(type(model).forward).parameters)


class KeptColumns:
    """A collator that keeps columns which the one within it would drop or cannot read.

    Collators of transformers and TRL do not get these columns. One of your own gets all of them, and decides: what it leaves out is
    added. Numbers and arrays of one shape become a tensor, everything else a list.

    Args:
        collator: from a list of examples to a batch.
        columns: names of those to keep.

    >>> collate = KeptColumns(lambda examples: {"n": len(examples)}, ["study"])
    >>> collate([{"study": "a"}, {"study": "b"}])
    {'n': 2, 'study': ['a', 'b']}
    """

    def __init__(self, collator: Callable[[list[Any]], Any], columns: Iterable[str]) -> None:
        self.collator, self.columns = collator, list(columns)
        module = getattr(collator, "__module__", None) or type(collator).__module__
        self.hides = module.split(".")[0] in ("transformers", "trl")

    def __call__(self, examples: list[Any]) -> Any:
        """The batch of a list of examples."""
        if not examples or not isinstance(examples[0], Mapping):
            return self.collator(examples)
        kept = {name: [one[name] for one in examples] for name in self.columns if all(name in one for one in examples)}
        shown = [{k: v for k, v in one.items() if k not in kept} for one in examples] if self.hides else examples
        batch = self.collator(shown)
        for name, values in kept.items():
            if name not in batch:
                batch[name] = _together(values)
        return batch


def _together(values: Sequence[Any]) -> Any:
    try:
        return torch.stack([value if isinstance(value, Tensor) else torch.as_tensor(value) for value in values])
    except (TypeError, ValueError, RuntimeError):  # texts, None, or several shapes
        return list(values)
