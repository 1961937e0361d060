"""Where a folder is prepared: beside its final place, into which it is renamed when complete."""

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

GO_ON = "Fix that and run the same command again: it continues where it stopped."


class WorkFolder:
    """`<output>.part`: the unfinished folder, the records of its chunks, and a lock; made by `at_work_on`."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output.with_name(f"{output.name}.part")
        self.unfinished = self.path / "folder"
        self.images = self.unfinished / IMAGES
        self.records = self.path / "records"
        self.lock = self.path / "lock"
        self.replaced = self.path / "replaced"

    def begin(self) -> None:
        """Make the folders that do not exist yet."""
        for folder in (self.images, self.records):
            with writing(folder, GO_ON):
                folder.mkdir(parents=True, exist_ok=True)

    def leave_only(self, shards: int) -> None:
        """Remove leftovers of earlier commands: unfinished files, and shards after the first `shards`."""
        expected = {DROPPED, TABLE, IMAGES, *map(shard_name, range(shards))}
        with writing(self.unfinished, GO_ON):
            for path in (*self.unfinished.iterdir(), *self.images.iterdir()):
                if path.name not in expected:
                    path.unlink()

    def put_in_place(self) -> None:
        """Rename the finished folder to its final name; only now is an old one replaced."""
        with writing(self.output, GO_ON):
            if self.output.exists():
                shutil.rmtree(self.replaced, ignore_errors=True)
                os.rename(self.output, self.replaced)
            os.rename(self.unfinished, self.output)

    def remove(self) -> None:
        """Remove everything, the lock last: a folder with a lock is known as one of ours."""
        for folder in (self.unfinished, self.records, self.replaced):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            (self.path / DROPPED).unlink(missing_ok=True)
            self.lock.unlink()
            self.path.rmdir()


@contextmanager
def at_work_on(output: Path) -> Iterator[WorkFolder]:
    """The work folder of an output, held for this command (`hold_folder`); removed if no work is left to continue.

    Raises:
        UserError: another command holds it, or it cannot be made.
    """
    work = WorkFolder(Path(os.path.realpath(output)))
    with hold_folder(
        work.path, command="hardneg-prepare", busy="another hardneg-prepare", remedy="Set another output."
    ):
        try:
            # What an interrupted command was about to replace.
            if work.replaced.exists() and not work.output.exists():
                with writing(work.output, GO_ON):
                    os.rename(work.replaced, work.output)
            yield work
        finally:
            has_begun = work.unfinished.is_dir() and work.records.is_dir() and any(work.records.iterdir())
            if not has_begun:
                work.remove()


def is_finished(output: Path, settings: dict[str, Any]) -> bool:
    """Whether a folder was prepared there under these settings; False if nothing exists yet.

    Args:
        output: the folder.
        settings: as in its prepared.json.

    Raises:
        UserError: something else exists there, or a folder prepared under other settings.
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
    """Raise a UserError if anything but a prepared or empty folder exists there."""
    is_ours = (output / DESCRIPTION).is_file() and (output / TABLE).is_file()
    if os.path.lexists(output) and not is_ours and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output} exists and is not a prepared folder; it is left as it is. Set another output.")
