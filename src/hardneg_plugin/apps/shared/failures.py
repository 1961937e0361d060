"""What stopped a job, in a line, with the command that goes on from there."""

import re
from pathlib import Path

from hardneg_plugin.apps.shared.hydra_command import explain
from hardneg_plugin.apps.shared.ranks import Job
from hardneg_plugin.apps.shared.surroundings import chain
from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.overrides import check_overrides
from hardneg_plugin.runs.places import check_writes_inside
from hardneg_plugin.runs.shell import command_line
from hardneg_plugin.runs.trusted import check_trusted

LOST = re.compile(r"Connection (?:closed|reset) by peer|Connection was likely closed|Broken pipe|remote process exited")
"""What gloo, NCCL and the store say where a rank that they talk to is gone."""
OVERDUE = re.compile(r"gloo.*Timed out waiting \d+ms|Application timeout caused pair closure")
"""What gloo says where a rank has not taken part in time, and of the calls after that one."""
PEER = re.compile(r"peer \[(?:::ffff:)?([^\]]+)\]")


def explain_failure(error: BaseException, job: Job) -> str | None:
    """The message of an error that a user can cause; None for any other error.

    Args:
        error: with the chain of its causes.
        job: that it ended.
    """
    message = explain(error, job.command, Path(job.folder)) or lost_connection(error)
    if message is None or any(isinstance(cause, UserError) for cause in chain(error)):
        return message
    return f"{message} {resume_hint(job)}".rstrip()


def lost_connection(error: BaseException) -> str | None:
    """What to say where a collective call failed because another rank is gone; None for any other error.

    >>> lost_connection(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:4710"))
    'The connection to a rank on 10.0.0.2 is lost: it ended, or its machine or network is gone. See what that node says.'
    """
    for cause in chain(error):
        text = str(cause)
        if isinstance(cause, RuntimeError) and OVERDUE.search(text):
            return "Another rank has not taken part in a collective call in time (collective_timeout). See what its node says."
        of_ranks = isinstance(cause, RuntimeError) and ("gloo" in text or type(cause).__name__.startswith("Dist"))
        if of_ranks and LOST.search(text):
            where = f"a rank on {peer[1]}" if (peer := PEER.search(text)) is not None else "another rank"
            return f"The connection to {where} is lost: it ended, or its machine or network is gone. See what that node says."
    return None


def resume_hint(job: Job) -> str:
    """The command that resumes a training; empty for one that has not begun, and for other commands."""
    run = RunFolder(job.folder)
    if job.command != "train" or not run.config.is_file():
        return ""
    hint = f"Resume with: {command_line('hardneg-train', resume=run.path)}"
    try:
        check_overrides(job.overrides, "")
        check_trusted(job.settings, "")
        check_writes_inside(job.settings, "")
    except UserError:  # it names classes of the user's
        return f"{hint} trust=true"
    return hint
