"""Embeddings on the disk."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hardneg_plugin.errors import UserError
from hardneg_plugin.neighbours import embedding_files
from hardneg_plugin.neighbours.embedders import TfidfEmbedder, embed, without_direction
from hardneg_plugin.neighbours.embedding_files import EmbeddingFiles, embed_in_files

TEXTS = [f"nodule {number % 7}" for number in range(20)]


class ByLetters:
    def __init__(self, scale=1.0, fails_at=None):
        self.scale, self.fails_at, self.seen = scale, fails_at, []

    def __call__(self, texts):
        if self.fails_at in texts and len(texts) > 1:
            raise KeyboardInterrupt
        self.seen.append(list(texts))
        rows = [[ord(text[-1]) - 48.0, self.scale, 0.0 if "3" in text else 1.0] for text in texts]
        return F.normalize(torch.tensor(rows), dim=1)


@pytest.fixture(autouse=True)
def _small_files(monkeypatch):
    monkeypatch.setattr(embedding_files, "TEXTS", 2)


def test_rows_are_those_in_memory_however_they_are_asked_for(tmp_path):
    kept, expected = embed_in_files(ByLetters(), TEXTS, tmp_path), embed(ByLetters(), TEXTS)
    assert isinstance(kept, EmbeddingFiles)
    assert kept.shape == expected.shape
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"embeddings-0000{number}.npy" for number in range(4)]
    for asked in (slice(None), slice(3, 9), np.array([19, 0, 6, 6])):
        torch.testing.assert_close(kept[asked], expected[asked], rtol=0, atol=0)
    assert not without_direction(kept).any()


def test_goes_on_where_it_was_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        embed_in_files(ByLetters(fails_at="nodule 4"), TEXTS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["embeddings-00000.npy", "embeddings-00001.npy"]
    embedder = ByLetters()
    kept = embed_in_files(embedder, TEXTS, tmp_path)
    assert embedder.seen == [["nodule 0"], ["nodule 4", "nodule 5"], ["nodule 6"]]
    assert torch.equal(kept[:], embed(ByLetters(), TEXTS))


def test_the_embeddings_of_another_model_are_refused(tmp_path):
    embed_in_files(ByLetters(), TEXTS, tmp_path)
    with pytest.raises(UserError, match=r"the embedder has changed since that mining began\. Delete the folder"):
        embed_in_files(ByLetters(scale=2.0), TEXTS, tmp_path)


def test_tfidf_sees_all_texts(tmp_path):
    kept = embed_in_files(TfidfEmbedder(), TEXTS, tmp_path)
    assert (kept != embed(TfidfEmbedder(), TEXTS)).nnz == 0
    assert not list(tmp_path.iterdir())
