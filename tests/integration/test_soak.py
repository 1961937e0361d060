"""Thousands of steps in two processes leave memory flat and ranks alike, and repeat no warning."""

import sys
from collections import Counter
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # where spawned processes look, too
from soak_ranks import LOOK_EVERY, OBJECTIVES, STEPS, soak


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return soak(tmp_path_factory.mktemp("soak"))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_ranks_agree_all_the_way(ranks, name):
    for seen in (rank[name] for rank in ranks):
        assert seen["steps"] == STEPS
        assert seen["epochs"] > 50
        assert len(seen["looks"]) == STEPS // LOOK_EVERY
    on_0, on_1 = ([look["checksum"] for look in rank[name]["looks"]] for rank in ranks)
    assert on_0 == on_1
    assert len({str(checksum) for checksum in on_0}) == len(on_0)  # it moves


@pytest.mark.parametrize("name", OBJECTIVES)
def test_memory_is_flat(ranks, name):
    for looks in (rank[name]["looks"] for rank in ranks):
        assert len({look["tensors"] for look in looks[2:]}) == 1
        assert looks[-1]["kib"] < looks[1]["kib"] + 4 * 1024, [look["kib"] for look in looks]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_warning_comes_twice_and_training_goes_somewhere(ranks, name):
    for seen in (rank[name] for rank in ranks):
        assert not [text for text, times in Counter(seen["warnings"]).items() if times > 1]
        assert seen["looks"][-1]["alignment_loss"] < seen["looks"][0]["alignment_loss"]
