"""Whatever the strategy, the objective is the same on all ranks: what a LightningModule does for it where it is not under DDP."""

from collections.abc import Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from hardneg_plugin.agreement import check_agreement
from hardneg_plugin.distributed import average_gradients, from_first_rank, is_shard, warn_on_first_rank, world_size
from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.objectives import HardNegativeObjective

TESTED = "a single device, ddp, ddp_find_unused_parameters_true, ddp_spawn, ddp_fork and ModelParallelStrategy"

_Host: Any = Any if TYPE_CHECKING else object


class RankAgreement(_Host):
    """The part of `HardNegativeMixin` that keeps the objective the same on all ranks.

    DDP averages the gradients of the objective as it does the host's. A strategy that wraps nothing, such as
    `ModelParallelStrategy`, leaves that to whoever shards the modules: here the objective starts as on rank 0, and its gradients
    are averaged after each backward pass. An objective that `configure_model` shards, too (`fully_shard`), is left alone.

    Sharded hosts have no objective in their `state_dict`: it is beside it, whole, in checkpoints of one file and of a folder.

    >>> import pytorch_lightning as pl  # or: import lightning.pytorch as pl
    >>> class Host(RankAgreement, pl.LightningModule):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.hard_negatives = nn.Linear(2, 2)

    Raises:
        UserError: at the start of training, a strategy that wraps the model in something other than DDP, or that gives one batch to
            several ranks; after the first step or at the end of the first epoch, ranks that differ.
    """

    hard_negatives: HardNegativeObjective
    _averages = False
    _strict_loading: bool | None
    _first_step: int | None = None
    _is_first_epoch = False

    def on_fit_start(self) -> None:
        """Decide who averages the gradients of the objective."""
        super().on_fit_start()
        wrapper = self.trainer.strategy.model
        wrapper = getattr(wrapper, "_orig_mod", wrapper)  # compiled
        _check_strategy(self, wrapper)
        self._averages = wrapper is self and world_size() > 1
        self._first_step, self._is_first_epoch = self.trainer.global_step, True
        if self._averages:
            for values in (*self.hard_negatives.parameters(), *self.hard_negatives.buffers()):
                if not is_shard(values):
                    values.data.copy_(from_first_rank(values.data))

    def on_after_backward(self) -> None:
        """Average the gradients of the objective where nobody else does."""
        if self._averages:
            average_gradients(self.hard_negatives.parameters())
        super().on_after_backward()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """In manual optimisation a backward pass may be one that Lightning has not seen."""
        if self._averages and not self.automatic_optimization:
            average_gradients(self.hard_negatives.parameters())
        super().on_before_optimizer_step(optimizer)

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Check the ranks once, after the first step of the optimizer."""
        super().on_train_batch_end(*args, **kwargs)
        if self._first_step is not None and self.trainer.global_step > self._first_step:
            self._first_step = None
            check_agreement(self.hard_negatives, "The hard-negative objective", self.device)

    def on_train_epoch_end(self) -> None:
        """Check the ranks once more: the first steps may have a learning rate of zero."""
        super().on_train_epoch_end()
        if self._is_first_epoch:
            self._is_first_epoch = False
            check_agreement(self.hard_negatives, "The hard-negative objective", self.device)

    def clip_gradients(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """As Lightning's, also where some gradients are sharded and others are not. Arguments are those of Lightning."""
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if len({is_shard(parameter) for parameter in parameters}) < 2:
            super().clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        limit = self.trainer.gradient_clip_val if gradient_clip_val is None else gradient_clip_val
        algorithm = gradient_clip_algorithm or self.trainer.gradient_clip_algorithm or "norm"
        if limit:
            clip_mixed(parameters, float(limit), str(getattr(algorithm, "value", algorithm)).lower())

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights; of a sharded host, those of the bare host."""
        whole: dict[str, Any] = super().state_dict(*args, **kwargs)
        if is_sharded(self):
            for name in [name for name in whole if name.startswith("hard_negatives.")]:
                del whole[name]
        return whole

    @property
    def strict_loading(self) -> bool:
        """As of the host; False for a sharded one, whose loader would ask for the objective inside the state dict."""
        return bool(super().strict_loading) and not is_sharded(self)

    @strict_loading.setter
    def strict_loading(self, strict_loading: bool) -> None:
        self._strict_loading = strict_loading


def _check_strategy(host: Any, wrapper: Any) -> None:
    strategy = type(host.trainer.strategy).__name__
    if wrapper is not host and not isinstance(wrapper, DistributedDataParallel):
        raise UserError(
            f"{strategy} wraps the model in {type(wrapper).__name__}, with which hard negatives have not been tested: train "
            f"with one of those that have, {TESTED}."
        )
    if host.trainer.world_size != world_size():
        raise UserError(
            f"{strategy} trains on {host.trainer.world_size} ranks, but torch.distributed knows {world_size()}: hard negatives "
            f"have been tested with {TESTED}."
        )
    mesh = getattr(host, "device_mesh", None)
    if mesh is None or "data_parallel" not in (mesh.mesh_dim_names or ()):
        return
    studies = mesh["data_parallel"].size()
    if studies != world_size():
        raise UserError(
            f"{strategy} gives {studies} batches to {world_size()} ranks, but hard negatives are looked for in a batch of each "
            f"rank, and tensor parallelism has not been tested: set data_parallel_size={world_size()} and tensor_parallel_size=1."
        )


def is_sharded(module: nn.Module) -> bool:
    """Whether any parameter is a `DTensor`.

    >>> is_sharded(nn.Linear(2, 2))
    False
    """
    return any(is_shard(parameter) for parameter in module.parameters())


def whole_state(module: nn.Module) -> dict[str, Any]:
    """The state dict with all shards gathered, on the CPU; collectives if there are shards."""
    state: dict[str, Any] = tree_map_only(Tensor, lambda value: _whole(value).detach().cpu(), dict(module.state_dict()))
    return state


def _whole(value: Any) -> Tensor:
    gathered: Tensor = value.full_tensor() if is_shard(value) else value
    return gathered


def require_host_keys(host: Any, checkpoint: dict[str, Any], path: str | Path | None = None) -> None:
    """Check that a file had all weights of a sharded host: Lightning has loaded it without `strict_loading`.

    Args:
        host: with an attribute `_strict_loading`.
        checkpoint: with the names of its weights under `host_weights`, or without any, as one of the bare host.
        path: of the checkpoint, for names that it does not list. Of a folder, Lightning has checked them.

    Raises:
        UserError: weights that the file does not have.
    """
    names = checkpoint.get("host_weights")
    if names is None and path is not None and Path(path).is_file():
        try:
            names = torch.load(path, mmap=True, map_location="meta", weights_only=True)["state_dict"]
        except (UnpicklingError, RuntimeError, KeyError) as error:
            warn_on_first_rank(
                f"Whether {path} has all weights of {type(host).__name__} is not checked: {first_line(error)}."
            )
    missing = set(host.state_dict()) - set(host.state_dict() if names is None else names)
    if missing and host._strict_loading is not False:
        raise UserError(
            f"The checkpoint has no weights {', '.join(sorted(missing))} of {type(host).__name__}: pass one of this class, or set "
            "strict_loading to False."
        )


def load_whole_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Load what `whole_state` gave, each rank its shards.

    Args:
        module: on all ranks.
        state: the same on all ranks.
    """
    if is_sharded(module):
        from torch.distributed.tensor import distribute_tensor  # takes long to import
    parts = dict(state)
    for name, own in module.state_dict().items():
        if is_shard(own) and name in parts:
            parts[name] = distribute_tensor(parts[name].to(own.device), own.device_mesh, own.placements)
    module.load_state_dict(parts)


@torch.no_grad()
def clip_mixed(parameters: Iterable[nn.Parameter], limit: float, algorithm: str) -> None:
    """Clip gradients of which some are sharded, as torch does where all are or none is.

    Args:
        parameters: those with a gradient.
        limit: > 0.
        algorithm: "norm" for the norm of all together, "value" for each element.
    """
    kinds: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    for parameter in parameters:
        kinds[is_shard(parameter)].append(parameter)
    if algorithm == "value":
        for alike in kinds.values():
            nn.utils.clip_grad_value_(alike, limit)
        return
    norms = [nn.utils.get_total_norm([p.grad for p in alike if p.grad is not None]) for alike in kinds.values()]
    total = torch.stack([_whole(norm) for norm in norms]).norm()
    for alike in kinds.values():
        nn.utils.clip_grads_with_norm_(alike, limit, total)
