"""The package radeval itself, where it is installed: its names, and a RadGraph of random weights through its code."""

import json

import pytest
import torch

from hardneg_plugin.metrics.radeval import RADEVAL_SCORES, radeval_module
from hardneg_plugin.metrics.radgraph import RadGraph

pytest.importorskip("radeval", reason="radeval is not installed here")
pytestmark = pytest.mark.slow

TEXTS = ["there is a small left pleural effusion .", "no right effusion .", "clear lungs .", "b"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(" ".join(TEXTS).split())]
LABELS = {"ner": ["ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U"], "relation": ["modify", "located_at", "suggestive_of"]}
MODULES = {
    "ner": {},
    "relation": {"spans_per_word": 0.5},
    "coref": {"spans_per_word": 0.3, "max_antecedents": 10, "coref_prop": 0},
    "events": {
        "trigger_spans_per_word": 0.3,
        "argument_spans_per_word": 0.8,
        "loss_weights": {"trigger": 1.0, "arguments": 1.0},
    },
}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A folder as `clinical.radgraph.weights` names it, with a RadGraph on a tiny BERT."""
    from transformers import BertConfig, BertModel, BertTokenizer

    bert, folder = tmp_path / "bert", tmp_path / "radgraph"
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(bert)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(bert)
    embedder = {"bert": {"model_name": str(bert), "max_length": 64}}
    model = {
        "type": "dygie",
        "embedder": {"token_embedders": embedder},
        "initializer": {},
        "module_initializer": {},
        "feature_size": 4,
        "max_span_width": 4,
        "target_task": "relation",
        "feedforward_params": {"num_layers": 1, "hidden_dims": 8, "dropout": 0.0},
        "loss_weights": {"ner": 1.0, "relation": 1.0, "coref": 0.0, "events": 0.0},
        "modules": MODULES,
    }
    (folder / "vocabulary").mkdir(parents=True)
    reader = {"max_span_width": 4, "token_indexers": embedder}
    (folder / "config.json").write_text(json.dumps({"dataset_reader": reader, "vocabulary": {}, "model": model}))
    for kind, names in LABELS.items():
        (folder / "vocabulary" / f"radgraph__{kind}_labels.txt").write_text("\n".join(["", *names]))
    namespaces = ["*tags", "*labels", *(f"radgraph__{kind}_labels" for kind in LABELS)]
    (folder / "vocabulary" / "non_padded_namespaces.txt").write_text("\n".join(namespaces))

    def save_random(self, state, strict=True):
        torch.manual_seed(0)
        torch.save(
            {name: torch.randn_like(tensor) / 2 for name, tensor in self.state_dict().items()}, folder / "weights.th"
        )

    radgraph = radeval_module("RadEval.metrics.radgraph")
    dygie = radeval_module("RadEval.metrics.radgraph._vendor.dygie.models.dygie").DyGIE
    torch.save({}, folder / "weights.th")
    with monkeypatch.context() as patched:
        patched.setattr(dygie, "load_state_dict", save_random)
        radgraph.RadGraph(model_type="radgraph", cuda=-1, model_cache_dir=str(tmp_path))
    return tmp_path


def test_a_radgraph_runs_in_radeval_beside_our_transformers(weights):
    metric = RadGraph(model="radgraph", weights=str(weights))
    metric.check()
    same, other, third, _ = TEXTS
    scored = metric([same, third, ""], [same, other, third], ["a", "b", "c"])
    for column in scored.columns.values():
        assert (column[0], column[2]) == (1, 0)
        assert column[1] < 1


@pytest.mark.parametrize("metric", RADEVAL_SCORES)
def test_the_package_gives_the_scores_that_are_read(metric):
    made = radeval_module("radeval.metrics._registry").get_metric_class(metric)
    assert list(RADEVAL_SCORES[metric]) == made.metric_keys(object.__new__(made))
