"""One warning of features that are not finite, and few looks at a value of the device."""

import warnings
from unittest import mock

import pytest
import torch

from hardneg_plugin.plugin.features_watch import READ_EVERY, FeaturesWatch


def test_it_warns_once_after_at_most_fifty_steps():
    watch = FeaturesWatch()
    shares = [0.0] * (READ_EVERY + 9) + [0.25] + [0.0] * READ_EVERY + [0.5] * READ_EVERY
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for share in shares:
            watch(torch.tensor(share))
    (message,) = [str(warning.message) for warning in seen]
    assert message.startswith("0.5% of the latest studies")
    assert "train/non_finite_share" in message


def test_the_end_of_an_epoch_looks_too():
    watch = FeaturesWatch()
    watch(torch.tensor(0.5))
    watch(torch.tensor(0.0))
    with pytest.warns(UserWarning, match="25% of the latest studies"):
        watch.look()


def test_each_look_is_at_the_steps_since_the_last():
    watch = FeaturesWatch()
    watch(torch.tensor(0.0))
    watch.look()
    watch(torch.tensor(0.5))
    with pytest.warns(UserWarning, match="^50% of the latest studies"):
        watch.look()


def test_all_studies_are_100_per_cent():
    watch = FeaturesWatch()
    watch(torch.tensor(1.0))
    with pytest.warns(UserWarning, match="^100% of the latest studies"):
        watch.look()


def test_after_its_warning_it_waits_for_the_device_no_more():
    watch = FeaturesWatch()
    watch(torch.tensor(1.0))
    with pytest.warns(UserWarning, match="of the latest studies"):
        watch.look()
    with mock.patch.object(torch.Tensor, "__float__", autospec=True, return_value=1.0) as read:
        for _ in range(2 * READ_EVERY):
            watch(torch.tensor(1.0))
    assert read.call_count == 0


def test_without_such_studies_it_is_silent_and_waits_once_in_fifty_steps():
    watch = FeaturesWatch()
    with (
        warnings.catch_warnings(),
        mock.patch.object(torch.Tensor, "__float__", autospec=True, return_value=0.0) as read,
    ):
        warnings.simplefilter("error")
        watch.look()
        for _ in range(4 * READ_EVERY):
            watch(torch.tensor(0.0))
    assert read.call_count == 4
