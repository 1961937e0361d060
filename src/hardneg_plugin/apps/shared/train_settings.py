"""Settings of hardneg-train that contradict one another, refused before anything is loaded or written."""

import difflib

from omegaconf import DictConfig

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.caption import CAPTION_SCORES
from hardneg_plugin.metrics.record_scores import every_score

WITHOUT_INTERVAL = ("unique_share", "distinct-1", "distinct-2", *(f"cut/{name}" for name in CAPTION_SCORES))


def check_settings(config: DictConfig) -> None:
    """Check that the settings of a training go together.

    Raises:
        UserError: they do not.
    """
    if "compare" in config:
        raise UserError("experiment: this one adds variants to a comparison: hardneg-compare +experiment=...")
    _check_monitor(config.monitor, has_caption=config.metrics.caption is not None)
    has_end = config.trainer.max_epochs not in (None, -1) or config.trainer.max_steps not in (None, -1)
    counts_to_the_end = config.lr_schedule.interval == "step" or (
        config.model.get("hard_negatives") is not None and config.schedule.unit == "fraction"
    )
    if counts_to_the_end and not has_end:
        raise UserError(
            "trainer.max_epochs and trainer.max_steps give training no end, but the schedules count up to it: set one of "
            "them, or lr_schedule=constant with schedule.unit=epoch."
        )


def _check_monitor(monitor: str, *, has_caption: bool) -> None:
    known = {f"val/{name}".lower(): f"val/{name}" for name in every_score().union(WITHOUT_INTERVAL)}
    near = difflib.get_close_matches(str(monitor).lower(), known, n=1, cutoff=0.75)
    # what resembles none of our scores may be one that the user logs
    if near and monitor != known[near[0]]:
        raise UserError(f"monitor: there is no score {monitor}; did you mean {known[near[0]]}?")
    if not has_caption and monitor.removeprefix("val/").removeprefix("cut/") in CAPTION_SCORES:
        raise UserError(
            f"metrics.caption is null, but monitor is {monitor}: choose by another score, such as monitor=val/report_loss."
        )
