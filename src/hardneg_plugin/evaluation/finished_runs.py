"""A finished run, read back: its config, its scores, its predictions, and the studies that it was scored on."""

from dataclasses import dataclass
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.studies import SplitName, Studies
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import read_json
from hardneg_plugin.metrics.records import PredictionRecord, read_predictions
from hardneg_plugin.runs.checkpoint import check_writes_reports
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.shell import command_line


@dataclass(frozen=True)
class FinishedRun:
    """What a run left, and its data; its model is not built."""

    name: str
    folder: RunFolder
    config: DictConfig
    metrics: dict[str, Any]
    split: SplitName
    records: dict[str, PredictionRecord]
    """The predictions of the split, by study."""
    data_config: DictConfig
    """Of the run, or of the same data in another place."""
    data: StudyDataModule
    studies: Studies
    """All of the split."""
    rows: dict[str, int]
    """The row of each predicted study in `studies`, in that order."""

    @property
    def checkpoint(self) -> str:
        """The name of the checkpoint that wrote the predictions."""
        return "best" if self.metrics.get("checkpoint") else "last"


def read_run(
    name: str, folder: RunFolder, split: SplitName, *, data: DictConfig | None = None, trust: bool = False
) -> FinishedRun:
    """Read what a run left.

    Args:
        name: what the run is called.
        folder: of the run.
        split: whose predictions are read.
        data: a config of other data than the run's, such as the same in another place.
        trust: let the run's config name whatever it likes; what it names is run.

    Raises:
        UserError: the run is not finished, has no predictions of the split, a file of it cannot be read or trusted, or the data
            are not there or have other studies.
    """
    config = folder.read_config(trust=trust)
    check_writes_reports(config.model, folder)
    if not folder.metrics.is_file():
        raise UserError(
            f"Expected a finished run, but {folder.path} has no metrics.json yet. Finish it: "
            + command_line("hardneg-train", resume=folder.path)
        )
    metrics = read_json(folder.metrics, "scores")
    if not isinstance(metrics, dict) or not isinstance(metrics.get(split), dict):
        raise UserError(f"Expected the scores of the {split} split in {folder.metrics}, but there are none.")
    file = folder.predictions(split)
    if not file.is_file():
        raise UserError(f"Expected the predictions of the {split} split in {file}, but there is no such file.")
    records = {record["id"]: record for record in read_predictions(file)}
    data_config = config.data if data is None else data
    module: StudyDataModule = instantiate(data_config.datamodule)
    studies = module.source.split(split)
    rows = {study: row for row, study in enumerate(studies.ids) if study in records}
    if missing := records.keys() - rows.keys():
        raise UserError(
            f"{file} has the study {min(missing)!r}, but the {split} split of the data does not: these are other data than those "
            "of the run. Set data=... to those."
        )
    return FinishedRun(name, folder, config, metrics, split, records, data_config, module, studies, rows)
