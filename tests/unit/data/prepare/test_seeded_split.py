import random
from collections import Counter

import pytest

from hardneg_plugin.data.downloads.study import OriginalStudy
from hardneg_plugin.data.prepare.counts import PreparationCounts
from hardneg_plugin.data.prepare.seeded_split import check_shares, seeded_split
from hardneg_plugin.errors import UserError

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def test_shares_are_kept():
    counts = Counter(seeded_split(str(i), None, SHARES, 0) for i in range(20000))
    for name, share in SHARES.items():
        assert counts[name] / 20000 == pytest.approx(share, abs=0.015)  # five standard deviations


def test_a_patient_decides_where_it_is_known():
    splits = {seeded_split(str(i), "p", SHARES, 0) for i in range(100)}
    assert len(splits) == 1
    assert len({seeded_split("s", str(i), SHARES, 0) for i in range(100)}) == 3
    named_alike = [seeded_split(str(i), None, SHARES, 0) == seeded_split("s", str(i), SHARES, 0) for i in range(100)]
    assert not all(named_alike)


def test_the_seed_decides_and_nothing_else():
    def draw(seed, order):
        return {i: seeded_split(str(i), None, SHARES, seed) for i in order}

    order = list(range(200))
    mixed = random.Random(0).sample(order, 200)
    assert draw(1, order) == draw(1, mixed)
    assert draw(1, order) != draw(2, order)


@pytest.mark.parametrize("shares", [{"train": 1.0, "val": 0.0, "test": 0.0}, {"train": 0, "val": 0, "test": 1}])
def test_a_share_of_all_is_all(shares):
    only = next(name for name, share in shares.items() if share)
    assert {seeded_split(str(i), None, shares, 0) for i in range(500)} == {only}


@pytest.mark.parametrize(
    "shares",
    [
        {"train": 0.7, "val": 0.1},
        {"train": 0.7, "val": 0.1, "test": 0.1},
        {"train": 1.2, "val": -0.2, "test": 0.0},
        {"train": "0.7", "val": 0.1, "test": 0.2},
        {"train": float("nan"), "val": 0.1, "test": 0.2},
        {"train": 0.7, "val": 0.1, "test": 0.2, "other": 0.0},
        {"train": True, "val": False, "test": False},
        {},
    ],
)
def test_shares_that_are_none(shares):
    with pytest.raises(UserError, match="splits: expected shares"):
        check_shares(shares)
    check_shares(SHARES)


def test_the_share_that_would_do_is_named():
    with pytest.raises(UserError, match=r"set splits\.train=0\.6\.$"):
        check_shares({"train": 0.7, "val": 0.2, "test": 0.2})
    with pytest.raises(UserError, match=r"\}\.$"):
        check_shares({"train": 0.7, "val": 0.9, "test": 0.2})


@pytest.mark.parametrize(
    ("shares", "left"),
    [
        ({"train": 0.8, "val": 0, "test": 0.1}, "With these of val and test set splits.train=0.9."),
        ({"train": 0.5, "val": 0.5, "test": 0.5}, "With these of val and test set splits.train=0."),
        ({"train": 0.7, "val": -0.1, "test": 0.2}, ""),
        ({"train": 0.7, "val": "0.1", "test": 0.2}, ""),
        ({"train": 0.7, "val": 0.1}, ""),
    ],
    ids=str,
)
def test_a_share_of_training_is_named_where_the_others_can_stay(shares, left):
    with pytest.raises(UserError) as error:
        check_shares(shares)
    assert str(error.value).split("}.")[1].strip() == left


def test_shares_at_the_ends_and_rounded_ones_will_do():
    check_shares({"train": 1, "val": 0, "test": 0})
    check_shares(dict.fromkeys(SHARES, 0.3333333))
    with pytest.raises(UserError):
        check_shares(dict.fromkeys(SHARES, 0.33333))


def test_no_study_goes_where_there_is_no_share(monkeypatch):
    monkeypatch.setattr("hardneg_plugin.data.prepare.seeded_split.match_key", lambda _: 0)
    assert seeded_split("s", None, {"train": 0, "val": 0, "test": 1}, 0) == "test"
    monkeypatch.setattr("hardneg_plugin.data.prepare.seeded_split.match_key", lambda _: 2**63 - 1)
    assert (
        seeded_split("s", None, {"train": 0.4, "val": 0.5999999, "test": 0}, 0) == "val"
    )  # rounded to a bit less than 1


def test_studies_elsewhere_than_their_patient_are_counted():
    counts = PreparationCounts()
    for patient, split in [("p", "train"), ("q", "val"), ("p", "test"), (None, "val"), (None, "test"), ("p", "train")]:
        counts.add(OriginalStudy("s", (), patient=patient), split, views=0, size=0)
    assert counts.summary()["in_another_split_than_their_patient"] == 1
