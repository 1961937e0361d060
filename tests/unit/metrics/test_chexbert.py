"""The labeller with a tiny BERT of random weights, saved as the released one is."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from hardneg_plugin.errors import UserError
from hardneg_plugin.metrics import chexbert
from hardneg_plugin.metrics.chexbert import CheXbert
from hardneg_plugin.metrics.chexpert import label_f1

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "left", "right", "effusion", "heart", "normal", "."]
GENERATED = ["no left effusion .", "heart normal", "", "right right\n  effusion", "No unseen words . heart . heart ."]
REFERENCES = ["left effusion", "heart normal", "normal .", "no right effusion .", "heart " * 700]


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The folder, the BERT with its pooler, and the heads."""
    folder = tmp_path_factory.mktemp("chexbert")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    config.save_pretrained(folder)
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"bert": BertModel(config), "linear_heads": nn.ModuleList(nn.Linear(8, n) for n in [4] * 13 + [2])}
    ).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=1.5)
    state = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": state}, folder / "chexbert.pth")
    return folder, model


def metric_of(folder, **options):
    return CheXbert(weights=str(folder / "chexbert.pth"), bert=str(folder), batch_size=3, **options)


@torch.no_grad()
def labels_one_by_one(released, text):
    """As the released code: one report, words by hand, 512 tokens with the first and the last."""
    _, model = released
    words = text.lower().replace(".", " . ").split()
    tokens = [WORDS.index(word) if word in WORDS else 1 for word in words]
    first = model["bert"](torch.tensor([[2, *tokens[:510], 3]])).last_hidden_state[0, 0]
    return [(np.nan, 1.0, 0.0, -1.0)[head(first).argmax().item()] for head in model["linear_heads"]]


def test_labels_are_those_of_one_report_at_a_time(released):
    ours, theirs = (np.array([labels_one_by_one(released, text) for text in side]) for side in (GENERATED, REFERENCES))
    assert len(np.unique(ours[~np.isnan(ours)])) == 3
    assert len({tuple(map(str, row)) for row in ours}) > 1
    scored = metric_of(released[0])(GENERATED, REFERENCES, list("abcde"))
    assert scored.values == label_f1(ours, theirs, "chexbert").values
    assert scored.columns == label_f1(ours, theirs, "chexbert").columns


def test_nothing_is_asked_of_the_hub_with_files_of_ones_own(released, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("connected"))
    metric_of(released[0]).check()


def torn(folder):
    (folder / "chexbert.pth").write_bytes(b"PK torn")


def of_another_model(folder):
    torch.save({"model_state_dict": {"encoder.weight": torch.zeros(2)}}, folder / "chexbert.pth")


def of_another_size(folder):
    config = BertConfig.from_pretrained(folder)
    config.vocab_size += 1
    config.save_pretrained(folder)


WEIGHTS = r"clinical\.chexbert\.weights: expected "
WRONG = {
    "no file": (lambda folder: (folder / "chexbert.pth").unlink(), WEIGHTS + r".*chexbert\.pth cannot be read as such"),
    "a torn file": (torn, WEIGHTS + "the released chexbert.pth"),
    "another file": (lambda folder: torch.save([1], folder / "chexbert.pth"), WEIGHTS + "the released chexbert.pth"),
    "another model": (of_another_model, WEIGHTS + r"the weights of CheXbert on .*does not fit \(bert\.embeddings"),
    "another size": (of_another_size, WEIGHTS + "the weights of CheXbert on .*does not fit"),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        r"clinical\.chexbert\.bert: expected the file .*config\.json",
    ),
    "no vocabulary": (
        lambda folder: (folder / "vocab.txt").unlink(),
        r"clinical\.chexbert\.bert: expected the file .*vocab\.txt",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_missing_or_wrong_is_told_in_one_line(released, tmp_path, case):
    for file in ("chexbert.pth", "config.json", "vocab.txt"):
        (tmp_path / file).write_bytes((released[0] / file).read_bytes())
    edit, message = WRONG[case]
    edit(tmp_path)
    with pytest.raises(UserError, match=message) as raised:
        metric_of(tmp_path).check()
    assert "\n" not in str(raised.value)


def test_the_cache_is_asked_before_the_hub(monkeypatch, released):
    asked = []

    def cached(repository, name, **options):
        asked.append((repository, name, options))
        if options:
            raise OSError("not in the cache")
        return str(released[0] / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", cached)
    CheXbert(bert=str(released[0])).check()
    assert asked == [(*chexbert.HUB, {"local_files_only": True}), (*chexbert.HUB, {})]


def test_no_network_and_no_weights(monkeypatch):
    def offline(*_, **__):
        raise RuntimeError("An error happened.\nPlease check your connection.")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(
        UserError,
        match=r"\(An error happened\)\. Without a network, set clinical\.chexbert\.weights to the file chexbert\.pth",
    ) as raised:
        CheXbert().check()
    assert "\n" not in str(raised.value)
