"""Run a command under Hydra: settings are checked before the work is imported, and errors that a user can cause are one line."""

import contextlib
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue, OmegaConfBaseException

from hardneg_plugin.apps.shared.completion import is_completion, read_configs_once
from hardneg_plugin.apps.shared.override_hints import explain_composing, explain_override, needed_package
from hardneg_plugin.apps.shared.settings_check import check_types
from hardneg_plugin.apps.shared.surroundings import chain, explain_surroundings
from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import SharedError, UserError, message_of
from hardneg_plugin.terminal import print_plainly, say, show_error

ALONE = {("score", "predictions"), *((command, "run") for command in ("evaluate", "tasks", "page", "export"))}
"""Settings that an argument without a key stands for."""
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Variables in which torchrun, SLURM and LSF say which rank a process is, in Lightning's order."""


def run_command(config_name: str, task: Callable[[DictConfig], None], arguments: Sequence[str]) -> None:
    """Compose the config that the command line asks for, make the run folder, and call the task in it.

    An error that a user can cause ends the process with one line on standard error and exit code 2, and an empty run folder
    is removed. Any other error keeps its traceback.

    Args:
        config_name: of a file in conf/.
        task: takes the composed config, whose settings have their types.
        arguments: for Hydra, without the command.
    """
    # Hydra then raises errors instead of printing them
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *arguments]
    if is_completion(arguments):
        read_configs_once()
    is_composed = False
    if "${" in os.getcwd():
        fail(
            f"{os.getcwd()} has ${{ in its name, which Hydra reads as a reference to a setting: work in another folder."
        )

    def in_run_folder(config: DictConfig) -> None:
        nonlocal is_composed
        is_composed = True
        try:
            if "${" in str(run_directory()):
                raise UserError(f"hydra.run.dir: expected a folder without ${{ in its name, but got {run_directory()}.")
            for key, value in _flat(OmegaConf.to_container(config)):
                if value == "???":  # not OmegaConf.missing_keys, which stops at an interpolation to a missing key
                    raise UserError(_must_be_given(key, config_name))
            check_types(config, config_name)
            task(config)
        except BaseException as error:
            remove_if_empty(run_directory())
            # here and not only below: Hydra would print a line itself on the way
            _fail_if_explained(error, config_name, run_directory())
            raise

    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(in_run_folder)()
    except Exception as error:
        _fail_if_explained(error, config_name)
        if isinstance(error, ValueError) and not is_composed:  # Hydra's and OmegaConf's, of a value that fits nowhere
            fail(explain_composing(error, arguments))
        raise


def fail(message: str) -> NoReturn:
    """Print one line and exit with code 2."""
    # Until ranks that srun or torchrun started are connected, all fail for the same reason; rank 0 prints it.
    distributed = sys.modules.get("torch.distributed")  # not imported for this
    if is_first() or (distributed is not None and distributed.is_initialized()):
        with contextlib.suppress(OSError):  # of the disk that a log is on
            say(f"{Path(sys.argv[0]).name}: error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(2)


def is_first() -> bool:
    """Whether this is rank 0: by Lightning where it is imported, by the environment before."""
    lightning = sys.modules.get("lightning_fabric.utilities.rank_zero")
    if lightning is not None and hasattr(lightning.rank_zero_only, "rank"):
        return bool(lightning.rank_zero_only.rank == 0)
    return int(next((os.environ[name] for name in RANKS if os.environ.get(name)), "0")) == 0


def leads() -> bool:
    """Whether this process decides for all of a job: it is rank 0, or on the first node starts the ranks."""
    if any(os.environ.get(name) for name in RANKS):
        return is_first()
    return os.environ.get("NODE_RANK", "0") == "0"


def hush_libraries() -> None:
    """Silence notes and warnings of Lightning and torch about what is intended; what is left is printed plainly."""
    # notes on devices and restored checkpoints; warnings stay
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning and torch about each other
    # a resumed run finds its own
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    # scores are the same on all ranks, and count no study twice
    warnings.filterwarnings("ignore", message=".*(sync_dist=True|DistributedSampler).*")
    # an image of this size is refused, and that is told
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit", category=RuntimeWarning)
    # of an epoch; what is logged counts the steps of the whole training
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.showwarning = _show_in_a_line
    threading.excepthook = _leave_to_the_main_thread
    print_plainly()


def _leave_to_the_main_thread(ended: threading.ExceptHookArgs) -> None:
    """Print the error of a thread, but not that of TensorBoard's writer, which raises it in the main thread too."""
    if type(ended.thread).__name__ != "_AsyncWriterThread":
        show_error(ended.exc_type, ended.exc_value, ended.exc_traceback)


def _show_in_a_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning without the line of code that it comes from."""
    where = "" if issubclass(category, UserWarning) else f"{filename}:{lineno}: {category.__name__}: "
    say(f"Warning: {where}{message}", file=file or sys.stderr, flush=True)


def run_directory() -> Path:
    """The folder that Hydra made for this run, as it is called: Hydra would look up what `${` in a name seems to refer to."""
    runtime: Any = OmegaConf.to_container(HydraConfig.get().runtime, resolve=False)
    return Path(runtime["output_dir"])


def use_run_directory(folder: Path) -> None:
    """Make another folder the one of this run; `${hydra:runtime.output_dir}` is that one from now on."""
    config = HydraConfig.get()
    with read_write(config):
        config.runtime.output_dir = str(folder)


def is_run_directory_named() -> bool:
    """Whether the command line names the run folder, or that of the sweep."""
    config = HydraConfig.get()
    keys = ("hydra.run.dir",) if config.mode == RunMode.RUN else ("hydra.sweep.dir", "hydra.sweep.subdir")
    return any(override.lstrip("+").partition("=")[0] in keys for override in config.overrides.hydra)


def remove_if_empty(folder: Path) -> None:
    """Remove a run folder that nothing has been written into."""
    if folder != Path.cwd():  # which is the run folder of a command that makes none
        with contextlib.suppress(OSError):  # rmdir removes empty folders only
            folder.rmdir()


def _fail_if_explained(error: BaseException, config_name: str, folder: Path | None = None) -> None:
    if (message := explain(error, config_name, folder)) is not None:
        if any(isinstance(cause, SharedError) for cause in chain(error)) and not is_first():
            sys.exit(2)
        fail(message)


def explain(error: BaseException, config_name: str, folder: Path | None = None) -> str | None:
    """The message of an error that a user can cause; None for any other error.

    Args:
        error: with the chain of its causes.
        config_name: of the command's config, whose keys are suggested.
        folder: that the command writes into; None: the working folder.
    """
    for cause in chain(error):
        if isinstance(cause, UserError):
            return message_of(cause)
        if isinstance(cause, MissingMandatoryValue | InterpolationToMissingValueError):
            named = re.search(r"Missing mandatory value: ([\w.]+)", str(cause.msg))
            return _must_be_given(named.group(1) if named else str(cause.full_key), config_name)
    if isinstance(error, InstantiationException):
        return _explain_instantiation(error)
    if isinstance(error, HydraException):
        return explain_override(error, config_name)
    if isinstance(error, OmegaConfBaseException):
        return f"config: {error.msg or error} (key {error.full_key})"
    if isinstance(error, PermissionError | NotADirectoryError | FileExistsError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}. Runs are written there; hydra.run.dir=... sets another folder."
    return explain_surroundings(error, folder or Path.cwd())


def _must_be_given(key: str, config_name: str) -> str:
    if (config_name, key) in ALONE:
        return f"{key} must be given: hardneg-{config_name} {key.upper()}, or {key}=..."
    return f"{key} must be given: add {key}=... to the command line."


def _explain_instantiation(error: InstantiationException) -> str | None:
    """For wrong arguments of a constructor and missing packages; any other error is a bug."""
    cause = error.__cause__
    named = re.search(r"full_key: (\S+)", str(error))
    key = named.group(1) if named else "config"
    if isinstance(cause, TypeError) and "argument" in str(cause):
        return f"{key}: {cause}"
    if isinstance(cause, ImportError):
        return f"{key} needs a package that is not installed ({cause}): {needed_package(cause)}"
    return None


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{prefix}{key}", value
            yield from _flat(value, f"{prefix}{key}.")
