"""Groups and counts against loops over all pairs."""

from itertools import combinations

import numpy as np
import pytest

from hardneg_plugin.functional.match_keys import UNKNOWN
from hardneg_plugin.neighbours.groups import ExcludedCounts, count_excluded, groups_of, normalised


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("No effusion.", "no  effusion", True),
        ("Heart-size normal;\nlungs clear", "heart size normal lungs clear.", True),
        ("A 5 mm nodule.", "A 6 mm nodule.", False),
        ("A 1.5 cm nodule.", "A 15 cm nodule.", False),
        ("Left effusion.", "Right effusion.", False),
        ("Ödem _ links", "ödem links", True),
        ("Clear. Normal.", "Normal. Clear.", False),
    ],
)
def test_normalised_text(one, other, same):
    assert (normalised(one) == normalised(other)) == same


def test_groups_leave_out_what_nobody_knows():
    groups = groups_of(["A.", "a", "b"], [None, None, None], ["", None, ""])
    assert {reason: codes.tolist() for reason, codes in groups.items()} == {
        "text": [0, 0, 1],
        "label set": [0, UNKNOWN, 0],
    }
    assert list(groups_of(["A", "b"], ["p", None])) == ["text", "patient"]


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_all_pairs(seed):
    random = np.random.default_rng(seed)
    groups = {name: random.integers(-1, size, size=60) for name, size in (("a", 8), ("b", 30), ("c", 200))}
    pairs = {name: set() for name in (*groups, "any")}
    for i, j in combinations(range(60), 2):
        for name, codes in groups.items():
            if codes[i] == codes[j] != UNKNOWN:
                pairs[name].add((i, j))
                pairs["any"].add((i, j))
    assert count_excluded(groups) == {
        name: ExcludedCounts(len({study for pair in found for study in pair}), len(found))
        for name, found in pairs.items()
    }


def test_counting_takes_no_time_for_huge_groups():
    # all pairs would be 2 * 10^10
    number = 200_000
    assert count_excluded({"text": np.zeros(number, dtype=np.int64)})["any"] == ExcludedCounts(
        number, number * (number - 1) // 2
    )
