"""RadGraph and RaTEScore with stand-ins for their packages, which behave as the real ones do, in failing too."""

import sys
from typing import Any

import numpy as np
import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.radgraph import LEVELS, RadGraph
from hardneg_plugin.metrics.ratescore import RaTEScore

# As radgraph 0.1.18: the same arguments and results, but a study's levels are shares of common words.
RADGRAPH = """
import os
class F1RadGraph:
    def __init__(self, reward_level, model_type=None, cuda=None, model_cache_dir=None):
        assert reward_level in ["simple", "partial", "complete", "all"]
        print("Using device:", cuda)
        self.made = (reward_level, model_type, cuda, model_cache_dir)
        F1RadGraph.last = self
        {made}
    def __call__(self, refs, hyps):
        assert isinstance(hyps, list) and isinstance(refs, list) and len(refs) == len(hyps)
        {called}
        assert all(text.split() for text in hyps + refs)
        shares = [len(set(a.split()) & set(b.split())) / len(set(a.split()) | set(b.split())) for a, b in zip(hyps, refs)]
        levels = tuple([share / n for share in shares] for n in (1, 2, 4))
        return tuple(sum(level) / len(level) for level in levels), levels, [], []
"""

# As RaTEScore 0.6.0, which leaves out texts without a sentence and pairs the rest by their order.
RATESCORE = """
class RaTEScore:
    def __init__(self, bert_model="ner", eval_model="synonyms", batch_size=1, use_gpu=True, visualization_path=None,
                 affinity_matrix="long"):
        self.made = (bert_model, eval_model, batch_size, use_gpu, affinity_matrix)
        RaTEScore.last = self
        {made}
    def compute_score(self, candidate_list, reference_list):
        if not isinstance(candidate_list, list):
            raise ValueError("candidate must be a list")
        {called}
        pairs = [[set(t.split()) for t in side if len(t.strip()) >= 3] for side in (candidate_list, reference_list)]
        return [0.5 if a == {{"nothing"}} else len(a & b) / len(a | b) for a, b in zip(*pairs)]
"""

METRICS: dict[str, Any] = {"radgraph": (RADGRAPH, RadGraph()), "RaTEScore": (RATESCORE, RaTEScore())}
TEXTS = ["small left effusion", "", "nothing", "no effusion"]
OTHERS = ["left effusion", "clear lungs", "clear lungs", "no effusion"]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package where Python finds it; with `made` or `called` run in its constructor or its call."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def write(package, *, first="", made="pass", called="pass"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(first + METRICS[package][0].format(made=made, called=called))
        monkeypatch.delitem(sys.modules, package, raising=False)

    yield write
    for package in METRICS:
        sys.modules.pop(package, None)


def jaccard(a, b):
    return len(set(a.split()) & set(b.split())) / len(set(a.split()) | set(b.split()))


def test_radgraph_scores_each_level_and_study(install):
    install("radgraph")
    metric = RadGraph(model="radgraph", device="cuda:1")
    metric.check()
    scored = metric(TEXTS, OTHERS, list("abcd"))
    shares = np.array([jaccard(a, b) for a, b in zip(TEXTS, OTHERS, strict=True)])
    for n, level in zip((1, 2, 4), LEVELS, strict=True):
        assert scored.columns[f"radgraph_F1_{level}"] == pytest.approx(shares / n)
        assert scored.values[f"radgraph_F1_{level}"] == pytest.approx((shares / n).mean())
    assert sys.modules["radgraph"].F1RadGraph.last.made == ("all", "radgraph", 1, None)


def test_ratescore_keeps_studies_and_references_together(install):
    install("RaTEScore")
    metric = RaTEScore(ner="a", synonyms="b", affinity="short", batch_size=3)
    metric.check()
    scored = metric(TEXTS, OTHERS, list("abcd"))
    assert scored.columns == {"RaTEScore_short": pytest.approx([2 / 3, 0, 0.5, 1])}
    assert scored.values == {"RaTEScore_short": pytest.approx((2 / 3 + 0.5 + 1) / 4)}
    assert sys.modules["RaTEScore"].RaTEScore.last.made == ("a", "b", 3, False, "short")


@pytest.mark.parametrize("package", METRICS)
def test_texts_without_words_score_zero_without_asking_the_package(install, package):
    install(package, called="raise IndexError")
    scored = METRICS[package][1](["", " . ", "ok"], ["clear lungs", "", "fine"], list("abc"))
    assert set(scored.values.values()) == {0.0}


FAILURES = {
    "a dependency is missing": (
        {"first": "import no_such_module"},
        r"cannot be imported.*No module named 'no_such_module'",
    ),
    "another numpy": (
        {"first": "raise ValueError('numpy.dtype size changed.')"},
        r"imported.*\(numpy.dtype size changed\)",
    ),
    "no network": (
        {"made": 'raise OSError("We couldn\'t connect to the hub.\\nCheck your connection.")'},
        r"weights of \w+ cannot be loaded \(We couldn't connect to the hub\)\. Without a network, set .*clinical\.",
    ),
    "no network, told by a kind of its own": (
        {"made": "raise Exception('Cannot download the file')"},
        r"cannot be loaded \(Cannot download the file\)\. Without a network",
    ),
    "a function is gone when made": (
        {"made": "'tokenizer'.encode_plus()"},
        r"package \w+ \(of unknown version\) does not run beside transformers \d.*AttributeError: .*encode_plus",
    ),
    "a function is gone when called": ({"called": "'tokenizer'.encode_plus()"}, "does not run beside.*encode_plus"),
    "a text that it fails on": ({"called": "raise KeyError('0')"}, r"failed on these reports \(KeyError: '0'\)"),
    "too few scores": ({"called": "return ([], [[], [], []])[:2] if hyps else 0"}, "gave scores of shape"),
}


@pytest.mark.parametrize("package", METRICS)
@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_is_one_line_that_helps(install, package, failure):
    broken, message = FAILURES[failure]
    if failure == "too few scores" and package == "RaTEScore":
        broken = {"called": "return []"}
    first = broken.get("first", "")
    install(package, **{**broken, "first": f"{first}\n"})
    with pytest.raises(UserError, match=message) as raised:
        METRICS[package][1].check()
    assert "\n" not in str(raised.value)
    assert package in str(raised.value)


@pytest.mark.parametrize("package", METRICS)
def test_a_package_that_is_not_installed(monkeypatch, package):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(UserError, match=f"not installed: pip install {package}"):
        METRICS[package][1].check()


def test_radgraph_from_a_folder(install, tmp_path):
    install("radgraph")
    metric = RadGraph(weights=str(tmp_path / "weights"))
    with pytest.raises(UserError, match=r"clinical.radgraph.weights: expected the file .*radgraph-xl.config\.json"):
        metric.check()
    folder = tmp_path / "weights" / "radgraph-xl"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    with pytest.raises(UserError, match=r"weights\.th"):
        metric.check()
    (folder / "weights.th").touch()
    metric.check()
    assert sys.modules["radgraph"].F1RadGraph.last.made[-1] == str(tmp_path / "weights")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RadGraph(model="xl"), "clinical.radgraph.model: expected one of radgraph, .* but got 'xl'"),
        (lambda: RaTEScore(affinity="mid"), "clinical.ratescore.affinity: expected long or short"),
        (lambda: RaTEScore(device="cuda:1"), "clinical.ratescore.device: expected cpu or cuda"),
    ],
)
def test_values_are_checked_at_once(make, message):
    with pytest.raises(UserError, match=message):
        make()
