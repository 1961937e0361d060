"""The files that hardneg-tasks writes to run folders, read as further scores of a comparison."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.task_scores import TaskRow, task_card
from hardneg_plugin.runs.folder import RunFolder


def task_files(folder: RunFolder, split: str) -> dict[str, Path]:
    """By task the file with what each study of a split adds to its scores.

    Args:
        folder: that of the run.
        split: "val" or "test".
    """
    return {path.stem.removesuffix(f"_{split}"): path for path in sorted(folder.tasks.glob(f"*_{split}.jsonl"))}


def tasks_of_all(runs: Mapping[str, Sequence[RunFolder]], split: str) -> tuple[list[str], list[str]]:
    """The tasks that every run did on a split, and those that only some did.

    Args:
        runs: by variant, one for each seed.
        split: "val" or "test".
    """
    done = [set(task_files(folder, split)) for folders in runs.values() for folder in folders]
    shared = set.intersection(*done) if done else set()
    return sorted(shared), sorted(set().union(*done) - shared)


def read_task(path: Path) -> list[TaskRow]:
    """The rows of a task, in the order of the studies' ids.

    Raises:
        UserError: the file holds something else.
    """
    try:
        rows: list[Any] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        task_card(rows)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"Expected what hardneg-tasks writes, but {path} holds something else ({error!r}). Do the task again."
        ) from error
    return sorted(rows, key=lambda row: str(row["id"]))


def add_tasks(card: ScoreCard, files: Sequence[Path], ids: Sequence[str]) -> None:
    """Add the scores of tasks to those of a run; a score that the run already has stays.

    Args:
        card: the scores of the run.
        files: those of the tasks.
        ids: the N studies that count; a file may hold more.

    Raises:
        UserError: a file cannot be read, or lacks a study.
    """
    for path in files:
        by_id = {row["id"]: row for row in read_task(path)}
        if not by_id.keys() >= set(ids):
            raise UserError(
                f"{path} is of other studies than the predictions of the runs: do the task again on the same split and data."
            )
        rows = [by_id[study] for study in ids]  # a run that limits its batches predicts fewer studies
        known = {name for statistic in card.statistics for name in statistic.values()}
        added = task_card(rows)
        card.statistics += [statistic for statistic in added.statistics if known.isdisjoint(statistic.values())]
        card.values |= {name: value for name, value in added.values.items() if name not in card.values}
