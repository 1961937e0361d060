"""The plug-in around a LightningModule whose code does not change."""

import pickle
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.context import get_spawning_popen
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.objectives import HardNegativeObjective, ObjectiveOutput, PairEmbeddings
from hardneg_plugin.plugin.batch_parts import Chunks
from hardneg_plugin.plugin.chunks import check_chunks
from hardneg_plugin.plugin.feature import Where
from hardneg_plugin.plugin.feature_paths import Calls, FeaturePaths, recorded
from hardneg_plugin.plugin.lightning_hosts import PACKAGES, lightning_module_of, overrides
from hardneg_plugin.plugin.mixin import HardNegativeMixin
from hardneg_plugin.plugin.optimizer_group import add_group

Host = TypeVar("Host", bound=nn.Module | type[nn.Module])


def plug_in(
    host: Host,
    hard_negatives: HardNegativeObjective | None = None,
    *,
    images: Where,
    reports: Where,
    image_mask: Where | None = None,
    report_mask: Where | None = None,
    study_ids: Where | None = None,
    patient_ids: Where | None = None,
    texts: Where | None = None,
    labels: Where | None = None,
    facts: Where | None = None,
    statements: Where | None = None,
    negatives: Where | None = None,
    chunks: Chunks = 1,
    chunk_weight: Where | None = None,
) -> Host:
    """Add increasingly hard negatives to the training of any report generator, without a change to its code.

    Each place is a path, a `Feature` or a callable. "batch.mask" and "batch.0" lead into the batch, and "outputs.pooled" into what
    the host's `training_step` returned, by key, index or attribute. Other paths start with a submodule and mean what it returned in
    this step: "encoder", "encoder.last_hidden_state", "encoder.1" (layer 1 of a Sequential, or element 1 of a returned tuple). It
    must be called once per step; where it is called more often, `Feature` says which calls count. A callable takes
    `(batch, outputs)`, or `(host, batch, outputs)` where it uses the host, which is another one after a copy or
    `load_from_checkpoint`. Features are attached to the graph and dropped after the step. There are no hooks in validation, test
    and prediction.

    The host's optimizer gets the parameters of the objective as a further group, with the options of its first group but no weight
    decay. Losses, weights, logs and checkpoints are those of `HardNegativeMixin`.

    Args:
        host: a LightningModule, changed in place and returned; or a class, of which a subclass is returned whose instances get a
            copy of the objective each, or another one by the keyword `hard_negatives`.
        hard_negatives: the objective; None: `HardNegativeObjective()`.
        images: image features, `(B, D)`, `(B, P, D)` or `(B, C, H, W)`; the mean over patches or space is taken.
        reports: report features, `(B, D)` or `(B, T, D)`; the mean over words is taken.
        image_mask: `(B, P)`, True (or 1) for patches that count; None: all do.
        report_mask: `(B, T)`, True (or 1) for words that count; None: all do.
        study_ids, patient_ids, texts, labels: identities, as of `PairEmbeddings`.
        facts: `(B, Q)`, as of `PairEmbeddings`, for `GroundedKnowledgeObjective`.
        statements: `(2, Q, D)` pooled report features of its `statement_texts`, for `GroundedKnowledgeObjective`.
        negatives: features of paired studies as `PairEmbeddings`, for the source `Paired`.
        chunks: into how many parts each batch is split, as of `HardNegativeMixin`; a callable place then gets a part.
        chunk_weight: a place whose sum weighs the loss of a part, such as a mask of tokens where the host takes a mean over tokens;
            None: the number of studies.

    Raises:
        UserError: a path that leads nowhere (at the start of training if the host makes its modules in `configure_model` or
            `setup`), a host that is no LightningModule or is plugged in already, or what `HardNegativeMixin` cannot train.

    >>> import pytorch_lightning as pl  # or: import lightning.pytorch as pl
    >>> class Host(pl.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.image, self.text = torch.nn.Linear(6, 4), torch.nn.Linear(5, 4)
    ...
    ...     def training_step(self, batch, batch_idx):
    ...         return (self.image(batch["images"]) - self.text(batch["reports"])).square().mean()
    >>> model = plug_in(Host(), HardNegativeObjective(), images="image", reports="text", study_ids="batch.id")
    """
    features = FeaturePaths(
        images=images,
        reports=reports,
        image_mask=image_mask,
        report_mask=report_mask,
        study_ids=study_ids,
        patient_ids=patient_ids,
        texts=texts,
        labels=labels,
        facts=facts,
        statements=statements,
        negatives=negatives,
        chunk_weight=chunk_weight,
    )
    check_chunks(chunks)
    objective = HardNegativeObjective() if hard_negatives is None else hard_negatives
    if isinstance(host, type):
        _check_host(host)
        plugged: Host = _Plug(host, objective, features, chunks).plugged_class
        return plugged
    _check_host(type(host))
    if "training_step" in vars(host):
        raise UserError(
            f"This {type(host).__name__} has an attribute training_step, which hides that of its class: if it was compiled, "
            "plug in first and then call trainer.fit(torch.compile(model))."
        )
    if hasattr(host, "hard_negatives"):
        raise UserError(f"This {type(host).__name__} has an attribute hard_negatives already: rename it.")
    if not any(overrides(host, hook) for hook in ("configure_model", "setup")):  # else modules may come later
        features.modules(host)
    # the class keeps an untrained objective for further instances, such as those of load_from_checkpoint
    host.__class__ = _Plug(type(host), deepcopy(objective), features, chunks).plugged_class
    host.hard_negatives = objective
    return host


def _check_host(host: type) -> None:
    if lightning_module_of(host) is None:
        raise UserError(
            f"plug_in takes a LightningModule of {' or '.join(PACKAGES)}, but got {host.__module__}.{host.__qualname__}: "
            "if it was compiled or wrapped, pass the module itself and compile it afterwards."
        )
    if issubclass(host, HardNegativeMixin):
        raise UserError(f"{host.__name__} has hard negatives already: plug in once.")


def _check_picklable(given: Mapping[str, Any]) -> None:
    """Check that callables, by the names they were given as, can be sent to processes that are spawned."""
    for name, value in given.items():
        if not callable(value):
            continue
        try:
            pickle.dumps(value)
        except Exception as error:  # whatever the callable raises
            raise UserError(
                f"{name}: this callable cannot be sent to a spawned process ({first_line(error)}): define it by def at the top of "
                "a module, or train with strategy='ddp' or 'ddp_fork', which send nothing."
            ) from error


@dataclass(frozen=True, eq=False)
class _Plug:
    """The host's class, the objective and the places of features, of which a plugged class is made."""

    host: type[nn.Module]
    objective: HardNegativeObjective
    features: FeaturePaths
    chunks: Chunks

    @cached_property
    def plugged_class(self) -> Any:
        # not a function as attribute of a class, which would be a method
        chunks = staticmethod(self.chunks) if callable(self.chunks) else self.chunks
        body = {"_plug": self, "_chunks": chunks, "__module__": self.host.__module__, "__doc__": self.host.__doc__}
        return types.new_class(
            f"HardNegative{self.host.__name__}", (_Plugged, self.host), exec_body=lambda names: names.update(body)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Plug":
        return self  # a copied model is of the same class

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if get_spawning_popen() is not None:
            _check_picklable(dict([*self.features.places(), ("chunks", self.chunks)]))
        return _Plug, (
            self.host,
            self.objective,
            self.features,
            self.chunks,
        )  # without the class, which cannot be pickled by name

    def blank(self) -> Any:
        """An instance without state, for unpickling."""
        return self.plugged_class.__new__(self.plugged_class)


class _Plugged(HardNegativeMixin):
    """The mixin with features read from the places that `plug_in` was given, and the objective added to the host's optimizer."""

    _plug: ClassVar[_Plug]
    _calls: Calls = {}  # noqa: RUF012 - replaced, never changed
    _in_step = False

    def embed(self, batch: Any, outputs: Any) -> PairEmbeddings:
        """The features of this step."""
        pairs: PairEmbeddings = self._plug.features.pairs(self, batch, outputs, self._calls)
        return pairs

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def with_hard_negatives(self, loss: Tensor, batch: Any, outputs: Any) -> Tensor:
        """As of the mixin, within the host's own step.

        Args:
            loss, batch, outputs: as of the mixin.

        Raises:
            UserError: it is called elsewhere, where no module's output has been kept.
        """
        if not self._in_step and self._plug.features.modules(self):
            raise UserError(
                f"with_hard_negatives reads what modules return while the training_step of {self._plug.host.__name__} runs, but "
                "it was called outside: write the step into a class of the host and plug in that."
            )
        total: Tensor = super().with_hard_negatives(loss, batch, outputs)
        return total

    def embed_statements(self, batch: Any, outputs: Any) -> Tensor | None:
        """The features of the objective's statements, where a place is given."""
        statements: Tensor | None = self._plug.features.read("statements", self, batch, outputs, self._calls)
        return statements

    def chunk_weight(self, batch: Any, outputs: Any) -> Tensor | float | None:
        """The sum of the value at the place `chunk_weight`, where one is given."""
        weight = self._plug.features.read("chunk_weight", self, batch, outputs, self._calls)
        return weight.sum() if isinstance(weight, Tensor) else weight

    def configure_optimizers(self) -> Any:
        """The host's optimizers and schedulers, with the parameters of the objective in a further group."""
        with self._without_objective():
            configured = super().configure_optimizers()
        add_group(configured, dict(self.hard_negatives.named_parameters(prefix="hard_negatives")))
        return configured

    def on_fit_start(self) -> None:
        """Check the paths, too, now that all modules exist."""
        super().on_fit_start()
        self._plug.features.modules(self)
        self._plug.features.warn_of_modules_held()  # some have their names since

    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
    def _host_step(self, *args: Any, **kwargs: Any) -> Any:
        with recorded(self._plug.features.modules(self)) as calls:
            self._calls, self._in_step = calls, True
            try:
                outputs = super()._host_step(*args, **kwargs)
            finally:
                self._in_step = False
        if outputs is None or self._added:
            self._calls = {}
        return outputs

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _terms(self, pairs: PairEmbeddings, statements: Tensor | None, report_loss: Tensor) -> ObjectiveOutput:
        if not self._in_step:
            self._calls = {}  # everything is read
        terms: ObjectiveOutput = super()._terms(pairs, statements, report_loss)
        return terms

    def _forget_step(self) -> None:
        self._calls = {}

    def _default_objective(self) -> HardNegativeObjective:
        return deepcopy(self._plug.objective)

    @contextmanager
    def _without_objective(self) -> Iterator[None]:
        order = list(self._modules)
        objective = self._modules.pop("hard_negatives")
        try:
            yield
        finally:
            # back at its place: averaged copies of a model rely on the order of its parameters
            self._modules["hard_negatives"] = objective
            for name in order[order.index("hard_negatives") + 1 :]:
                self._modules[name] = self._modules.pop(name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = super().__reduce_ex__(max(protocol, 2))
        if type(self) is not self._plug.plugged_class:  # a subclass in code, found by its name
            return reduced
        return _Plug.blank, (self._plug,), *reduced[2:]
