"""Run a command under Hydra, and turn errors that a user can cause into one line instead of a traceback."""

import contextlib
import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import hydra
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException
from pytorch_lightning.utilities import rank_zero_only

from hardneg_plugin.apps.shared.positional import with_path_as_setting
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError


def run_command(config_name: str, task: Callable[[DictConfig], None], *, path: str | None = None) -> None:
    """Compose the config that the command line asks for, make the run folder, and call the task in it.

    An error that a user can cause ends the process with one line on standard error and exit code 2, and an empty run folder
    is removed. Any other error keeps its traceback.

    Args:
        config_name: of a file in conf/.
        task: takes the composed config.
        path: the setting that an argument without a key stands for, such as "run".
    """
    # Hydra then raises errors instead of printing them
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def in_run_folder(config: DictConfig) -> None:
        hush_libraries()  # here: a launcher of Hydra may have sent only this function to another machine
        try:
            for key, value in _flat(OmegaConf.to_container(config)):
                if value == "???":  # not OmegaConf.missing_keys, which stops at an interpolation to a missing key
                    raise UserError(_must_be_given(key))
            task(config)
        except BaseException as error:
            remove_if_empty(run_directory())
            # here and not only below: Hydra would print a line itself on the way
            _fail_if_explained(error, config_name)
            raise

    try:
        if path is not None:
            sys.argv = [sys.argv[0], *with_path_as_setting(sys.argv[1:], config_name, path)]
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(in_run_folder)()
    except Exception as error:
        _fail_if_explained(error, config_name)
        raise


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    # Until ranks that srun or torchrun started are connected, all fail for the same reason; rank 0 prints it.
    if is_first() or dist.is_initialized():
        print(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def is_first() -> bool:
    """Whether this is rank 0, by the environment: also before the ranks are connected."""
    return getattr(rank_zero_only, "rank", 0) == 0


def hush_libraries() -> None:
    """Silence notes and warnings of Lightning and torch about what is intended."""
    # notes on devices and restored checkpoints; warnings stay
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning and torch about each other
    # a resumed run finds its own
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # scores are the same on all ranks, and count no study twice
    warnings.filterwarnings("ignore", message=".*(sync_dist=True|DistributedSampler).*")


def run_directory() -> Path:
    """The folder that Hydra made for this run."""
    return Path(HydraConfig.get().runtime.output_dir)


def remove_if_empty(folder: Path) -> None:
    """Remove a run folder that nothing has been written into."""
    if folder != Path.cwd():  # which is the run folder of a command that makes none
        with contextlib.suppress(OSError):  # rmdir removes empty folders only
            folder.rmdir()


def _fail_if_explained(error: BaseException, config_name: str) -> None:
    if (message := explain(error, config_name)) is not None:
        fail(message)


def explain(error: BaseException, config_name: str) -> str | None:
    """The message of an error that a user can cause; None for any other error.

    Args:
        error: with the chain of its causes.
        config_name: of the command's config, whose keys are suggested.
    """
    for cause in _chain(error):
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, MissingMandatoryValue | InterpolationToMissingValueError):
            named = re.search(r"Missing mandatory value: ([\w.]+)", str(cause.msg))
            return _must_be_given(named.group(1) if named else str(cause.full_key))
    if isinstance(error, InstantiationException):
        return _explain_instantiation(error)
    if isinstance(error, HydraException):
        return _explain_override(str(error), config_name)
    if isinstance(error, OmegaConfBaseException):
        return f"config: {error.msg or error} (key {error.full_key})"
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Runs are written there; hydra.run.dir=... sets another folder."
    return None


def _must_be_given(key: str) -> str:
    return f"{key} must be given: add {key}=... to the command line."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _explain_instantiation(error: InstantiationException) -> str | None:
    """For wrong arguments of a constructor and missing packages; any other error is a bug."""
    cause = error.__cause__
    named = re.search(r"full_key: (\S+)", str(error))
    key = named.group(1) if named else "config"
    if isinstance(cause, TypeError) and "argument" in str(cause):
        return f"{key}: {cause}"
    if isinstance(cause, ImportError):
        return f"{key} needs a package that is not installed ({cause}): pip install 'hardneg-plugin[{key}]'."
    return None


def _explain_override(message: str, config_name: str) -> str:
    if missing_option := re.search(r"Could not find '([^']+)'", message):
        group, _, option = missing_option.group(1).rpartition("/")
        options = [path.stem for path in sorted((conf_dir() / group).glob("*.yaml"))]
        return f"{group}={option}: there is no such config{_nearest(option, options)} There are: {', '.join(options)}."
    if unknown_key := re.search(r"Could not override '([^']+)'", message):
        key = unknown_key.group(1)
        return f"{key}: there is no such config key{_nearest(key, list(_known_keys(config_name)))}"
    return message.splitlines()[0]


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "."


def _known_keys(config_name: str) -> Iterator[str]:
    """Every key of the composed config and every config group."""
    yield from (path.name for path in conf_dir().iterdir() if path.is_dir())
    with (
        contextlib.suppress(ConfigCompositionException),  # of a config where a group is still to be chosen
        hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"),
    ):
        yield from (key for key, _ in _flat(OmegaConf.to_container(hydra.compose(config_name))))


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}", value
            yield from _flat(value, f"{prefix}{key}.")
