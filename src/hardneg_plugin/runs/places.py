"""Where a run writes: below its run folder, by names that follow from it and are no settings."""

import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.trusted import INSTEAD

HERE = Path()
PLACES: Mapping[str, Mapping[str, Path | str]] = {
    "hardneg_plugin.training.best_checkpoint.BestCheckpoint": {"dirpath": Path("checkpoints"), "filename": "best"},
    "hardneg_plugin.training.board_logger.BoardLogger": {"save_dir": HERE, "name": "logs", "version": "tensorboard"},
    "hardneg_plugin.training.callbacks.LastCheckpoint": {"path": Path("checkpoints", "last.ckpt")},
    "pytorch_lightning.Trainer": {"default_root_dir": HERE},
    "pytorch_lightning.callbacks.ModelCheckpoint": {"dirpath": Path("checkpoints")},
    "pytorch_lightning.loggers.CSVLogger": {"save_dir": HERE, "name": "logs/csv"},
    "pytorch_lightning.loggers.MLFlowLogger": {"save_dir": Path("logs", "mlruns")},
    "pytorch_lightning.loggers.TensorBoardLogger": {"save_dir": HERE, "name": "logs", "version": "tensorboard"},
    "pytorch_lightning.loggers.WandbLogger": {"save_dir": Path("logs")},
}
"""By target, the arguments that say where it writes: a path below the run folder, or a name."""

_CHECKPOINTS = (
    "monitor mode verbose save_last save_top_k save_weights_only auto_insert_metric_name every_n_train_steps every_n_epochs "
    "save_on_train_epoch_end enable_version_counter"
)
_BOARD = "prefix default_hp_metric log_graph max_queue flush_secs"
HARMLESS: Mapping[str, frozenset[str]] = {
    target: frozenset(names.split())
    for target, names in {
        "hardneg_plugin.training.best_checkpoint.BestCheckpoint": _CHECKPOINTS,
        "hardneg_plugin.training.board_logger.BoardLogger": _BOARD,
        "hardneg_plugin.training.callbacks.LastCheckpoint": "every_n_train_steps",
        "pytorch_lightning.Trainer": (
            "accelerator strategy devices num_nodes precision fast_dev_run max_epochs min_epochs max_steps min_steps "
            "limit_train_batches limit_val_batches limit_test_batches limit_predict_batches overfit_batches val_check_interval "
            "check_val_every_n_epoch num_sanity_val_steps log_every_n_steps enable_checkpointing enable_progress_bar "
            "enable_model_summary accumulate_grad_batches gradient_clip_val gradient_clip_algorithm deterministic benchmark "
            "inference_mode use_distributed_sampler detect_anomaly barebones sync_batchnorm reload_dataloaders_every_n_epochs"
        ),
        "pytorch_lightning.callbacks.ModelCheckpoint": f"{_CHECKPOINTS} filename",
        "pytorch_lightning.loggers.CSVLogger": "version prefix flush_logs_every_n_steps",
        "pytorch_lightning.loggers.MLFlowLogger": "experiment_name run_name prefix",
        "pytorch_lightning.loggers.TensorBoardLogger": _BOARD,
        "pytorch_lightning.loggers.WandbLogger": "project name prefix offline",
    }.items()
}
"""By target, the arguments that neither write elsewhere nor send anything to another address."""
_OF_HYDRA = frozenset(("_target_", "_convert_", "_recursive_", "_partial_"))


def build_in(run: RunFolder, config: DictConfig, key: str, **arguments: Any) -> Any:
    """Build a part of a config that writes into a run folder: the trainer, a callback or a logger.

    Args:
        run: the run folder.
        config: of the run.
        key: of the part.
        arguments: beside those of the part.

    Raises:
        InstantiationException: as of `instantiate`.
    """
    part = OmegaConf.select(config, key)
    make = instantiate(part, _partial_=True)
    try:
        # not by instantiate, which would take "${" in the name of a folder for an interpolation
        return make(**places_of(str(part.get("_target_")), run), **arguments)
    except Exception as error:
        raise InstantiationException(
            f"Error in call to target {part.get('_target_')!r}:\n{error!r}\nfull_key: {key}"
        ) from error


def build_all_in(run: RunFolder, config: DictConfig, group: str) -> list[Any]:
    """Build all parts of a group, such as `callbacks`.

    Args:
        run: the run folder.
        config: of the run.
        group: the key of the group.
    """
    return [build_in(run, config, f"{group}.{name}") for name in config.get(group) or {}]


def places_of(target: str, run: RunFolder) -> dict[str, str]:
    """The arguments of a target that say where it writes.

    Args:
        target: its `_target_`.
        run: the run folder.

    >>> places_of("hardneg_plugin.training.callbacks.LastCheckpoint", RunFolder("outputs/run"))
    {'path': 'outputs/run/checkpoints/last.ckpt'}
    """
    places = PLACES.get(target, {}).items()
    return {name: str(run.path / place) if isinstance(place, Path) else place for name, place in places}


def check_no_places(config: Any) -> None:
    """Refuse settings that would say where a run writes.

    Raises:
        UserError: with the key.
    """
    for path, part in _parts(_plain(config)):
        for name in PLACES.get(str(part.get("_target_")), ()):
            if name in part:
                raise UserError(
                    f"{'.'.join((*path, name))}: where a run writes is no setting; it is all in its run folder, which "
                    "hydra.run.dir=... sets."
                )


def check_writes_inside(config: Any, where: str) -> None:
    """Refuse settings of someone else under which a run could write outside its folder, or send something away.

    Args:
        config: a config or plain values, resolved.
        where: what it was read from, for the message.

    Raises:
        UserError: with the key, its value, and how to trust it.
    """
    for path, part in _parts(_plain(config)):
        target = str(part.get("_target_"))
        if target not in HARMLESS:
            continue
        for name, value in part.items():
            is_allowed = name in HARMLESS[target] or name in _OF_HYDRA or value is None
            if not is_allowed or (name != "monitor" and name not in _OF_HYDRA and not is_plain_name(value)):
                raise UserError(
                    f"{where}: {'.'.join((*path, str(name)))} is {reprlib.repr(value)}: someone else's run writes into its run "
                    f"folder only, under plain names, and sends nothing away. {INSTEAD}"
                )


def is_plain_name(value: Any) -> bool:
    """Whether a value can name a file in its folder and nothing else: no separator, no control character, no variable.

    >>> [is_plain_name(name) for name in ("best-{epoch}", "../best", "a\\nb", "$HOME", "~")]
    [True, False, False, False, False]
    """
    if not isinstance(value, str):
        return True
    return value.isprintable() and not value.startswith((".", "~")) and not set(value) & set("/\\:$%")


def _plain(config: Any) -> Any:
    return OmegaConf.to_container(config, resolve=False) if OmegaConf.is_config(config) else config


def _parts(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Every mapping at any depth."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from _parts(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _parts(inner, (*path, str(index)))
