"""Tokens and their attention into words and theirs."""

import pytest
import torch

from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.models.report_io import GeneratedReport, generated_report, group_views, token_positions
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.inference_model import image_size_of


class Pieces:
    """A tokenizer of pieces of words: a "_" begins a word, and "" is a special token."""

    pieces = ("", "_heart", "meg", "aly", "_is", "_no _acute", "")

    def decode(self, ids):
        return " ".join("".join(self.pieces[index] for index in ids).replace("_", " ").split())


def maps(*values):
    """One view of 1 x 2 patches: each value is what the first patch gets."""
    return torch.tensor([[[[value, 1 - value]]] for value in values])


def first_patch(report):
    return report.attention[:, 0, 0, 0].tolist()


def test_each_word_has_the_attention_of_its_token():
    tokenizer = WordTokenizer(("<unk>", "clear", "heart"))
    report = generated_report(tokenizer, [3, 2, 0, 0], maps(0.1, 0.2, 0.3, 0.4))
    assert (report.text, report.words, str(report)) == ("heart clear", ["heart", "clear"], "heart clear")
    assert first_patch(report) == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("tokens", "words", "expected"),
    [
        ([1, 2, 3, 4, 0], ["heartmegaly", "is"], [(0.1 + 0.2 + 0.3) / 3, 0.4]),
        ([5, 4, 0, 0, 0], ["no", "acute", "is"], [0.1, 0.1, 0.2]),
        ([6, 1, 6, 2, 0], ["heartmeg"], [(0.2 + 0.3 + 0.4) / 3]),
        ([1, 4, 1, 4, 1], ["heart", "is", "heart", "is", "heart"], [0.1, 0.2, 0.3, 0.4, 0.5]),
        ([6, 6, 0, 0, 0], [], []),
        ([0, 0, 0, 0, 0], [], []),
    ],
)
def test_a_word_of_several_tokens_has_their_mean(tokens, words, expected):
    report = generated_report(Pieces(), tokens, maps(0.1, 0.2, 0.3, 0.4, 0.5))
    assert report.words == words
    assert first_patch(report) == pytest.approx(expected)


def test_the_tokens_of_each_word():
    assert token_positions(Pieces(), [6, 1, 6, 2, 4, 5, 0]) == [[1, 2, 3], [4], [5], [5]]
    assert token_positions(Pieces(), [0, 0]) == []


def test_the_view_that_a_word_rests_on():
    attention = torch.tensor([[[[0.1, 0.1]], [[0.4, 0.4]]], [[[0.5, 0.1]], [[0.2, 0.2]]]])
    report = GeneratedReport("two words", attention)
    assert [view for view, _ in report.views()] == [1, 0]
    assert [share for _, share in report.views()] == pytest.approx([0.8, 0.6])
    assert GeneratedReport("", torch.zeros(0, 2, 1, 1)).views() == []
    with pytest.raises(ValueError, match="attention=True"):
        GeneratedReport("two words").views()


def test_a_list_has_a_study_in_each_place():
    image = torch.zeros(3, 4, dtype=torch.uint8)
    assert group_views("a.png") == [["a.png"]]
    assert group_views(["a.png", "b.png"]) == [["a.png"], ["b.png"]]
    assert group_views([["a.png", "b.png"], "c.png", ("d.png",)]) == [["a.png", "b.png"], ["c.png"], ["d.png"]]
    assert [len(study) for study in group_views(image)] == [1]
    with pytest.raises(UserError, match="study 1"):
        group_views(["a.png", []])


@pytest.mark.parametrize(
    ("source", "size"),
    [
        ("{crop: 224, resize: 256}", 224),
        ("{size: 96}", 96),
        ("{size: 256, crop: 224}", 224),
        ("{root: x}", None),
        ("7", None),
    ],
)
def test_the_size_of_the_images_of_a_run(tmp_path, source, size):
    (tmp_path / "config.yaml").write_text(f"decoding: {{}}\nmodel: {{}}\ndata: {{datamodule: {{source: {source}}}}}\n")
    config = RunFolder(tmp_path).read_config()
    if size is not None:
        assert image_size_of(config, tmp_path) == size
    else:
        with pytest.raises(UserError, match="image_size="):
            image_size_of(config, tmp_path)
