"""The run folder of a job, taken by the process that leads; the other ranks follow its job."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hardneg_plugin.apps.shared.hydra_command import is_run_directory_named, leads, run_directory, use_run_directory
from hardneg_plugin.apps.shared.launch import is_one_of_many
from hardneg_plugin.errors import UserError


@contextmanager
def own_folder(
    trainer: dict[str, Any], take: Callable[[Path, bool], AbstractContextManager[Path]]
) -> Iterator[str | None]:
    """Take the run folder that Hydra made, or another one in its place, until the block ends.

    Args:
        trainer: the trainer's settings.
        take: takes a folder; called with the folder and whether the command line names it.

    Yields:
        None; or why the folder is refused, where other ranks or nodes wait to be told (`Job.refused`).

    Raises:
        UserError: the folder is refused, and nobody waits.
    """
    refused = None
    with ExitStack() as held:
        if leads():
            folder = run_directory()
            try:
                taken = held.enter_context(take(folder, is_run_directory_named()))
                if taken != folder:
                    use_run_directory(taken)
            except UserError as error:
                if not is_one_of_many() and (trainer.get("num_nodes") or 1) == 1:
                    raise
                refused = str(error)
        yield refused
