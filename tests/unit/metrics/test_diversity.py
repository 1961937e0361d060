import pytest

from hardneg_plugin.metrics.diversity import collapse_warning, diversity


@pytest.mark.parametrize(
    ("generated", "unique_share", "distinct_1", "distinct_2", "length"),
    [
        (["a b c", "a b d"], 1, 4 / 6, 3 / 4, 3),
        (["a b c", "a  b\nc"], 1 / 2, 3 / 6, 2 / 4, 3),
        (["a a a a"], 1, 1 / 4, 1 / 3, 4),
        (["", ""], 1 / 2, 0, 0, 0),
        (["a", "", "b"], 1, 1, 0, 2 / 3),  # pairs do not reach from one text into the next
    ],
)
def test_values_by_hand(generated, unique_share, distinct_1, distinct_2, length):
    expected = {"unique_share": unique_share, "distinct-1": distinct_1, "distinct-2": distinct_2, "length": length}
    assert diversity(generated) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("studies", "distinct", "warns"),
    [(19, 1, False), (20, 1, True), (20, 2, False), (100, 1, True), (100, 2, False), (590, 11, True), (590, 12, False)],
)
def test_warns_of_few_distinct_reports(studies, distinct, warns):
    generated = [f"report {i % distinct}" for i in range(studies)]
    message = collapse_warning(generated)
    assert (message is not None) == warns
    if message is not None:
        assert f"for {studies} studies" in message
        assert "'report 0'" in message


def test_the_warning_names_the_commonest_report_shortly():
    message = collapse_warning(["the lungs are clear . " * 10] * 299 + ["other"])
    assert message is not None
    assert message.startswith("The model wrote 2 different reports for 300 studies; 299 got 'the lungs are clear .")
    assert len(message) < 400
