"""When another epoch is reported as better than that of the checkpoint."""

import pytest

from hardneg_plugin.runs.checkpoint import Moment
from hardneg_plugin.runs.csv_log import LoggedRow
from hardneg_plugin.training.epoch_choice import better_epoch

NAMES = ["BLEU-4", "CIDEr", "findings_F1", "R@5", "report_loss"]


def logged(*epochs):
    """A row of each epoch with the scores in the order of NAMES, and a row of training after it."""
    for epoch, values in enumerate(epochs):
        yield LoggedRow(10 * epoch, epoch, {f"val/{name}": value for name, value in zip(NAMES, values, strict=True)})
        yield LoggedRow(10 * epoch + 1, epoch, {"train/report_loss": 0.1})


def test_the_run_of_the_issue_that_was_judged_by_wording():
    rows = list(logged((0.2125, 0.3, 0.091, 0.05, 2.0), (0.2, 0.2, 0.1, 0.04, 1.9), (0.2117, 0.29, 0.458, 0.52, 1.5)))
    found = better_epoch(rows, Moment(1, 10), "val/BLEU-4", NAMES)
    assert (found.chosen, found.other, found.compared) == ("epoch 1", "epoch 3", 4)
    assert found.better == {"val/findings_F1": (0.091, 0.458), "val/R@5": (0.05, 0.52), "val/report_loss": (2.0, 1.5)}
    assert str(found) == (
        "best.ckpt is of epoch 1, by val/BLEU-4 (0.2125, in epoch 3 0.2117), but epoch 3 is better in 3 of 4 other scores that "
        "differ: "
        "val/R@5 0.520 against 0.050, val/findings_F1 0.458 against 0.091, val/report_loss 1.500 against 2.000. "
        "Another monitor= may choose better."
    )


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [*logged((0.2, 0.3, 0.1, 0.1, 2.0))],
        [*logged((0.2, 0.3, 0.1, 0.1, 2.0), (0.1, 0.4, 0.2, 0.0, 3.0))],  # two of four are not most
        [*logged((0.2, 0.3, 0.1, 0.1, 1.0), (0.1, 0.2, 0.1, 0.1, 2.0))],  # a higher loss is no better one
    ],
    ids=["no log", "one epoch", "half of the scores", "worse"],
)
def test_nothing_is_said_otherwise(rows):
    assert better_epoch(rows, Moment(1, 10), "val/BLEU-4", NAMES) is None


def test_of_a_collapsed_model_only_what_differs_counts():
    rows = list(logged((0.1458, 0.5661, 0.0, 0.04, 1.3377), (0.1458, 0.5661, 0.0, 0.09, 0.7462)))
    found = better_epoch(rows, Moment(1, 10), "val/BLEU-4", NAMES)
    assert (found.other, set(found.better), found.compared) == ("epoch 2", {"val/R@5", "val/report_loss"}, 2)


def test_the_epoch_that_is_better_in_most_and_a_score_that_was_not_logged():
    rows = list(logged((0.2, 0.3, 0.1, 0.1, 2.0), (0.1, 0.4, 0.2, 0.2, 2.0), (0.1, 0.4, 0.2, 0.2, 1.0)))
    found = better_epoch(rows, Moment(1, 10), "val/mine", [*NAMES, "METEOR"])
    assert (found.other, len(found.better), found.compared) == ("epoch 3", 4, 5)
    assert "by val/mine, but epoch 3" in str(found)


TWICE = [
    LoggedRow(4, 0, {"val/report_loss": 2.0, "val/CIDEr": 0.1}),
    LoggedRow(9, 0, {"val/report_loss": 3.0, "val/CIDEr": 0.3}),
    LoggedRow(14, 1, {"val/report_loss": 4.0, "val/CIDEr": 0.2}),
]
"""Two validations in the first epoch, one in the second."""


def test_of_several_validations_in_an_epoch_the_one_before_the_checkpoint_counts():
    found = better_epoch(TWICE, Moment(1, 5, 4), "val/report_loss", NAMES)
    assert found.by == {"val/report_loss": (2.0, 3.0)}
    assert str(found).startswith(
        "best.ckpt is of epoch 1 (validation 1 of 2), by val/report_loss (2.0000, in epoch 1 (validation 2 of 2) 3.0000), but "
    )
    assert better_epoch(TWICE, Moment(1, 10, 9), "val/report_loss", NAMES) is None
    assert better_epoch(TWICE, Moment(2, 15, 14), "val/report_loss", NAMES).other == "epoch 1 (validation 2 of 2)"


def test_of_a_checkpoint_written_at_the_end_of_an_epoch_the_last_validation_counts():
    assert better_epoch(TWICE, Moment(1, 10, 10), "val/report_loss", NAMES) is None
