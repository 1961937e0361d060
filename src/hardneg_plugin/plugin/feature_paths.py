"""The features of any host: paths and callables into its batch, outputs and submodules."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.objectives import PairEmbeddings
from hardneg_plugin.plugin.feature_pooling import kind_of, parts, pool

Where = str | Callable[[Any, Any], Any]
Calls = dict[str, list[Any]]
"""By path, what the module returned in one step, call by call."""

_ROOTS = ("batch", "outputs")


@dataclass(frozen=True)
class FeaturePaths:
    """The places of a step's features in a host, each a path or a callable `(batch, outputs) -> value`; see `plug_in`.

    >>> places = FeaturePaths(images="encoder.1", reports="outputs.states", study_ids="batch.id")

    Raises:
        UserError: a place that is neither path nor callable.
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

    def __post_init__(self) -> None:
        for name, where in vars(self).items():
            if where is None and name not in ("images", "reports"):
                continue
            if not callable(where) and (not isinstance(where, str) or "" in where.split(".")):
                raise UserError(
                    f"{name}: expected a path such as 'encoder.1', 'batch.mask' or 'outputs.pooled', "
                    f"or a callable (batch, outputs) -> value, but got {where!r}."
                )

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def modules(self, host: nn.Module) -> dict[str, nn.Module]:
        """By path, the submodule of the host that it starts with.

        Raises:
            UserError: the host has no such submodule.
        """
        return {
            where: find_module(host, where, name)[0]
            for name, where in vars(self).items()
            if isinstance(where, str) and where.split(".")[0] not in _ROOTS
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
            UserError: a path that leads nowhere, a module that was not called exactly once, or features that cannot be pooled.
        """

        def read(name: str) -> Any:
            return self.read(name, host, batch, outputs, calls)

        images, image_mask = read("images"), read("image_mask")
        reports, report_mask = read("reports"), read("report_mask")
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
            grid=(images.shape[2], images.shape[3]) if images.ndim == 4 else None,
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
            UserError: a path that leads nowhere, or a module that was not called exactly once.
        """
        where = getattr(self, name)
        if where is None or not isinstance(where, str):
            return None if where is None else where(batch, outputs)
        root, *keys = where.split(".")
        if root in _ROOTS:
            return pick(batch if root == "batch" else outputs, keys, f"{name}={where!r}: {root}")
        module, keys = find_module(host, where, name)
        path = where.removesuffix("." + ".".join(keys))
        if len(calls[where]) != 1:
            raise UserError(
                f"{name}={where!r}: expected {path!r} to be called once in training_step, but it was called "
                f"{len(calls[where])} times. Return the features from training_step and give 'outputs.KEY', or a callable "
                "(batch, outputs) -> features. Only module(x) counts as a call, not module.forward(x) or other methods. If a model "
                "without the plug-in was compiled before in this process, call torch.compiler.reset() first."
            )
        value = pick(
            calls[where][0], keys, f"{name}={where!r}: the output of {path!r}", hint=_nearest_modules(host, where)
        )
        is_feature = name in ("images", "reports") and isinstance(value, Tensor)
        if is_feature and not value.requires_grad and any(p.requires_grad for p in module.parameters()):
            rank_zero_warn(
                f"{name}={where!r}: these features carry no gradient, although {path!r} is trained: it runs under "
                "no_grad, or with activation checkpointing that has use_reentrant=True (set it to False)."
            )
        return value


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


def find_module(host: nn.Module, path: str, name: str) -> tuple[nn.Module, list[str]]:
    """The submodule at the longest prefix of a dotted path, and the keys after it: "encoder.1" is a layer or an output.

    Args:
        host: the module to search.
        path: of a submodule, with or without keys.
        name: of the field, for messages.

    Raises:
        UserError: the first name of the path is no submodule.

    >>> find_module(nn.ModuleDict({"encoder": nn.Identity()}), "encoder.pooled", "images")
    (Identity(), ['pooled'])
    """
    module, keys = host, path.split(".")
    while keys and (child := _child(module, keys[0])) is not None:
        module, keys = child, keys[1:]
    if module is host:
        raise UserError(
            f"{name}={path!r}: {type(host).__name__} has no module {keys[0]!r}.{_nearest_modules(host, path)} "
            f"Its modules are {_listed(key for key, _ in host.named_children())}; 'batch' and 'outputs' start other paths."
        )
    return module, keys


def _child(module: nn.Module, name: str) -> nn.Module | None:
    child = module._modules.get(name)
    if child is None and (compiled := module._modules.get("_orig_mod")) is not None:  # torch.compile(module)
        child = compiled._modules.get(name)
    return child


def pick(value: Any, keys: Sequence[str], place: str, hint: str = "") -> Any:
    """Follow keys, indices and attributes into a value.

    Args:
        value: a mapping, sequence or object.
        keys: from the outermost.
        place: of the value, for messages.
        hint: for messages.

    Raises:
        UserError: a key that does not exist; the message lists those that do.

    >>> pick({"states": (1, 2)}, ["states", "1"], "outputs")
    2
    """
    for key in keys:
        try:
            value = _pick(value, key)
        except LookupError as error:
            raise UserError(f"{place} has no {key!r}: it is {_described(value, key)}{hint}") from error
        place = f"{place}.{key}"
    return value


def _pick(value: Any, key: str) -> Any:
    if isinstance(value, Tensor):  # an index would pick a study, not a feature
        raise LookupError(key)
    if isinstance(value, Mapping) and key in value:
        return value[key]
    if key.lstrip("-").isdigit() and hasattr(value, "__getitem__"):
        return value[int(key)]
    if isinstance(value, Mapping) or not hasattr(value, key):
        raise LookupError(key)
    return getattr(value, key)


def _described(value: Any, key: str) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}."
    if isinstance(value, Mapping):
        names, kind = [str(name) for name in value], "keys"
    elif isinstance(value, Sequence) and not hasattr(value, "_fields"):
        return f"a {type(value).__name__} of {len(value)}."
    else:
        attributes: Any = getattr(value, "_fields", None) or getattr(value, "__dict__", ())
        names, kind = [name for name in attributes if not name.startswith("_")], "attributes"
    return f"a {type(value).__name__} with the {kind} {_listed(names)}.{_nearest(key, names)}"


def _nearest_modules(host: nn.Module, path: str) -> str:
    return _nearest(path, [name for name, _ in host.named_modules() if name not in ("", path)])


def _nearest(name: str, names: Sequence[str]) -> str:
    nearest = get_close_matches(name, names, n=3)
    return f" Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
