"""How a Trainer spreads a model over processes: what hard negatives have been tested with, and what is refused."""

import os
from collections.abc import Iterator
from typing import Any

from hardneg_plugin.distributed import is_shard
from hardneg_plugin.errors import UserError

TESTED = (
    "one process, DDP, and models sharded by from_pretrained(..., distributed_config=DistributedConfig(fsdp_size=N))"
)


def check_strategy(trainer: Any) -> None:
    """Refuse what is asked for and has not been tested with hard negatives.

    Accelerate ignores a wish for FSDP on a CPU and trains under DDP. It is refused there, too: a configuration that is tried on a
    CPU should not fail on the GPUs that it is meant for.

    Args:
        trainer: of transformers, after its `__init__`.

    Raises:
        UserError: DataParallel, DeepSpeed, FSDP of accelerate, modules sharded by hand, and parallelism other than of data.
    """
    found = next(_untested(trainer), None)
    if found:
        raise UserError(f"{type(trainer).__name__}: {found}. Tested with hard negatives: {TESTED}.")


def _untested(trainer: Any) -> Iterator[str]:
    arguments, model = trainer.args, trainer.model
    if arguments.n_gpu > 1:
        yield "DataParallel over several GPUs of one process has not been tested: start one process per GPU by torchrun"
    asked = arguments.fsdp or os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true")
    wanted = {
        "DeepSpeed": trainer.is_deepspeed_enabled or arguments.deepspeed,
        "FSDP of accelerate (`fsdp=` of TrainingArguments, or ACCELERATE_USE_FSDP)": trainer.is_fsdp_enabled or asked,
    }
    for name, is_wanted in wanted.items():
        if is_wanted:
            yield f"{name} takes no optimizer with parameters outside the model, and those of the objective are outside"
    if getattr(trainer.accelerator, "parallelism_config", None) is not None:
        yield "a parallelism_config has not been tested"
    if getattr(trainer, "is_distributed_loading_by_transformers", False):
        config = model.config.distributed_config
        sizes = {name: getattr(config, name) for name in ("tp_size", "pp_size", "ep_size", "dp_replicate_size")}
        others = [f"{name}={size}" for name, size in sizes.items() if size > 1]
        if others:
            yield f"DistributedConfig({', '.join(others)}) has not been tested"
    elif any(is_shard(parameter) for parameter in model.parameters()):
        yield "a model sharded by hand (`fully_shard`, `tp_plan`) has not been tested"
