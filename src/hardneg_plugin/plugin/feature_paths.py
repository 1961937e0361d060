"""The features of any host: paths and callables into its batch, outputs and submodules."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hardneg_plugin.distributed import warn_on_first_rank
from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives import PairEmbeddings
from hardneg_plugin.plugin.feature import Feature, Where, call, check_place, closed_over
from hardneg_plugin.plugin.feature_pooling import kind_of, parts, pool
from hardneg_plugin.plugin.host_paths import SEE, find_module, nearest_modules, pick

Calls = dict[str, list[Any]]
"""By path, what the module returned in one step, call by call."""

_ROOTS = ("batch", "outputs")
_MASKS = {"images": "image_mask", "reports": "report_mask"}


@dataclass(frozen=True)
class FeaturePaths:
    """The places of a step's features in a host, each a path, a `Feature`, or a callable; see `plug_in`.

    >>> places = FeaturePaths(images="encoder.1", reports="outputs.states", study_ids="batch.id")

    Raises:
        UserError: a value that is no place, or two masks for one feature.
    """

    images: Where
    reports: Where
    image_mask: Where | None = None
    report_mask: Where | None = None
    study_ids: Where | None = None
    patient_ids: Where | None = None
    texts: Where | None = None
    labels: Where | None = None
    facts: Where | None = None
    statements: Where | None = None
    negatives: Where | None = None
    chunk_weight: Where | None = None
    token_losses: Where | None = None

    def __post_init__(self) -> None:
        for name, where in vars(self).items():
            if where is not None or name in _MASKS:
                check_place(name, where)
            if not isinstance(where, Feature):
                continue
            if name not in _MASKS and (where.mask is not None or where.align != "left"):
                raise UserError(f"{name}={where}: mask and align go with images and reports.")
            if where.mask is not None and getattr(self, _MASKS[name]) is not None:
                raise UserError(f"{name}={where} has a mask, and so has {_MASKS[name]}: give one.")
        self.warn_of_modules_held()

    def warn_of_modules_held(self) -> None:
        """Warn of callables that hold a module, which may be the host: its copies would go on to use it."""
        for name, where in self.places():
            if (held := closed_over(where)) is not None:
                warn_on_first_rank(
                    f"{name}: this callable holds the module {held!r}. Where that is the host or a part of it, a copy of the host "
                    "and one from load_from_checkpoint read and train this one instead of themselves: let the callable take three "
                    "arguments, (host, batch, outputs)."
                )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def modules(self, host: nn.Module) -> dict[str, nn.Module]:
        """By path, the submodule of the host that it starts with.

        Raises:
            UserError: the host has no such submodule.
        """
        paths = ((name, where.path if isinstance(where, Feature) else where) for name, where in self.places())
        return {
            path: find_module(host, path, name)[0]
            for name, path in paths
            if isinstance(path, str) and path.split(".")[0] not in _ROOTS
        }

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def pairs(self, host: nn.Module, batch: Any, outputs: Any, calls: Calls) -> PairEmbeddings:
        """The features of one step, as wholes and in parts.

        Args:
            host: the module in training.
            batch: as its `training_step` got it.
            outputs: what its `training_step` returned.
            calls: from `recorded`.

        Raises:
            UserError: a path that leads nowhere, a module that was called more or less often than its place says, or features that
                cannot be pooled.
        """

        def read(name: str) -> Any:
            return self.read(name, host, batch, outputs, calls)

        def masked(name: str) -> tuple[Any, Any]:
            where, features, mask = getattr(self, name), read(name), read(_MASKS[name])
            if not isinstance(where, Feature):
                return features, mask
            if where.mask is not None:
                mask = self._value(f"{name}.mask", where.mask, host, batch, outputs, calls)
            return where.fitted(features, mask, len(calls.get(where.path, ())))

        images, image_mask = masked("images")
        reports, report_mask = masked("reports")
        pooled = pool(images, image_mask, "image"), pool(reports, report_mask, "report")
        regions, region_mask = parts(images, image_mask)
        words, word_mask = parts(reports, report_mask)
        same = {name: read(name) for name in ("study_ids", "patient_ids", "texts", "labels", "facts")}
        return PairEmbeddings(
            images=pooled[0],
            reports=pooled[1],
            regions=regions,
            region_mask=region_mask,
            words=words,
            word_mask=word_mask,
            grid=self._grid(host, images, calls),
            negatives=_paired(read("negatives")),
            **same,
        )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def read(self, name: str, host: nn.Module, batch: Any, outputs: Any, calls: Calls) -> Any:
        """The value of one field in this step; None for a field without a place.

        Args:
            name: of the field.
            host, batch, outputs, calls: as of `pairs`.

        Raises:
            UserError: a path that leads nowhere, or a module that was called more or less often than its place says.
        """
        where = getattr(self, name)
        value = None if where is None else self._value(name, where, host, batch, outputs, calls)
        path = where.path if isinstance(where, Feature) else where
        if name in _MASKS and path in calls and isinstance(value, Tensor) and not value.requires_grad:
            module, keys = find_module(host, path, name)
            if any(p.requires_grad for p in module.parameters()):
                warn_on_first_rank(
                    f"{name}={path!r}: these features carry no gradient, although {_module_of(path, keys)!r} is trained: it runs "
                    "under no_grad, or with activation checkpointing that has use_reentrant=True (set it to False)."
                )
        return value

    def places(self) -> Iterator[tuple[str, Any]]:
        """The places by the names of their fields, those of masks within features, too; None where there is none."""
        for name, where in vars(self).items():
            yield name, where
            if isinstance(where, Feature):
                yield f"{name}.mask", where.mask

    def _value(self, name: str, where: Where, host: nn.Module, batch: Any, outputs: Any, calls: Calls) -> Any:
        if not isinstance(where, str | Feature):
            return call(where, host, batch, outputs)
        path = where if isinstance(where, str) else where.path
        root, *keys = path.split(".")
        if root in _ROOTS:
            return pick(batch if root == "batch" else outputs, keys, f"{name}={path!r}: {root}")
        _, keys = find_module(host, path, name)
        module, called = _module_of(path, keys), calls.get(path, [])
        if not called or (len(called) != 1 and (isinstance(where, str) or where.calls is None)):
            often = "at least once" if isinstance(where, Feature) and where.calls is not None else "once"
            several = f'Give Feature({path!r}, calls="mean"), calls="last", calls="stack" or the number of a call.'
            raise UserError(
                f"{name}={path!r}: expected {module!r} to be called {often} in training_step, but it was called {len(called)} "
                f"times. {several if called else _NOT_CALLED} {SEE}"
            )
        hint = partial(nearest_modules, host, path)
        found = [pick(output, keys, f"{name}={path!r}: the output of {module!r}", hint) for output in called]
        return found[0] if isinstance(where, str) else where.of_calls(found, name)

    def _grid(self, host: nn.Module, images: Tensor, calls: Calls) -> tuple[int, int] | None:
        if images.ndim == 4:
            return images.shape[2], images.shape[3]
        if not isinstance(self.images, Feature) or self.images.calls != "stack":
            return None
        path = self.images.path
        first = pick(calls[path][0], find_module(host, path, "images")[1], path)
        return (first.shape[2], first.shape[3]) if first.ndim == 4 else None


_NOT_CALLED = (
    "Return the features from training_step and give 'outputs.KEY', or a callable (batch, outputs) -> features. Only module(x) "
    "counts as a call, not module.forward(x) or other methods. If a model without the plug-in was compiled before in this "
    "process, call torch.compiler.reset() first."
)


def _module_of(path: str, keys: list[str]) -> str:
    return path.removesuffix("." + ".".join(keys))


@contextmanager
def recorded(modules: Mapping[str, nn.Module]) -> Iterator[Calls]:
    """Record what each module returns, by its path, while the context lasts."""
    calls: Calls = {path: [] for path in modules}
    # hooks for one step only: evaluation, copies and checkpoints of the host have none
    handles = [module.register_forward_hook(_Keep(calls[path])) for path, module in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class _Keep:
    """A forward hook; an object rather than a function, for which torch.compile would compile anew at each step."""

    def __init__(self, outputs: list[Any]) -> None:
        self.outputs = outputs

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.outputs.append(output)


def _paired(value: Any) -> PairEmbeddings | None:
    if value is None or isinstance(value, PairEmbeddings):
        return value
    raise UserError(
        f"negatives: expected paired studies as PairEmbeddings(images, reports, ...), but got {kind_of(value)}: give a callable "
        "(batch, outputs) -> PairEmbeddings."
    )
