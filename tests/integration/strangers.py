"""What a process does to files, other programs and the network, seen by an audit hook; and files of a folder before and after."""

import hashlib
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import hardneg_plugin

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PLACES = {  # the arguments that are paths
    "open": (0,),
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.link": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "shutil.rmtree": (0,),
}
CODE = {
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
    "urllib.Request",
    "builtins.input",
}


class Watch:
    """Keeps what is done outside of a folder while it is on; an audit hook cannot be removed."""

    def __init__(self):
        self.inside, self.done = None, []
        sys.addaudithook(self._see)

    def _see(self, event, arguments):
        if self.inside is None:
            return
        if event in CODE and not (event == "subprocess.Popen" and _asks_for_the_commit(arguments[1])):
            self.done.append((event, repr(arguments)[:200]))
        elif event in PLACES and not (event == "open" and not arguments[2] & WRITING):
            for index in PLACES[event]:
                if not isinstance(arguments[index], int) and self._is_changed(event, arguments[index]):
                    self.done.append((event, str(arguments[index])))

    def _is_changed(self, event, path):
        """Whether something outside of the folder is."""
        inside, self.inside = self.inside, None  # realpath raises events, too
        try:
            path = os.fsdecode(path)
            # by its folder: what is a link itself is removed or replaced, not followed
            real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
            is_known = real == os.devnull or "__pycache__" in real  # bytecode of what is imported late
            is_known = is_known or (event == "os.mkdir" and os.path.isdir(path))  # Hydra makes the current folder
            return not is_known and os.path.commonpath([real, inside]) != inside
        finally:
            self.inside = inside

    @contextmanager
    def on(self, folder):
        """Watch; yields the list of what is done outside of the folder."""
        self.inside, self.done = os.path.realpath(folder), []
        try:
            yield self.done
        finally:
            self.inside = None


def _asks_for_the_commit(command):
    """Whether this is git in the checkout of the project, for the provenance."""
    return command[:2] == ["git", "-C"] and Path(hardneg_plugin.__file__).resolve().is_relative_to(
        Path(command[2]).resolve()
    )


def contents(folder, without):
    """Every file, folder and link of a folder but one below it, with what it holds."""
    found = {}
    for top, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(top, name) != without]
        for path in (Path(top, name) for name in (*folders, *files)):
            state = path.lstat()
            held = os.readlink(path) if path.is_symlink() else ""
            if path.is_file() and not path.is_symlink():
                held = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = (state.st_mode, state.st_size if held else 0, held)
    return found
