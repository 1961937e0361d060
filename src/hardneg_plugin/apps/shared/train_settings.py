"""Settings of hardneg-train that contradict one another, refused before anything is loaded or written."""

import difflib
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.score_names import EVERY, OF_FINDINGS, logged_scores
from hardneg_plugin.runs.places import check_no_places
from hardneg_plugin.runs.trusted import trusted_targets
from hardneg_plugin.training.monitor import AUTO

PARTS = (
    "data",
    "model",
    "optimizer",
    "lr_schedule",
    "schedule",
    "trainer",
    "decoding",
    "metrics",
    "callbacks",
    "logger",
)
"""Without which there is no training; what else is missing, the model says."""
BETTER_KNOWN = ("val/findings_F1", "val/BLEU-4", "val/R@5", "val/specificity")
WITHOUT = {
    "reports": "model=pretrain writes no reports",
    "captions": "metrics.caption is null",
    "findings": "data.findings is null",
    "alignment": "model=host embeds no reports",
    "likelihood": "metrics.rank_by_likelihood does not name val",
}
"""Why a score is not logged."""


def check_settings(config: DictConfig) -> None:
    """Check that the settings of a training go together.

    Raises:
        UserError: they do not.
    """
    if "compare" in config:
        raise UserError("experiment: this one adds variants to a comparison: hardneg-compare +experiment=...")
    if config.resume is not None and config.overwrite:
        raise UserError("overwrite=true replaces a run, and resume=RUN goes on with it: leave one of them out.")
    _check_parts(config)
    check_no_places(config)
    _check_monitor(config)
    _check_stopping(config)
    has_end = config.trainer.max_epochs not in (None, -1) or config.trainer.max_steps not in (None, -1)
    counts_to_the_end = config.lr_schedule.interval == "step" or (
        config.model.get("hard_negatives") is not None and config.schedule.unit == "fraction"
    )
    if counts_to_the_end and not has_end:
        raise UserError(
            "trainer.max_epochs and trainer.max_steps give training no end, but the schedules count up to it: set one of "
            "them, or lr_schedule=constant with schedule.unit=epoch."
        )


def check_monitor_of_data(monitor: str, *, reads_findings: bool) -> None:
    """Check that the data, once they are read, give the score that chooses the checkpoint.

    Args:
        monitor: the name of the score.
        reads_findings: whether findings can be read from the reports.

    Raises:
        UserError: the score is of findings, and none can be read.
    """
    if monitor.removeprefix("val/") in OF_FINDINGS and not reads_findings:
        raise UserError(
            f"monitor: {monitor} is a score of findings, but none can be read from the reports of these data: choose by another "
            "score, such as monitor=val/specificity."
        )


def _check_parts(config: DictConfig) -> None:
    """Refuse a training without one of its parts, such as trainer=null."""
    for group in PARTS:
        part = config.get(group)
        if not isinstance(part, DictConfig):
            choices = ", ".join(sorted(path.stem for path in (conf_dir() / group).glob("*.yaml")))
            raise UserError(f"{group}: expected {f'one of {choices}' if choices else 'settings'}, but got {part!r}.")
    for group in ("callbacks", "logger"):
        for name, part in (config.get(group) or {}).items():
            if not isinstance(part, DictConfig) or "_target_" not in part:
                raise UserError(
                    f"{group}.{name}: expected settings with a _target_, but got {part!r}; ~{group}.{name} leaves it out."
                )


def _check_monitor(config: DictConfig) -> None:
    """Refuse a score that no validation of this training logs: Lightning would notice after the first epoch."""
    monitor = str(config.monitor)
    name = monitor.removeprefix("val/")
    logged = logged_scores(
        writes_reports="backbone" in config.model or "text" not in config.model,
        aligns=config.model.get("hard_negatives") is not None,
        captions=config.metrics.caption is not None,
        findings=config.data.get("findings", "english") is not None,
        likelihood="val" in (config.metrics.rank_by_likelihood or ()),
    )
    if monitor == AUTO or monitor.startswith("train/") or (monitor != name and name in logged[""]):
        return
    score = name.removeprefix("cut/")
    if monitor != name and (need := next((need for need, names in logged.items() if need and score in names), None)):
        choices = [known for known in BETTER_KNOWN if known.removeprefix("val/") in logged[""]]
        raise UserError(
            f"{WITHOUT[need]}, but monitor is {monitor}: choose by another score, such as monitor={choices[-1]}."
        )
    if score != name and score in EVERY:
        raise UserError(f"monitor: {monitor} is a score of the test split only; did you mean val/{score}?")
    known = {every.lower(): f"val/{every}" for every in sorted(EVERY)}
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    is_near = bool(near) and difflib.SequenceMatcher(None, name.lower(), near[0]).ratio() >= 0.75
    parts: Any = OmegaConf.to_container(config)
    if not is_near and not set(_targets([parts[key] for key in ("model", "callbacks")])) <= trusted_targets():
        return  # a class of the user's may log it
    meant = f"did you mean {known[near[0]]}?" if near else f"there are, among others: {', '.join(BETTER_KNOWN)}."
    raise UserError(f"monitor: there is no score {monitor}; {meant}")


def _check_stopping(config: DictConfig) -> None:
    """Refuse early stopping by a validation that never comes: Lightning would notice after the first epoch."""
    if config.trainer.limit_val_batches != 0:
        return
    for name, part in (config.get("callbacks") or {}).items():
        if str(part["_target_"]).endswith(".EarlyStopping") and not str(part.get("monitor")).startswith("train/"):
            raise UserError(
                f"callbacks.{name} stops by a score of validation, but trainer.limit_val_batches=0 leaves none: leave it out by "
                f"~callbacks.{name}."
            )


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, list):
        for inner in node:
            yield from _targets(inner)
