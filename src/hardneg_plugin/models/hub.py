"""Exported report generators from and to repositories of the Hugging Face hub."""

import re
from pathlib import Path
from typing import Any

from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.models.exported_folder import FILES
from hardneg_plugin.runs.provenance import DISTRIBUTION

# huggingface_hub is imported where it is used: tests replace its functions.


def folder_of(folder_or_repo: str | Path, revision: str | None, **download: Any) -> Path:
    """The folder itself, or a copy of the files of a repository.

    Args:
        folder_or_repo: a folder, or a repository "owner/name".
        revision: branch, tag or commit of the repository; None: its main branch.
        download: further arguments of `huggingface_hub.snapshot_download`.

    Raises:
        UserError: there is no such folder, or the repository cannot be read.
    """
    folder = Path(folder_or_repo).expanduser()
    if folder.is_dir():
        return folder
    repo_id = str(folder_or_repo)
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", repo_id):
        raise UserError(
            f"Expected the folder of an exported report generator or a repository such as owner/name, but there is no {repo_id}."
        )
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            repo_id, revision=revision, library_name=DISTRIBUTION, allow_patterns=list(FILES), **download
        )
    except Exception as error:  # the hub, its cache and the network raise errors of many kinds
        raise UserError(
            f"Expected the folder of an exported report generator or a repository of the hub, but there is no folder {repo_id}, "
            f"and no such repository could be read ({first_line(error)})."
        ) from error
    return Path(str(found))


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str,
    token: str | bool | None = None,
    create_pr: bool = False,
) -> str:
    """Upload the files of an exported folder; the repository is made where there is none.

    Args:
        folder: what `save_pretrained` wrote.
        repo_id, private, revision, commit_message, token, create_pr: as of `huggingface_hub.HfApi`.

    Returns:
        The address of the commit.

    Raises:
        UserError: the hub refuses it, or cannot be reached.
    """
    import huggingface_hub

    api = huggingface_hub.HfApi(token=token, library_name=DISTRIBUTION)
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        commit: Any = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    except Exception as error:  # as in `folder_of`
        raise UserError(f"{repo_id} could not be written on the hub: {first_line(error)}.") from error
    return str(commit.commit_url)
