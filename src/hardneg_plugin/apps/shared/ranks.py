"""A job, and its ranks: they connect before anything is loaded, follow rank 0, and share the batches."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch.utils.data import DataLoader

from hardneg_plugin.apps.shared.hydra_command import explain, remove_if_empty, run_directory
from hardneg_plugin.apps.shared.meeting import saying_that_it_waits
from hardneg_plugin.apps.shared.nodes import node, of_ranks_in_words
from hardneg_plugin.distributed import of_all_ranks
from hardneg_plugin.errors import SharedError, UserError
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.places import build_in
from hardneg_plugin.runs.provenance import command_without_secrets

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One run of hardneg-train or hardneg-evaluate.

    Args:
        settings: the resolved config.
        folder: the run folder, absolute.
        overrides: of the command line, without `resume`, `trust` and `overwrite`.
        logging: for `logging.config.dictConfig`.
        command: "train" or "evaluate": a module of `apps` and the function in it that does the job.
        refused: why rank 0 may not have the folder, for `broadcast_job` to say; None: it may.
        arguments: as Hydra got them, of the run to resume too.
    """

    settings: dict[str, Any]
    folder: str
    overrides: list[str]
    logging: dict[str, Any]
    command: str = "train"
    refused: str | None = None
    arguments: tuple[str, ...] = ()

    @classmethod
    def of_command_line(cls, config: DictConfig, command: str = "train", refused: str | None = None) -> "Job":
        """The job that Hydra is running.

        Args:
            config: composed.
            command, refused: as of `Job`.
        """
        settings: Any = OmegaConf.to_container(config, resolve=True)
        hydra = HydraConfig.get()
        overrides = [o for o in hydra.overrides.task if not o.startswith(("resume=", "trust=", "overwrite="))]
        logging: Any = OmegaConf.to_container(hydra.job_logging, resolve=True)
        arguments = (*hydra.overrides.task, *hydra.overrides.hydra)
        return cls(settings, str(run_directory()), overrides, logging, command, refused, arguments)

    @classmethod
    def read(cls, path: Path) -> "Job":
        """The job that `write` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "arguments": tuple(fields["arguments"])})

    def write(self, path: Path) -> None:
        """Write it for other processes."""
        path.write_text(json.dumps(vars(self)), encoding="utf-8")

    @property
    def config(self) -> DictConfig:
        """The settings as a config."""
        return DictConfig(self.settings)


def make_trainer(config: DictConfig, run: RunFolder, **arguments: Any) -> pl.Trainer:
    """The trainer of a config.

    Args:
        config: its `trainer` is built.
        run: where it writes.
        arguments: of the trainer, beside those of the config.

    Raises:
        UserError: Lightning refuses the settings.
    """
    try:
        trainer: pl.Trainer = build_in(run, config, "trainer", **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, MisconfigurationException | ValueError):
            raise UserError(f"trainer: {error.__cause__}") from error
        raise
    return trainer


def setup_distributed(job: Job) -> Strategy:
    """Connect the ranks of a job; from then on all but rank 0 print errors only.

    Raises:
        UserError: Lightning refuses the settings.
    """
    # a trainer for this only: the real one is built from the job of rank 0, which is not known yet
    make = partial(make_trainer, job.config, RunFolder(job.folder), logger=False, enable_checkpointing=False)
    trainer = make()
    if trainer.world_size > 1:
        if isinstance(trainer.strategy, DDPStrategy) and isinstance(job.settings["trainer"].get("strategy"), str):
            timeout = timedelta(seconds=job.settings["collective_timeout"])
            trainer = make(strategy=DDPStrategy(timeout=timeout))
        with _saying_that_it_waits(trainer):
            trainer.strategy.setup_environment()
    if not trainer.is_global_zero:
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for the life of the process
    return trainer.strategy


def _saying_that_it_waits(trainer: pl.Trainer) -> AbstractContextManager[None]:
    """Of the ranks that srun or torchrun started, the first of each node says so; launchers of ours have met before."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or trainer.local_rank != 0:
        return nullcontext()
    endpoint = f"{environment.main_address}:{environment.main_port}"
    return saying_that_it_waits(
        f"Rank {trainer.global_rank} waits for all of {trainer.world_size} ranks at {endpoint}."
    )


def broadcast_job(job: Job, strategy: Strategy) -> Job:
    """The job of rank 0, on all ranks; a collective call. Removes a run folder that another clock named differently.

    Rank 0 warns of arguments of other ranks that it was not given.

    Args:
        job: of this rank.
        strategy: connects the ranks.

    Raises:
        SharedError: on all ranks, if rank 0 may not have the folder.
    """
    own = job
    job = strategy.broadcast(job)
    if own.folder != job.folder:
        remove_if_empty(Path(own.folder))
    unused = of_ranks_in_words(of_all_ranks((node(), _without_secrets(set(own.arguments) - set(job.arguments)))))
    if unused and strategy.is_global_zero:
        log.warning(
            "Warning: all ranks do the job of rank 0, whose arguments differ. Not used are those of %s.", unused
        )
    agreed(lambda: _check_not_refused(job, strategy))
    return job


def _without_secrets(arguments: Iterable[str]) -> str:
    return command_without_secrets("", sorted(arguments)).removeprefix("''").strip()


def _check_not_refused(job: Job, strategy: Strategy) -> None:
    if job.refused is not None and strategy.is_global_zero:
        raise UserError(job.refused)


def agreed(build: Callable[[], T]) -> T:
    """What `build` returns, if it returns on all ranks; a collective call.

    Raises:
        SharedError: on all ranks, for an error that a user can cause on any of them.
    """
    if not dist.is_initialized():
        return build()
    message, built = None, None
    try:
        built = build()
    except Exception as error:
        message = explain(error, "train")
        if message is None:
            raise
    for rank, first in enumerate(of_all_ranks(message)):
        if first is not None:
            raise SharedError(first if rank == 0 else f"{first} (rank {rank})")
    return built  # type: ignore[return-value]


def share_of(loader: DataLoader[T], trainer: pl.Trainer) -> DataLoader[T]:
    """The batches of an ordered loader that this rank scores, as many as any other rank.

    Ranks take whole batches in turn, where Lightning's sampler distributes single studies: results differ in the last bits by
    the shape of a batch, and a token may depend on those. So each batch is computed as in one process. Where the number of
    batches is no multiple of the ranks, some are scored twice; the metrics count each study once.

    Args:
        loader: of a whole split, with a batch sampler.
        trainer: knows the ranks.
    """
    batches = list(loader.batch_sampler or ())
    turns = range(trainer.global_rank, len(batches) + trainer.global_rank, trainer.world_size)
    return DataLoader(
        loader.dataset,
        batch_sampler=[batches[turn % len(batches)] for turn in turns],
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        generator=loader.generator,
        pin_memory=loader.pin_memory,
    )


@contextmanager
def interruptible(trainer: pl.Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning ends an interrupted process with code 1."""
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
