"""What parts of a batch log, as that of the whole batch."""

import pytest
import torch

from hardneg_plugin.plugin.part_log import PartLog, log_together


def logged(*parts, weights=None):
    """What reaches Lightning's `log`, from the calls `(name, value, options)` of each part."""
    logs, seen = [], []
    for calls in parts:
        log = PartLog()
        for name, value, *options in calls:
            log.keep(name, value, (), *options or [{}])
        logs.append(log)
    log_together(
        logs, weights or [1] * len(logs), lambda name, value, *args, **kwargs: seen.append((name, value, args, kwargs))
    )
    return seen


@pytest.mark.parametrize(
    "options",
    [{}, {"reduce_fx": "mean"}, {"reduce_fx": "avg"}, {"reduce_fx": torch.mean}],
    ids=["none", "mean", "avg", "torch.mean"],
)
@pytest.mark.parametrize("kind", [float, int, torch.tensor])
def test_a_mean_is_weighted(options, kind):
    ((name, value, _, kwargs),) = logged(
        [("loss", kind(1.0), options)], [("loss", kind(4.0), options)], weights=[3, torch.tensor(1.0)]
    )
    assert (name, float(value), kwargs) == ("loss", 1.75, options)


@pytest.mark.parametrize(
    ("reduce_fx", "expected"),
    [("sum", 6.0), ("max", 4.0), ("min", -1.0), (torch.sum, 6.0), (lambda values: values.prod(), -12.0)],
)
def test_other_reductions_do_not_weigh(reduce_fx, expected):
    values = [3.0, torch.tensor(4.0), -1.0]
    parts = [[("value", value, {"reduce_fx": reduce_fx})] for value in values]
    ((_, value, _, kwargs),) = logged(*parts, weights=[5, 6, 7])
    assert value == expected
    assert kwargs == {"reduce_fx": reduce_fx}


def test_a_name_of_some_parts_has_the_weights_of_those_and_names_keep_their_order():
    seen = logged(
        [("a", 1.0), ("b", 10.0)],
        [("c", 5.0), ("b", 20.0)],
        [("a", 3.0)],
        weights=[1, 3, 1],
    )
    assert [(name, value) for name, value, *_ in seen] == [("a", 2.0), ("b", 17.5), ("c", 5.0)]


def test_sizes_are_added_where_they_are_given():
    given = [{"batch_size": 3, "on_step": True}, {"batch_size": None}, {"batch_size": 2}]
    ((_, _, _, kwargs),) = logged(*[[("a", 1.0, options)] for options in given])
    assert kwargs == {"batch_size": 5, "on_step": True}
    ((_, _, _, kwargs),) = logged([("a", 1.0, {"batch_size": None})], [("a", 1.0, {})])
    assert kwargs == {"batch_size": None}


def test_a_metric_is_logged_as_it_is():
    metric = object()
    ((_, value, _, _),) = logged([("accuracy", metric)], [("accuracy", metric)])
    assert value is metric
    ((_, value, _, _),) = logged([("accuracy", 0.5)], [("accuracy", metric)])
    assert value is metric


def test_the_later_of_two_calls_is_kept_without_its_graph_and_with_its_arguments():
    log, seen = PartLog(), []
    log.keep("loss", 1.0, (), {})
    weight = torch.tensor(2.0, requires_grad=True)
    log.keep("loss", weight * 3, (True, False), {"sync_dist": True})
    assert not log.calls["loss"][0].requires_grad
    log_together([log], [1], lambda *args, **kwargs: seen.append((args, kwargs)))
    assert seen == [(("loss", 6.0, True, False), {"sync_dist": True})]
