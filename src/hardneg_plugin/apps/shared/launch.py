"""Start the processes of a job on this machine, watch them, and say once what went wrong.

Not Lightning's launcher, which starts ranks by the command line of the first: under `--multirun` each would run the whole sweep,
each composes its own config and run folder, and a failed rank ends in SIGKILL of all, whatever the error.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.environments.lsf import LSFEnvironment
from lightning_fabric.plugins.environments.mpi import MPIEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.accelerators import CPUAccelerator, CUDAAccelerator
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from hardneg_plugin.apps.shared import rank_main
from hardneg_plugin.apps.shared.failures import explain_failure, lost_connection, resume_hint
from hardneg_plugin.apps.shared.hydra_command import is_first
from hardneg_plugin.apps.shared.meeting import Node, loopback_warning, meet
from hardneg_plugin.apps.shared.ranks import Job
from hardneg_plugin.apps.shared.signs_of_life import signs_of_life
from hardneg_plugin.errors import UserError
from hardneg_plugin.terminal import say

IMPORTED_ONCE = ["hardneg_plugin.apps.train", "hardneg_plugin.apps.evaluate"]
"""What the fork server imports for all ranks, of all jobs of a sweep."""
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def carry_out(job: Job, task: Callable[[Job], None]) -> None:
    """Do a job in this process, or in as many as `trainer.devices` asks for.

    Args:
        job: the run.
        task: does the job in this process.

    Raises:
        UserError: for any error that a user can cause.
        SystemExit: after an interrupt, once it is reported.
    """
    _check_srun(job)
    processes = to_launch(job.settings["trainer"])
    try:
        if processes:
            launch(job, processes)
        elif is_one_of_many():
            with signs_of_life(job.settings["rank_timeout"], lambda text, says: _end_for_silence(text, says, job)):
                task(job)
        else:
            task(job)
    except KeyboardInterrupt:
        if is_first():
            say(f"Interrupted. {resume_hint(job)}".rstrip(), file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        # of the ranks of a node that srun or torchrun started two say so: one of them may be the one that is gone
        place = next((os.environ[name] for name in ("LOCAL_RANK", "SLURM_LOCALID") if os.environ.get(name)), "0")
        if int(place) > 1 and lost_connection(error) is not None:
            sys.exit(1)
        if (message := explain_failure(error, job)) is not None:
            raise UserError(message) from error
        raise


def _end_for_silence(text: str, says: bool, job: Job) -> None:
    """End this rank, which waits for one that gives no sign of life: no signal reaches what waits in a collective call."""
    if says:
        say(f"{text} {resume_hint(job)}".rstrip(), file=sys.stderr, flush=True)
    os._exit(1)


def to_launch(trainer: dict[str, Any]) -> int:
    """The number of processes to start: 0 where this one does the job, alone or as a rank that srun or torchrun started.

    Args:
        trainer: the trainer's settings.

    Raises:
        UserError: `devices` is invalid.
    """
    if is_one_of_many():
        return 0
    processes = _devices(trainer["accelerator"], trainer["devices"])
    return processes if processes > 1 or trainer.get("num_nodes", 1) > 1 else 0


def launch(job: Job, processes: int) -> None:
    """Do a job in several processes on this machine, and as many on each other node; returns when all are done.

    torchrun's launcher starts and watches them: one that fails ends the others. They are forked from a server that has imported
    the project, so that N ranks do not import it N times.

    Args:
        job: the run.
        processes: on this machine, at least 1.

    Raises:
        UserError: of one of them; or the environment lacks the addresses of the nodes.
        KeyboardInterrupt: after an interrupt has ended all of them.
        SystemExit: after any other error of one of them, once it is printed.
    """
    nodes = job.settings["trainer"].get("num_nodes", 1)
    own = Node.of_environment(nodes, processes) if nodes > 1 else None
    rendezvous = _on_this_machine() if own is None else _on_several(own, job.settings["rendezvous_timeout"])
    config = LaunchConfig(nodes, nodes, processes, max_restarts=0, start_method="forkserver", **rendezvous)
    multiprocessing.set_forkserver_preload(IMPORTED_ONCE)
    # its own report of failures, which ours replaces
    for logger in ("torch.distributed.elastic", "torch.multiprocessing", "torchelastic-events-null"):
        logging.getLogger(logger).propagate = False
        logging.getLogger(logger).addHandler(logging.NullHandler())
    # and what libraries of the other ranks log when one is gone
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    met = None
    if own is not None:
        if not _is_on_gpu(job.settings["trainer"]["accelerator"]) and (warning := loopback_warning(own)) is not None:
            say(f"Warning: {warning}", file=sys.stderr, flush=True)
        met = meet(own, job.settings["rendezvous_timeout"])
    with tempfile.TemporaryDirectory(prefix=f"hardneg-{job.command}-") as directory, contextlib.ExitStack() as stack:
        for number in HANDLED:  # whose handlers the launcher replaces
            stack.callback(signal.signal, number, signal.getsignal(number))
        job_file = Path(directory) / "job.json"
        job.write(job_file)
        try:
            elastic_launch(config, rank_main.main)(rank_main.Surroundings(), str(job_file))
        except SignalException as ended:
            if ended.sigval == signal.SIGINT:
                raise KeyboardInterrupt from ended
            say(f"Ended by {ended.sigval.name}. {resume_hint(job)}".rstrip(), file=sys.stderr)
            sys.exit(128 + ended.sigval)
        except ChildFailedError as error:
            _report(error, Path(directory), job)
            sys.exit(1)
        finally:
            del met  # no earlier: node 0 has the store by which the ranks of all nodes find one another


def is_one_of_many() -> bool:
    """Whether this is a rank that srun or torchrun started, among others."""
    if SLURMEnvironment.detect() and int(os.environ["SLURM_NTASKS"]) > 1:
        return True
    others = (TorchElasticEnvironment, LSFEnvironment, MPIEnvironment)
    return "LOCAL_RANK" in os.environ or any(environment.detect() for environment in others)


def _check_srun(job: Job) -> None:
    """Refuse to wait for the other tasks of a SLURM job that nobody starts.

    Raises:
        UserError: the job has several tasks, and srun has not started this one.
    """
    of_step = ("SLURM_STEP_ID", "SLURM_STEPID", "SLURM_STEP_NODELIST")
    if SLURMEnvironment.detect() and int(os.environ["SLURM_NTASKS"]) > 1 and not any(map(os.environ.get, of_step)):
        raise UserError(
            f"SLURM_NTASKS={os.environ['SLURM_NTASKS']}, but srun has not started this command, which would wait for the other "
            f"tasks: srun --kill-on-bad-exit=1 hardneg-{job.command} ..."
        )


def _is_on_gpu(accelerator: str) -> bool:
    return accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())


def _devices(accelerator: str, devices: Any) -> int:
    on_gpu = _is_on_gpu(accelerator)
    kind: Any = CUDAAccelerator if on_gpu else CPUAccelerator
    if devices == "auto":
        return int(kind.auto_device_count())
    try:
        parsed = kind.parse_devices(devices)
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise UserError(f"trainer.devices={devices} with trainer.accelerator={accelerator}: {error}") from error
    return len(parsed or ()) if on_gpu else parsed


def _on_this_machine() -> dict[str, Any]:
    """Arguments of LaunchConfig for one node."""
    return {
        "run_id": uuid.uuid4().hex,
        "rdzv_backend": "c10d",
        "rdzv_endpoint": "localhost:0",  # any free port
        "local_addr": "localhost",
    }


def _on_several(own: Node, timeout: float) -> dict[str, Any]:
    """Arguments of LaunchConfig by which the launchers of all nodes find one another."""
    return {
        "run_id": "hardneg",  # the same on all nodes
        "rdzv_backend": "static",
        "rdzv_endpoint": own.endpoint,
        "rdzv_configs": {"rank": own.number, "timeout": timeout},
    }


def _report(error: ChildFailedError, directory: Path, job: Job) -> None:
    """Print the first error, from which the others follow, or raise it as a UserError."""
    codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
    reports = {path: json.loads(path.read_text(encoding="utf-8")) for path in directory.glob("rank_*.json")}
    if silence := next((report["text"] for report in reports.values() if report["kind"] == "silence"), None):
        text = f"{silence} The others were ended too. {resume_hint(job)}"
    elif killed := [rank for rank, code in codes.items() if code < 0]:
        name = signal.Signals(-codes[killed[0]]).name
        hint = ", possibly for lack of memory" if name == "SIGKILL" else ""
        text = f"Rank {killed[0]} was ended by {name}{hint}; the others were ended too. {resume_hint(job)}"
    elif not reports:
        text = f"Ended without an error message: {codes} (rank: exit code). {resume_hint(job)}"
    else:
        # a lost connection is what the others see of the error of one
        first = min(reports, key=lambda path: (reports[path]["kind"] == "lost", reports[path]["time"]))
        text = reports[first]["text"]
        if reports[first]["kind"] == "lost":
            say(text, file=sys.stderr)
            return
        if reports[first]["kind"] == "explained":
            raise UserError(text)
        text = f"Rank {first.stem.removeprefix('rank_')} ended with an error:\n{text}"
    say(text.rstrip(), file=sys.stderr)
