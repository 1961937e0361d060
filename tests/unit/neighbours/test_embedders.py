import json
import math
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hardneg_plugin.errors import UserError
from hardneg_plugin.neighbours.embedders import SentenceTransformerEmbedder, TfidfEmbedder, embed

TEXTS = ["No left effusion. No pneumothorax.", "Small LEFT effusion", "5 mm nodule", "No nodule, no effusion"]


def words(text):
    return "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()


def tfidf_by_hand(texts):
    """(1 + ln tf) (1 + ln((1 + n) / (1 + df))), unit length."""
    counts = [Counter(words(text)) for text in texts]
    df = Counter(word for count in counts for word in count)
    rows = [
        {w: (1 + math.log(tf)) * (1 + math.log((1 + len(texts)) / (1 + df[w]))) for w, tf in count.items()}
        for count in counts
    ]
    lengths = [math.sqrt(sum(value**2 for value in row.values())) for row in rows]
    return [
        [sum(v * b.get(w, 0) for w, v in a.items()) / la / lb for b, lb in zip(rows, lengths, strict=True)]
        for a, la in zip(rows, lengths, strict=True)
    ]


def test_tfidf_is_the_formula():
    rows = TfidfEmbedder()(TEXTS)
    assert rows.dtype == np.float32
    assert (rows @ rows.T).toarray() == pytest.approx(np.array(tfidf_by_hand(TEXTS)), abs=1e-6)


def test_tfidf_knows_digits_letters_and_pairs_of_words():
    assert TfidfEmbedder()(["T 5 a", "t 6 a"]).shape[1] == 4
    assert TfidfEmbedder(ngrams=2)(["a b a", "b a"]).shape[1] == 4  # a, b, a b, b a
    assert TfidfEmbedder(min_count=2)(["a b", "a c"]).shape[1] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TfidfEmbedder(ngrams=0), "embedder.ngrams: expected a positive integer"),
        (lambda: TfidfEmbedder(min_count=0), "embedder.min_count"),
        (lambda: TfidfEmbedder()(["...", "!"]), "embedder: expected terms"),
        (lambda: TfidfEmbedder(min_count=3)(["a", "b", "c"]), "Lower embedder.min_count"),
    ],
)
def test_tfidf_refuses(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_equal_texts_are_embedded_once():
    asked = []

    def embedder(texts):
        asked.extend(texts)
        return torch.arange(len(texts), dtype=torch.float32)[:, None]

    assert embed(embedder, ["b", "a", "b", "c", "a"])[:, 0].tolist() == [0, 1, 0, 2, 1]
    assert asked == ["b", "a", "c"]


class Model:
    made = ()

    def __init__(self, name, **options):
        if name == "missing":
            raise OSError("no such model.\nmore")
        Model.made = (name, options)

    def encode(self, texts, *, batch_size, convert_to_tensor):
        assert convert_to_tensor
        return torch.tensor([[3.0 * len(text), 4.0 * len(text)] for text in texts])


def test_sentence_transformers(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Model))
    rows = SentenceTransformerEmbedder("some/model", batch_size=2)(["a", "bb"])
    assert rows.tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]] * 2
    name, options = Model.made
    assert (name, options["device"], options["trust_remote_code"]) == ("some/model", "cpu", False)
    with pytest.raises(UserError, match=r"embedder.name_or_path.*'missing' could not be loaded \(no such model\)"):
        SentenceTransformerEmbedder("missing")(["a"])


@pytest.mark.parametrize(
    "modules", [[{"type": "sentence_transformers.models.Pooling"}, {"type": "evil.Code"}], {}, [1]]
)
def test_a_folder_with_code_of_its_own_is_refused(monkeypatch, tmp_path, modules):
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace(SentenceTransformer=Model))
    Model.made = ()
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=r"modules\.json: expected only classes of sentence_transformers"):
        SentenceTransformerEmbedder(str(tmp_path))(["a"])
    assert Model.made == ()
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer"}]))
    SentenceTransformerEmbedder(str(tmp_path))(["a"])
    assert Model.made


def test_sentence_transformers_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"pip install 'hardneg-plugin\[sentence-transformers\]'"):
        SentenceTransformerEmbedder("x")(["a"])
