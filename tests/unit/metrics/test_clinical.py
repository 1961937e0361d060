"""RaTEScore and the metrics of radeval with stand-ins for their packages, which behave as the real ones do, in failing too."""

import sys
import warnings
from typing import Any

import numpy as np
import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics.directions import direction_of, directions_of
from hardneg_plugin.metrics.radeval import NOTHING_ALIKE, RadEvalScore
from hardneg_plugin.metrics.radgraph import LEVELS, RadGraph
from hardneg_plugin.metrics.ratescore import RaTEScore

# As the RadGraph in radeval 2.2.1: the same arguments and results, but a study's levels are shares of common words.
RADGRAPH = """
from RadEval.metrics import __name__ as its_own_name_in_its_imports
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

# As radeval 2.2.1: of each pair a score by the names of its adapters; scores are shares of common words.
RADEVAL = """
import warnings
KEYS = {{
    "radcliq": ["radcliq_v1"],
    "green": ["green"],
    "srrbert": ["srrbert_weighted_f1", "srrbert_weighted_precision", "srrbert_weighted_recall"],
    "crimson": ["crimson"],
}}
class RadEval:
    def __init__(self, metrics=None, openai_api_key=None, gemini_api_key=None, per_sample=False, detailed=False,
                 show_progress=True, cache_dir=None):
        warnings.filterwarnings("ignore")
        self.made = (metrics, openai_api_key, per_sample, show_progress)
        RadEval.last = self
        {made}
    def __call__(self, refs, hyps):
        if not (isinstance(hyps, list) and isinstance(refs, list)):
            raise TypeError("hyps and refs must be of type list")
        {called}
        sets = [(set(hyp.split()), set(ref.split())) for hyp, ref in zip(hyps, refs)]
        assert all(hyp and ref for hyp, ref in sets)
        shares = [None if hyp == {{"nothing"}} else len(hyp & ref) / len(hyp | ref) for hyp, ref in sets]
        (metric,) = self.made[0]
        return {{key: [share and share / n for share in shares] for n, key in enumerate(KEYS[metric], start=1)}}
"""

METRICS: dict[str, Any] = {
    "radgraph": ("radeval", {"metrics/__init__.py": "", "metrics/radgraph/__init__.py": RADGRAPH}, RadGraph()),
    "RaTEScore": ("RaTEScore", {"__init__.py": RATESCORE}, RaTEScore()),
    "radcliq": ("radeval", {"__init__.py": RADEVAL}, RadEvalScore("radcliq")),
    "green": ("radeval", {"__init__.py": RADEVAL}, RadEvalScore("green", trust_remote_code=True)),
    "srrbert": ("radeval", {"__init__.py": RADEVAL}, RadEvalScore("srrbert")),
    "crimson": ("radeval", {"__init__.py": RADEVAL}, RadEvalScore("crimson", model="a folder", batch_size=3)),
}
TEXTS = ["small left effusion", "", "nothing", "no effusion"]
OTHERS = ["left effusion", "clear lungs", "clear lungs", "no effusion"]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a package where Python finds it; with `made` or `called` run in its constructor or its call."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])

    def forget():
        for name in [name for name in sys.modules if name.partition(".")[0] in ("radeval", "RadEval", "RaTEScore")]:
            del sys.modules[name]

    def write(metric, *, first="", made="pass", called="pass"):
        package, files, _ = METRICS[metric]
        for name, source in {"__init__.py": "", **files}.items():
            (tmp_path / package / name).parent.mkdir(parents=True, exist_ok=True)
            own = first if name == "__init__.py" else ""
            (tmp_path / package / name).write_text(own + source.format(made=made, called=called))
        forget()

    yield write
    forget()


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
    assert sys.modules["RadEval.metrics.radgraph"].F1RadGraph.last.made == ("all", "radgraph", 1, None)


def test_ratescore_keeps_studies_and_references_together(install):
    install("RaTEScore")
    metric = RaTEScore(ner="a", synonyms="b", affinity="short", batch_size=3)
    metric.check()
    scored = metric(TEXTS, OTHERS, list("abcd"))
    assert scored.columns == {"RaTEScore_short": pytest.approx([2 / 3, 0, 0.5, 1])}
    assert scored.values == {"RaTEScore_short": pytest.approx((2 / 3 + 0.5 + 1) / 4)}
    assert sys.modules["RaTEScore"].RaTEScore.last.made == ("a", "b", 3, False, "short")


@pytest.mark.parametrize("name", ["radcliq", "green", "srrbert", "crimson"])
def test_radeval_scores_each_study_and_leaves_out_what_it_could_not_score(install, name):
    install(name)
    metric = METRICS[name][-1]
    metric.check()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scored = metric(TEXTS, OTHERS, list("abcd"))
        warnings.warn("still heard", stacklevel=1)
    assert [str(warning.message) for warning in caught] == ["still heard"]
    empty = NOTHING_ALIKE.get(name, 0)
    assert list(scored.values) == metric.names
    for n, score in enumerate(metric.names, start=1):
        assert scored.columns[score] == pytest.approx([2 / 3 / n, empty, np.nan, 1 / n], nan_ok=True)
        assert scored.values[score] == pytest.approx((2 / 3 / n + empty + 1 / n) / 3)
    options = {"provider": "hf", "model_name": "a folder", "batch_size": 3} if name == "crimson" else {}
    assert sys.modules["radeval"].RadEval.last.made == ({name: options}, None, True, False)


def test_nothing_alike_is_the_worst_radcliq():
    """By the means, deviations and coefficients that radeval 2.2.1 has, of RadGraph F1, BERTScore, CheXbert similarity, BLEU."""
    mean, deviation = [0.53792312, 0.61757256, 0.76479421, 0.44738335], [0.30282584, 0.22430938, 0.25394391, 0.29892717]
    coefficients = [-3.77083683e-01, -3.70300100e-01, -2.52616218e-01, 4.31504841e-12]
    values = [sum(c * (part - m) / d for c, m, d in zip(coefficients, mean, deviation, strict=True)) for part in (0, 1)]
    assert values == pytest.approx([NOTHING_ALIKE["radcliq"], -1.44069], abs=1e-5)
    assert direction_of("RadCliQ-v1") == "lower"


@pytest.mark.parametrize("name", METRICS)
def test_texts_without_words_are_scored_without_asking_the_package(install, name):
    install(name, called="raise IndexError")
    scored = METRICS[name][-1](["", " . ", "ok"], ["clear lungs", "", "fine"], list("abc"))
    assert list(scored.values.values()) == pytest.approx([NOTHING_ALIKE.get(name, 0.0)] * len(scored.values))


@pytest.mark.parametrize("name", METRICS)
def test_every_score_has_a_direction(install, name):
    install(name)
    scored = METRICS[name][-1](["small left effusion"], ["left effusion"], ["a"])
    assert directions_of(scored.values).keys() == scored.values.keys()


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
        r"weights of \w+ cannot be loaded \(We couldn't connect to the hub\)\. "
        r"Without a network, (set .*clinical\.|have .* in the hub's cache\.)",
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


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("failure", FAILURES)
def test_each_failure_is_one_line_that_helps(install, name, failure):
    broken, message = FAILURES[failure]
    package, _, metric = METRICS[name]
    if failure == "too few scores" and name != "radgraph":
        broken = {"called": "return []" if name == "RaTEScore" else "return dict.fromkeys(sum(KEYS.values(), []), [])"}
    first = broken.get("first", "")
    install(name, **{**broken, "first": f"{first}\n"})
    with pytest.raises(UserError, match=message) as raised:
        metric.check()
    assert "\n" not in str(raised.value)
    assert package in str(raised.value)


@pytest.mark.parametrize("name", METRICS)
def test_a_package_that_is_not_installed(monkeypatch, name):
    package, _, metric = METRICS[name]
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    monkeypatch.delitem(sys.modules, package, raising=False)
    with pytest.raises(UserError, match=f"clinical={name.lower()} needs .* not installed: pip install {package}"):
        metric.check()


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
    assert sys.modules["RadEval.metrics.radgraph"].F1RadGraph.last.made[-1] == str(tmp_path / "weights")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RadGraph(model="xl"), "clinical.radgraph.model: expected one of radgraph, .* but got 'xl'"),
        (lambda: RadEvalScore("bleu"), "metric: expected one of radcliq, green, srrbert, crimson, but got 'bleu'"),
        (lambda: RadEvalScore("green"), "runs code of its repository.*clinical.green.trust_remote_code=true"),
        (lambda: RaTEScore(affinity="mid"), "clinical.ratescore.affinity: expected long or short"),
        (lambda: RaTEScore(device="cuda:1"), "clinical.ratescore.device: expected cpu or cuda"),
    ],
)
def test_values_are_checked_at_once(make, message):
    with pytest.raises(UserError, match=message):
        make()
