"""The class that `plug_in` makes of a host's class, and how its instances are copied and sent to other processes."""

import pickle
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.context import get_spawning_popen
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.objectives import HardNegativeObjective, ObjectiveOutput, PairEmbeddings
from hardneg_plugin.objectives.likelihood.negative_images import ReadReports
from hardneg_plugin.plugin.batch_parts import Chunks
from hardneg_plugin.plugin.feature_paths import Calls, FeaturePaths, recorded
from hardneg_plugin.plugin.mixin import HardNegativeMixin
from hardneg_plugin.plugin.optimizer_group import add_group
from hardneg_plugin.plugin.part_log import PartLog
from hardneg_plugin.plugin.read_again import check_can_read_again, images_of_others, read_once


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
class Plug:
    """The host's class, the objective and the places of features, of which a plugged class is made."""

    host: type[nn.Module]
    objective: HardNegativeObjective
    features: FeaturePaths
    chunks: Chunks

    @cached_property
    def plugged_class(self) -> Any:
        """A subclass of the host's class."""
        # not a function as attribute of a class, which would be a method
        chunks = staticmethod(self.chunks) if callable(self.chunks) else self.chunks
        body = {"_plug": self, "_chunks": chunks, "__module__": self.host.__module__, "__doc__": self.host.__doc__}
        return types.new_class(
            f"HardNegative{self.host.__name__}", (Plugged, self.host), exec_body=lambda names: names.update(body)
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "Plug":
        return self  # a copied model is of the same class

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if get_spawning_popen() is not None:
            _check_picklable(dict([*self.features.places(), ("chunks", self.chunks)]))
        return Plug, (
            self.host,
            self.objective,
            self.features,
            self.chunks,
        )  # without the class, which cannot be pickled by name

    def blank(self) -> Any:
        """An instance without state, for unpickling."""
        return self.plugged_class.__new__(self.plugged_class)


class Plugged(HardNegativeMixin):
    """The mixin with features read from the places that `plug_in` was given, and the objective added to the host's optimizer."""

    _plug: ClassVar[Plug]
    _calls: Calls = {}  # noqa: RUF012 - replaced, never changed
    _in_step = False
    _arguments: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})

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

    def token_losses(
        self, batch: Any, outputs: Any, image_order: Tensor | None = None, towards: Tensor | None = None
    ) -> TokenLosses:
        """As of the mixin; of a host without such a method by its step, run again with other images (`plugin.read_again`).

        Args:
            batch, outputs, image_order, towards: as of the mixin.
        """
        if self._host_reads_reports:
            return super().token_losses(batch, outputs, image_order, towards)
        if image_order is None:
            return read_once(self._plug.features, self, batch, outputs, self._calls)
        args, kwargs = self._arguments
        with images_of_others(self._plug.features, self, self._calls, image_order, towards) as calls:
            self._part_log = PartLog()  # logs nothing
            try:
                outputs = super()._host_step(*args, **kwargs)
            finally:
                self._part_log = None
        return read_once(self._plug.features, self, batch, outputs, calls)

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
        if self.hard_negatives.reads_reports and not self._host_reads_reports:
            check_can_read_again(self._plug.features, self.hard_negatives, self.automatic_optimization)
        self._plug.features.warn_of_modules_held()  # some have their names since

    @torch.compiler.disable(recursive=False)  # type: ignore[untyped-decorator]
    def _host_step(self, *args: Any, **kwargs: Any) -> Any:
        with recorded(self._plug.features.modules(self)) as calls:
            self._calls, self._in_step, self._arguments = calls, True, (args, kwargs)
            try:
                outputs = super()._host_step(*args, **kwargs)
            except BaseException:
                self._forget_step()  # its graph would stay in memory
                raise
            finally:
                self._in_step = False
        if outputs is None or self._added:
            self._forget_step()
        return outputs

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _terms(
        self, pairs: PairEmbeddings, statements: Tensor | None, report_loss: Tensor, read: ReadReports
    ) -> ObjectiveOutput:
        try:
            terms: ObjectiveOutput = super()._terms(pairs, statements, report_loss, read)
        finally:
            if not self._in_step:
                self._forget_step()  # everything is read
        return terms

    def _forget_step(self) -> None:
        self._calls, self._arguments = {}, ((), {})

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
        return Plug.blank, (self._plug,), *reduced[2:]
