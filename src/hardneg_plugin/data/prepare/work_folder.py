"""Where a folder is prepared: beside its place, into which it is renamed once it is whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hardneg_plugin.data.prepared import DESCRIPTION, DROPPED, IMAGES, TABLE, read_description
from hardneg_plugin.data.store import shard_name
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import writing
from hardneg_plugin.folder_lock import hold_folder

GO_ON = "See to it and give the same command again: it goes on where it was."


class WorkFolder:
    """`<output>.part`: the unfinished folder, what is known of its chunks, and a lock; made by `at_work_on`."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(f"{output.name}.part")
        self.unfinished = self.path / "folder"
        self.images = self.unfinished / IMAGES
        self.records = self.path / "records"
        self.lock = self.path / "lock"
        self._replaced = self.path / "replaced"

    def begin(self) -> None:
        """Make the folders that are not there yet."""
        for folder in (self.images, self.records):
            with writing(folder, GO_ON):
                folder.mkdir(parents=True, exist_ok=True)

    def recover(self) -> None:
        """Put back what an earlier command was about to replace when it was ended."""
        if self._replaced.exists() and not self.output.exists():
            with writing(self.output, GO_ON):
                os.rename(self._replaced, self.output)

    def leave_only(self, shards: int) -> None:
        """Remove what earlier commands have left: halves of files, and shards after the first so many."""
        expected = {DROPPED, TABLE, IMAGES, *map(shard_name, range(shards))}
        with writing(self.unfinished, GO_ON):
            for path in (*self.unfinished.iterdir(), *self.images.iterdir()):
                if path.name not in expected:
                    path.unlink()

    def put_in_place(self) -> None:
        """Rename the unfinished folder, which is whole now, to what it is to be; what was there goes only now."""
        with writing(self.output, GO_ON):
            if self.output.exists():
                shutil.rmtree(self._replaced, ignore_errors=True)
                os.rename(self.output, self._replaced)
            os.rename(self.unfinished, self.output)

    def remove(self) -> None:
        """Remove all of it, the lock at last: what has one is known as ours."""
        for folder in (self.unfinished, self.records, self._replaced):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            (self.path / DROPPED).unlink(missing_ok=True)
            self.lock.unlink()
            self.path.rmdir()

    @property
    def has_begun(self) -> bool:
        """Whether there is anything that the next command could go on with."""
        return self.unfinished.is_dir() and self.records.is_dir() and any(self.records.iterdir())


@contextmanager
def at_work_on(output: Path) -> Iterator[WorkFolder]:
    """The work folder of an output, which no other command works on meanwhile; it is removed when there is nothing to go on with.

    Raises:
        UserError: another command is at work on it, or it cannot be made.
    """
    work = WorkFolder(Path(os.path.realpath(output)))
    with hold_folder(
        work.path, command="hardneg-prepare", busy="another hardneg-prepare", remedy="Set another output."
    ):
        try:
            work.recover()
            yield work
        finally:
            if not work.has_begun:
                work.remove()


def is_finished(output: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder has been prepared there under these settings; False where there is nothing yet.

    Raises:
        UserError: something else is there, or a folder prepared under other settings.
    """
    check_replaceable(output)
    if not (output / DESCRIPTION).exists():
        return False
    before = read_description(output)["settings"]
    if differing := sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key)):
        raise UserError(
            f"{output} was prepared under other settings ({', '.join(differing)} differ). Set another output, or "
            "overwrite=true to replace it."
        )
    return True


def check_replaceable(output: Path) -> None:
    """Raise a UserError if anything but a prepared folder is there."""
    is_ours = (output / DESCRIPTION).is_file() and (output / TABLE).is_file()
    if os.path.lexists(output) and not is_ours and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output} is there and is no prepared folder; it is left as it is. Set another output.")
