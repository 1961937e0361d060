"""What is read of a step, and what parts of a batch give together."""

from types import SimpleNamespace

import pytest
import torch

from hardneg_plugin import PairEmbeddings
from hardneg_plugin.plugin.step_in_parts import StepInParts


class Lightning:
    def __init__(self):
        self.logged = []

    def log(self, name, value, *args, **kwargs):
        self.logged.append((name, float(value), args, kwargs))

    def parameters(self):
        return []

    def modules(self):
        return []


class Host(StepInParts, Lightning):
    def __init__(self, texts=(), reads_parts=False, chunks=3):
        super().__init__()
        self.hard_negatives = SimpleNamespace(statement_texts=texts, reads_parts=reads_parts)
        self.asked, self.forgotten, self._chunks = [], 0, chunks

    def embed(self, batch, outputs):
        rows = batch["rows"] if isinstance(batch, dict) else torch.ones(1, 2)
        return PairEmbeddings(rows, rows, words=rows[:, None], regions=rows[:, None])

    def embed_statements(self, batch, outputs):
        self.asked.append(batch)
        return torch.ones(2, 1, 2)

    def _forget_step(self):
        self.forgotten += 1


@pytest.mark.parametrize("outputs", [torch.tensor(2.0), {"loss": torch.tensor(2.0), "more": 1}])
def test_features_are_read_where_there_is_a_loss(outputs):
    step = Host()._read("batch", outputs)
    assert step.outputs is outputs
    assert step.loss == 2
    assert step.pairs.images.shape == (1, 2)
    assert step.weight is None


@pytest.mark.parametrize("outputs", [None, {"more": 1}, {"loss": None}])
def test_nothing_is_read_where_there_is_none(outputs):
    host = Host(texts=["a"])
    step = host._read("batch", outputs)
    assert (step.outputs, step.loss, step.pairs, step.statements) == (outputs, None, None, None)
    assert not host.asked


@pytest.mark.parametrize(("texts", "has_statements"), [(["a"], True), (["a"], False), ([], True), ([], False)])
def test_statements_are_asked_for_where_the_objective_has_texts(texts, has_statements):
    host = Host(texts)
    step = host._read("batch", torch.tensor(2.0), has_statements=has_statements)
    assert (step.statements is not None) == bool(host.asked) == bool(texts and has_statements)


@pytest.mark.parametrize("reads_parts", [True, False])
@pytest.mark.parametrize("weight", [None, lambda part: 10.0 if len(part) == 2 else 30.0])
def test_parts_are_weighed_logged_once_and_forgotten(reads_parts, weight):
    """Five studies in parts of two, two and one; the first part has no loss."""
    host = Host(["a"], reads_parts)
    rows = torch.arange(10.0).view(5, 2)
    if weight is not None:
        host.chunk_weight = lambda batch, outputs: weight(batch["rows"])

    def step(part):
        host.log("mean", part["rows"].mean(), prog_bar=True)
        return {"loss": None if part["rows"][0, 0] == 0 else part["rows"].mean(), "rows": part["rows"]}

    whole = host._in_parts({"rows": rows}, step)
    weights = [2.0, 1.0] if weight is None else [10.0, 30.0]
    means = [float(rows[2:4].mean()), float(rows[4:].mean())]
    assert whole.loss.item() == pytest.approx(sum(w * m for w, m in zip(weights, means, strict=True)) / sum(weights))
    assert torch.equal(whole.pairs.images, rows[2:])
    assert (whole.pairs.words is not None) == (whole.pairs.regions is not None) == reads_parts
    assert whole.statements.shape == (2, 1, 2)
    assert len(host.asked) == 1  # of the first part that has a loss
    assert host.forgotten == 3
    ((name, value, args, kwargs),) = host.logged
    first = float(rows[:2].mean())
    expected = (first + sum(w * m for w, m in zip(weights, means, strict=True))) / (1 + sum(weights))
    assert (name, args, kwargs) == ("mean", (), {"prog_bar": True})
    assert value == pytest.approx(expected)
    assert host._part_log is None


def test_outside_of_parts_a_host_logs_at_once():
    host = Host()
    host.log("loss", 3.0, True, on_step=False)
    assert host.logged == [("loss", 3.0, (True,), {"on_step": False})]


def test_a_step_that_fails_leaves_no_log_behind():
    host = Host()
    with pytest.raises(RuntimeError, match="fails"):
        host._in_parts({"rows": torch.ones(5, 2)}, lambda part: (_ for _ in ()).throw(RuntimeError("fails")))
    assert host._part_log is None
    assert host.forgotten == 1
