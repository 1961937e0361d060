"""What stopped a job, in a line, with the command that goes on from there."""

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


def explain_failure(error: BaseException, job: Job) -> str | None:
    """The message of an error that a user can cause; None for any other error.

    Args:
        error: with the chain of its causes.
        job: that it ended.
    """
    message = explain(error, job.command, Path(job.folder))
    if message is None or any(isinstance(cause, UserError) for cause in chain(error)):
        return message
    return f"{message} {resume_hint(job)}".rstrip()


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
