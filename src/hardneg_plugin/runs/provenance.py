"""What a result came from: the code, the packages, the machine, the data and the command."""

import importlib.metadata
import json
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hardneg_plugin

DISTRIBUTION = "hardneg-plugin"
SECRET = re.compile(r"(^|[._-])(api_?key|key|tokens?|passwords?|passwd|secrets?|credentials?|auth)$", re.IGNORECASE)
"""The end of a setting's name whose value is not written down."""
_HIDDEN = "***"


def provenance(data: Mapping[str, Any]) -> dict[str, Any]:
    """Where a result comes from: version and commit of this package, Python, platform, packages, and data; plain values only.

    Args:
        data: the fingerprint of the data.
    """
    return {
        "version": _version(),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "data": dict(data),
        "versions": versions(),
    }


def command_without_secrets(command: str, overrides: Sequence[str]) -> str:
    """A command as it can be pasted into a shell, without secrets.

    Args:
        command: its name.
        overrides: its arguments.

    >>> print(command_without_secrets("hardneg-train", ["seed=1", "data.root=my studies", "+logger.wandb.api_key=abc"]))
    hardneg-train seed=1 'data.root=my studies' '+logger.wandb.api_key=***'
    """
    return shlex.join([command, *map(_without_secret, overrides)])


def versions() -> dict[str, str]:
    """The installed version of this package and of every package that it can use, by name."""
    found = {DISTRIBUTION: _version()}
    try:
        wanted = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout without being installed
        wanted = ["torch", "pytorch-lightning", "timm", "transformers", "numpy"]
    # those of development do not change a result, unless they are of use otherwise too
    names = {re.split(r"[^\w.-]", need, maxsplit=1)[0] for need in wanted if not re.search(r"extra == .dev.", need)}
    for name in sorted(names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of this package's code, "-modified" where the checkout differs from it; None where it is not known."""
    folder = Path(hardneg_plugin.__file__).resolve().parent
    if (top := _git(folder, "rev-parse", "--show-toplevel")) is not None:
        # a package that is installed below some other repository is none of its files
        if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
            return _commit_of_installation()
        head, changes = _git(folder, "rev-parse", "HEAD"), _git(Path(top), "status", "--porcelain", "-uno")
        return head and f"{head}{'-modified' if changes else ''}"
    return _commit_of_installation()


def _commit_of_installation() -> str | None:
    """That of `pip install git+...`."""
    try:
        text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
        found = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    return None if found is None else str(found)


def _version() -> str:
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _git(folder: Path, *arguments: str) -> str | None:
    """The output of git, or None where there is no git, no repository, or it takes too long."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _without_secret(override: str) -> str:
    key, equals, value = override.partition("=")
    if equals and SECRET.search(key):
        return f"{key}={_HIDDEN}"
    # in a nested value, and in an address with a password
    value = re.sub(r"([\w.-]+)(\s*:\s*)([^,{}\[\]]+)", _hide_nested, value)
    value = re.sub(r"(://[^/@:\s]*:)[^/@\s]+@", rf"\1{_HIDDEN}@", value)
    return f"{key}{equals}{value}"


def _hide_nested(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}{_HIDDEN}" if SECRET.search(found[1]) else found[0]
