"""How a process takes a folder for a run or an evaluation: alone, and never over another one."""

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import writing
from hardneg_plugin.folder_lock import FolderInUseError, hold_file
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.shell import command_line

LOCK = ".lock"
RESULTS = ("metrics.json", "checkpoints", "predictions")
"""By which a folder without config.yaml is known to hold something that a training would replace."""
OF_A_RUN = (
    "config.yaml",
    "overrides.yaml",
    *RESULTS,
    "logs",
    "tasks",
    "tasks.log",
    "page.html",
    "evaluation_*",
)
"""What belongs to a run and is replaced with it; other files in its folder stay."""
ANOTHER = "Set another hydra.run.dir."


@contextmanager
def take_run_folder(folder: Path, *, is_named: bool, resumes: bool = False, overwrite: bool = False) -> Iterator[Path]:
    """Take a folder for a training, until the block ends or the process dies.

    Args:
        folder: exists, or is made.
        is_named: the user chose it. Otherwise, if it is not free, one with a number behind its name is made.
        resumes: the run in it goes on.
        overwrite: a run in it is to be replaced (`remove_run`).

    Yields:
        The folder that was taken.

    Raises:
        UserError: another process works in it, or it holds a run that is neither resumed nor to be replaced.

    >>> import tempfile
    >>> outputs = Path(tempfile.mkdtemp())
    >>> with take_run_folder(outputs / "now", is_named=False) as one, take_run_folder(outputs / "now", is_named=False) as other:
    ...     print(one.name, other.name)
    now now_2
    """

    def check(folder: Path) -> None:
        if not resumes:
            _check_no_run(folder, overwrite)

    busy = f"another process is training in this folder. Wait until it has ended{'.' if resumes else f', or {_lower(ANOTHER)}'}"
    with _take(folder, is_named or resumes, busy, check) as taken:
        yield taken


@contextmanager
def take_evaluation_folder(folder: Path, *, is_named: bool, overwrite: bool = False) -> Iterator[Path]:
    """Take a folder for scores and reports, as `take_run_folder`.

    Args:
        folder, is_named: as of `take_run_folder`.
        overwrite: scores in it may be replaced, but not those of a training.

    Yields:
        The folder that was taken.

    Raises:
        UserError: another process works in it, it is the folder of a run, or it holds scores that are not to be replaced.
    """

    def check(folder: Path) -> None:
        if RunFolder(folder).config.is_file():
            raise UserError(f"{folder} holds a run, whose scores would be replaced. {ANOTHER}")
        if not overwrite and (held := _held(folder, ("metrics.json", "predictions"))):
            raise UserError(
                f"{folder} holds {held} already. Set another hydra.run.dir, or overwrite=true to replace what is there."
            )

    busy = f"another process is at work in this folder. Wait until it has ended, or {_lower(ANOTHER)}"
    with _take(folder, is_named, busy, check) as taken:
        yield taken


def remove_run(folder: Path) -> None:
    """Remove a run from its folder, with everything that was computed from it; other files stay.

    Raises:
        OSError: something cannot be removed.
    """
    _remove(folder, OF_A_RUN)


def remove_scores(folder: Path) -> None:
    """Remove the scores and reports of an evaluation.

    Raises:
        OSError: something cannot be removed.
    """
    _remove(folder, ("metrics.json", "predictions"))


def _remove(folder: Path, patterns: tuple[str, ...]) -> None:
    for path in [path for pattern in patterns for path in folder.glob(pattern)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextmanager
def _take(folder: Path, is_named: bool, busy: str, check: Callable[[Path], None]) -> Iterator[Path]:
    with ExitStack() as held:
        with writing(folder, ANOTHER):
            if is_named:
                held.enter_context(hold_file(folder / LOCK, f"{folder}: {busy}"))
                check(folder)
            else:
                folder = _take_free(folder, held)
        yield folder


def _take_free(folder: Path, held: ExitStack) -> Path:
    """The folder if it is empty, or the first that can be made with a number behind its name."""
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        with ExitStack() as attempt:
            try:
                if number > 1:
                    candidate.mkdir()
                attempt.enter_context(hold_file(candidate / LOCK, ""))
            except (FileExistsError, FolderInUseError):
                continue
            if [path.name for path in candidate.iterdir()] == [LOCK]:
                held.push(attempt.pop_all())
                return candidate
    raise AssertionError  # counted without end


def _check_no_run(folder: Path, overwrite: bool) -> None:
    run = RunFolder(folder)
    if not run.config.is_file():
        if held := _held(folder, RESULTS):
            raise UserError(
                f"{folder} holds {held} but no config.yaml, so it is no run of hardneg-train; it is left as it is. {ANOTHER}"
            )
    elif not overwrite:
        go_on = command_line("hardneg-train", resume=folder)
        if run.metrics.is_file():
            raise UserError(
                f"{folder} holds a finished run. Set another hydra.run.dir, or overwrite=true to replace it; {go_on} trains it "
                "further."
            )
        raise UserError(
            f"{folder} holds a run that is not finished. Continue it with {go_on}, set another hydra.run.dir, or overwrite=true to "
            "replace it."
        )


def _held(folder: Path, names: tuple[str, ...]) -> str:
    return ", ".join(name for name in names if (folder / name).exists())


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
