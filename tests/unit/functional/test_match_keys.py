"""Keys are in checkpoints: the same identity has the same key in every version, process and device."""

import torch

from hardneg_plugin.functional.match_keys import MatchKeys, match_key, token_keys


def test_keys_do_not_change_between_versions():
    assert match_key("CXR1") == 2210186589030516655
    assert token_keys(torch.tensor([[0, 5, 7, 0]])).tolist() == [6426791891018122306]


def test_numbers_of_any_width_are_64_bits_wide():
    keys = MatchKeys.of(2, study_ids=torch.tensor([7, 3], dtype=torch.int32))
    assert keys.columns.dtype == torch.int64
    assert keys.study.tolist() == [7, 3]
