import json
import logging
from itertools import combinations

import pytest

from hardneg_plugin.data.paired import PairedNegatives
from hardneg_plugin.errors import UserError

IDS = ["a", "b", "c", "d", "e", "f"]
REPORTS = [f"Report {name}." for name in IDS]


class Keyed:
    """Studies that say by which key they were asked for."""

    ids, reports = IDS, REPORTS
    patients = labels = [None] * len(IDS)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, key):
        return {"id": self.ids[key[0] if isinstance(key, tuple) else key], "key": key}


@pytest.fixture
def beside(tmp_path):
    def make(table, **options):
        (tmp_path / "table.json").write_text(json.dumps(table))
        return PairedNegatives(tmp_path / "table.json", **options).beside(Keyed())

    return make


def ids(sample):
    return [negative["id"] for negative in sample["negatives"]]


@pytest.fixture
def full(beside):
    """Every study with all others as neighbours, nearest first those after it."""
    table = {name: [*IDS[i + 1 :], *IDS[:i]] for i, name in enumerate(IDS)}
    return lambda **options: beside(table, **options)


def test_is_the_split_with_the_nearest_studies_beside(full):
    studies = full(k=2)
    assert (len(studies), studies.ids, studies.reports) == (6, IDS, REPORTS)
    assert [ids(studies[i]) for i in range(6)] == [[*"bc"], [*"cd"], [*"de"], [*"ef"], [*"fa"], [*"ab"]]
    assert studies[4]["id"] == "e"
    assert studies[4]["key"] == 4
    assert [negative["key"] for negative in studies[4]["negatives"]] == [5, 0]  # not augmented either
    assert [ids(full()[i]) for i in range(6)] == [[*"b"], [*"c"], [*"d"], [*"e"], [*"f"], [*"a"]]


def test_without_a_pool_only_the_augmentation_follows_from_the_seed(full):
    studies = full(k=2)
    samples = [studies[3, seed] for seed in range(50)]
    assert all(ids(sample) == ["e", "f"] for sample in samples)
    assert [sample["key"] for sample in samples] == [(3, seed) for seed in range(50)]
    drawn = [negative["key"][1] for sample in samples for negative in sample["negatives"]]
    assert all(0 <= seed < 2**63 for seed in drawn)
    assert len({*drawn, *range(50)}) == 150  # no two alike, and none that of the study itself


def test_negatives_are_drawn_from_the_pool_by_the_key_alone(full):
    studies, again = full(k=2, pool=4), full(k=2, pool=4)
    counts = dict.fromkeys(combinations("defa", 2), 0)  # the four nearest of c, nearest first
    for seed in range(600):
        sample = studies[2, seed]
        assert sample == again[2, seed] == studies[2, seed]
        counts[tuple(ids(sample))] += 1
    assert len(counts) == 6
    assert all(65 <= count <= 140 for count in counts.values())  # 100 expected, 9.1 the standard deviation
    assert ids(studies[2]) == ["d", "e"]  # nothing is drawn without a seed


def test_studies_under_one_seed_draw_independently(full):
    studies = full(k=1, pool=4)
    places = {("defa".index(*ids(studies[2, seed])), "efab".index(*ids(studies[3, seed]))) for seed in range(200)}
    assert len(places) == 16


def test_a_study_with_too_few_neighbours_is_filled_up_with_itself(beside):
    studies = beside({"a": ["b"], "b": [], "c": ["x", "y"], "d": ["a", "b", "c"]}, k=2, pool=3)
    for seed in range(20):
        for index, expected in enumerate([[*"ba"], [*"bb"], [*"cc"], None, [*"ee"], [*"ff"]]):
            sample = studies[index, seed]
            own = [negative for negative in sample["negatives"] if negative["id"] == sample["id"]]
            assert all(negative["key"] == (index, seed) for negative in own)
            if expected is None:
                assert sorted(ids(sample)) in ([*"ab"], [*"ac"], [*"bc"])
            else:
                assert ids(sample) == expected
    assert ids(studies[0]) == ["b", "a"]


def test_studies_of_other_splits_take_no_place_in_the_pool(beside):
    studies = beside({name: ["x", "y", other] for name, other in zip(IDS, "bcdefa", strict=True)}, k=1)
    assert [ids(studies[i, 9]) for i in range(6)] == [[*"b"], [*"c"], [*"d"], [*"e"], [*"f"], [*"a"]]


def test_one_warning_for_what_is_not_in_training_and_one_for_what_is_lacking(beside, caplog):
    with caplog.at_level(logging.WARNING):
        beside({"v": ["a", "w"], "a": ["b", "v", "x"], "b": ["a"], "c": ["a", "b"]})
    unknown, short = [record.getMessage() for record in caplog.records]
    assert "3 studies are not in the training split and are left out, such as 'v'" in unknown
    assert "3 of 6 training studies have fewer than k = 1 neighbours there, such as 'd'" in short


def test_a_whole_table_warns_of_nothing(full, caplog):
    with caplog.at_level(logging.WARNING):
        full(k=5)
    assert caplog.records == []


@pytest.mark.parametrize("table", [{"x": ["y"], "y": ["x"]}, {"x": ["a"], "a": ["x"]}, {"a": []}])
def test_a_table_of_other_data_is_refused(beside, table):
    with pytest.raises(UserError, match=r"such as 'a', in .*table\.json, but got .*Set data\.paired\.table"):
        beside(table)


def test_without_a_table_the_nearest_are_mined():
    studies = Keyed()
    studies.reports = ["Small effusion.", "Normal.", "Large effusion.", "Normal heart.", "small effusion", "Clear."]
    paired = PairedNegatives(None).beside(studies)
    assert ids(paired[0]) == [*"c"]  # e is the same text
    assert ids(paired[1]) == [*"d"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"data\.paired\.k: expected k >= 1 .* but got 0"),
        ({"k": 3, "pool": 2}, r"data\.paired\.pool: expected a pool >= k = 3, but got 2"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        PairedNegatives("table.json", **options)
