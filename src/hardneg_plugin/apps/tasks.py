"""hardneg-tasks: what the frozen features of a trained model are worth, by downstream tasks."""

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.console import console, make_table
from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.downstream.frozen_features import Model
from hardneg_plugin.evaluation.downstream.run_tasks import TASKS, TaskInputs
from hardneg_plugin.evaluation.downstream.tasks import TaskResult
from hardneg_plugin.files import write_json, write_jsonl, writing
from hardneg_plugin.folder_lock import hold_file
from hardneg_plugin.metrics.directions import directions_of, with_direction
from hardneg_plugin.metrics.task_scores import task_card
from hardneg_plugin.models.base import move_to_device
from hardneg_plugin.progress import progress
from hardneg_plugin.runs.checkpoint import find_checkpoint, load_trained_model
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.taking import LOCK
from hardneg_plugin.terminal import say

# whose settings of a `HeadTraining` are positive integers
HEADS = ("segmentation.training", "vqa")
WHOLE = ("epochs", "batch_size")


def main() -> None:
    """Entry point of hardneg-tasks."""
    commands.tasks()


def start(config: DictConfig) -> None:
    """Do the tasks; each writes its scores, and per study what they are made of, into `tasks/` of the run.

    Raises:
        UserError: for any error that a user can cause, before the first task begins.
    """
    wanted = _wanted(config.tasks)
    _check(config)
    run = RunFolder.existing(config.run)
    checkpoint = find_checkpoint(run, config.checkpoint)
    inputs = _inputs(config, run, checkpoint, wanted)
    busy = f"{run.tasks}: another hardneg-tasks is at work on this run. Wait until it has ended."
    with ExitStack() as held:
        held.callback(_remove_if_empty, run.tasks)  # once it is let go of
        with writing(run.tasks, "Allow to write there."):
            held.enter_context(hold_file(run.tasks / LOCK, busy))
        for name in wanted:
            for split, result in zip(inputs.names, TASKS[name](inputs), strict=True):
                _write(config, run, checkpoint, f"{name}_{split}", result)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # rmdir removes empty folders only
        folder.rmdir()


def _write(config: DictConfig, run: RunFolder, checkpoint: Path, name: str, result: TaskResult) -> None:
    """Write and print the scores of a task on a split; `name` is that of its files."""
    card = task_card(result.rows)
    intervals = card.intervals()
    scores, rows = (run.tasks / f"{name}.{suffix}" for suffix in ("json", "jsonl"))
    scores.unlink(missing_ok=True)  # a kill must not leave scores beside the rows of others
    write_jsonl(rows, result.rows)
    write_json(
        scores,
        {
            "scores": card.values,
            "intervals": {score: list(ends) for score, ends in intervals.items()},
            "directions": directions_of(card.values),
            "baselines": result.baselines,
            "chosen": result.settings,
            "checkpoint": str(checkpoint),
            "data": OmegaConf.to_container(config.data, resolve=True) if "data" in config else "the run's own",
            "seed": config.seed,
            "studies": len(result.rows),
        },
    )
    task, _, split = name.rpartition("_")
    _show(f"{task} on the {split} split of {config.run}", card.values, intervals, result.baselines)
    say(f"scores   {scores}\nstudies  {rows}\n")


def _inputs(config: DictConfig, run: RunFolder, checkpoint: Path, wanted: list[str]) -> TaskInputs:
    trained = run.read_config(trust=config.trust)
    settings = config.data if "data" in config else trained.data
    data: StudyDataModule = instantiate(settings.datamodule)
    without = {**trained.model, **({"caption": None} if "caption" in trained.model else {}), "compile": False}
    model: Model = load_trained_model(DictConfig(without), checkpoint, trust=config.trust)
    data.tokenizer = model.tokenizer
    return TaskInputs(
        move_to_device(model, config.device),
        data,
        instantiate(settings.get("knowledge")),
        wanted=wanted,
        names=_as_list(config.split),
        seed=config.seed,
        shares=list(config.shares),
        segmentation=instantiate(config.segmentation.training),
        segmentation_studies=config.segmentation.studies,
        segmentation_width=config.segmentation.width,
        vqa=instantiate(config.vqa),
        track=progress,
    )


def _wanted(named: Any) -> list[str]:
    """The tasks, each once."""
    wanted = _as_list(named)
    wanted = list(TASKS) if wanted == ["all"] else list(dict.fromkeys(map(str, wanted)))
    wrong = [name for name in wanted if name not in TASKS]
    if wrong or not wanted:
        raise UserError(
            f"tasks: expected all or some of {', '.join(TASKS)}, but got {repr(wrong[0]) if wrong else 'none'}."
        )
    return wanted


def _as_list(named: Any) -> list[Any]:
    return list(named) if isinstance(named, ListConfig) else [named]


def _check(config: DictConfig) -> None:
    """Raise a UserError for settings out of their range."""
    if _as_list(config.split) not in (["val"], ["test"], ["val", "test"], ["test", "val"]):
        raise UserError(f"split: expected val, test, or both as [val,test], but got {config.split!r}.")
    if type(config.seed) is not int or config.seed < 0:
        raise UserError(f"seed: expected an integer >= 0, but got {config.seed!r}.")
    for key in ("segmentation.studies", "segmentation.width", *(f"{part}.{key}" for part in HEADS for key in WHOLE)):
        value = OmegaConf.select(config, key)
        if type(value) is not int or value < 1:
            raise UserError(f"{key}: expected a positive integer, but got {value!r}.")
    shares = config.shares
    if not isinstance(shares, ListConfig) or not shares or not all(type(share) in (int, float) for share in shares):
        raise UserError(f"shares: expected shares of the training labels, such as [0.1,1.0], but got {shares!r}.")


def _show(
    title: str, values: dict[str, float], intervals: dict[str, tuple[float, float]], baselines: dict[str, float]
) -> None:
    table = make_table(title, "", "score", "95 % interval", "without looking")
    for name, value in values.items():
        low, high = intervals[name]
        blind = f"{baselines[name]:.3f}" if name in baselines else "-"
        table.add_row(with_direction(name), f"{value:.3f}", f"{low:.3f} to {high:.3f}", blind)
    console(at_least=160).print(table)


if __name__ == "__main__":
    main()
