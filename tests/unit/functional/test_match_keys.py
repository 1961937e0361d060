"""Keys are in checkpoints: the same identity has the same key in every version, process and device."""

import pytest
import torch

from hardneg_plugin.functional.match_keys import UNKNOWN, MatchKeys, find_keys, match_key, token_keys


def test_keys_do_not_change_between_versions():
    assert match_key("CXR1") == 2210186589030516655
    assert token_keys(torch.tensor([[0, 5, 7, 0]])).tolist() == [6426791891018122306]


def test_numbers_of_any_width_are_64_bits_wide():
    keys = MatchKeys.of(2, study_ids=torch.tensor([7, 3], dtype=torch.int32))
    assert keys.columns.dtype == torch.int64
    assert keys.study.tolist() == [7, 3]


@pytest.mark.parametrize("identity", [["a", "b"], torch.tensor([1, 2]), torch.ones(4, 3, dtype=torch.int64)], ids=str)
@pytest.mark.parametrize("name", ["study_ids", "patient_ids", "texts", "labels"])
def test_identities_of_another_number_of_studies_are_refused(name, identity):
    with pytest.raises(ValueError, match=f"Expected `{name}` for 3 studies, but got {len(identity)}"):
        MatchKeys.of(3, **{name: identity})


def test_keys_are_found_where_they_are_and_nowhere_else():
    ordered = torch.tensor([UNKNOWN, 3, 5, 9])
    keys = torch.tensor([[9, 10, 4], [3, UNKNOWN, 2], [5, 2**62, 0]])
    assert find_keys(ordered, keys).tolist() == [[3, -1, -1], [1, -1, -1], [2, -1, -1]]
    assert find_keys(ordered, keys.T).tolist() == [[3, 1, 2], [-1, -1, -1], [-1, -1, -1]]
    assert find_keys(ordered[:0], keys).tolist() == [[-1] * 3] * 3
    assert find_keys(ordered, keys[:0]).shape == (0, 3)
