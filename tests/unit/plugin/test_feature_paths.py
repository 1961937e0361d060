"""Where features are found in a host, and how they become one vector per study."""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.feature_paths import FeaturePaths, find_module, parts, pick, pool, recorded


class Pair(NamedTuple):
    left: int
    right: int


class Output(dict):
    """As the outputs of transformers: keys, attributes and indices."""

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


@pytest.mark.parametrize(
    ("value", "keys", "expected"),
    [
        ({"a": {"b": 3}}, ["a", "b"], 3),
        ({"1": "text key", 1: "number"}, ["1"], "text key"),
        ({1: "number"}, ["1"], "number"),
        ((4, 5, 6), ["1"], 5),
        ([4, 5, 6], ["-1"], 6),
        (Pair(7, 8), ["right"], 8),
        (Pair(7, 8), ["0"], 7),
        (SimpleNamespace(mask=9), ["mask"], 9),
        (Output(last=1, all=(2, 3)), ["1", "0"], 2),
        ("whole", [], "whole"),
    ],
)
def test_a_path_leads_by_keys_indices_and_attributes(value, keys, expected):
    assert pick(value, keys, "batch") == expected


@pytest.mark.parametrize(
    ("value", "keys", "message"),
    [
        ({"image": 1, "mask": 2}, ["masks"], r"has no 'masks': it is a dict with the keys image, mask\. Did you mean 'mask'\?"),
        ({"a": (1, 2)}, ["a", "2"], r"batch\.a has no '2': it is a tuple of 2\."),
        ([1], ["first"], r"batch has no 'first': it is a list of 1\."),
        (Pair(7, 8), ["rigth"], r"a Pair with the attributes left, right\. Did you mean 'right'\?"),
        (SimpleNamespace(mask=1), ["masc"], r"attributes mask\. Did you mean 'mask'\?"),
        (torch.zeros(2, 3), ["0"], r"batch has no '0': it is a tensor of shape \(2, 3\)"),
        ({}, ["items"], r"with the keys none"),
    ],
)  # fmt: skip
def test_a_wrong_path_says_what_there_is(value, keys, message):
    with pytest.raises(UserError, match=message):
        pick(value, keys, "batch")


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.decoder = nn.ModuleDict({"norm": nn.LayerNorm(2)})
        self.empty = nn.Sequential()


@pytest.mark.parametrize(
    ("path", "name", "keys"),
    [
        ("encoder", "encoder", []),
        ("encoder.1", "encoder.1", []),
        ("encoder.2", "encoder", ["2"]),
        ("decoder.norm.last.0", "decoder.norm", ["last", "0"]),
        ("empty.0", "empty", ["0"]),
    ],
)
@pytest.mark.parametrize("compiled", [False, True])
def test_the_longest_prefix_that_is_a_module_is_it(path, name, keys, compiled):
    host = Nested()
    expected = host.get_submodule(name)
    if compiled:
        host.encoder = torch.compile(host.encoder)
        expected = host.encoder if name == "encoder" else expected
    module, rest = find_module(host, path, "images")
    assert module is expected
    assert rest == keys


def test_a_module_that_is_not_there_is_told_with_its_nearest_and_all():
    message = r"images='encodr\.1': Nested has no module 'encodr'\. Did you mean 'encoder\.1'.*encoder, decoder, empty; 'batch'"
    with pytest.raises(UserError, match=message):
        find_module(Nested(), "encodr.1", "images")


@pytest.mark.parametrize("where", [3, "", "encoder..1", ["encoder"], None])
def test_a_place_is_a_path_or_a_callable(where):
    with pytest.raises(UserError, match=r"images: expected a path.*callable"):
        FeaturePaths(images=where, reports="decoder")


def test_hooks_are_there_only_while_recording_and_calls_are_kept_in_order():
    host = Nested()
    x = torch.randn(3, 2)
    with recorded({"encoder": host.encoder, "encoder.0": host.encoder[0]}) as calls:
        first, second = host.encoder(x), host.encoder(x + 1)
    host.encoder(x)
    assert [id(output) for output in calls["encoder"]] == [id(first), id(second)]
    assert len(calls["encoder.0"]) == 2
    assert not any(module._forward_hooks for module in host.modules())
    with pytest.raises(RuntimeError), recorded({"encoder": host.encoder}):
        raise RuntimeError
    assert not host.encoder._forward_hooks


def test_pooling_is_a_mean_over_what_counts():
    random = torch.Generator().manual_seed(0)
    flat, words, maps = (torch.randn(shape, generator=random) for shape in [(2, 3), (2, 4, 3), (2, 3, 4, 5)])
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert pool(flat, None, "image") is flat
    assert torch.allclose(pool(words, None, "report"), torch.stack([sum(row) / 4 for row in words]))
    expected = torch.stack([(words[0, 0] + words[0, 1]) / 2, (words[1, 1] + words[1, 2] + words[1, 3]) / 3])
    for kind in (mask, mask.bool(), mask.float()):
        assert torch.allclose(pool(words, kind, "report"), expected)
    assert torch.allclose(pool(maps, None, "image"), sum(maps[:, :, i, j] for i in range(4) for j in range(5)) / 20)


@pytest.mark.parametrize(
    ("features", "mask", "message"),
    [
        (torch.zeros(2), None, r"\(B, C, H, W\), but got \(2,\): give a callable.*reports=lambda batch, outputs"),
        (torch.zeros(2, 3, 4, 5, 6), None, r"but got \(2, 3, 4, 5, 6\)"),
        (torch.zeros(2, 3, dtype=torch.int64), None, r"tensor of floats, but got a tensor \(2, 3\) of int64"),
        ((torch.zeros(2, 3),), None, r"but got a tuple: pick out of it by a key or an index"),
        (torch.zeros(2, 5, 3), torch.ones(2, 6), r"has 6 positions, but the features \(2, 5, 3\) have 5.*\[:, 1:\]"),
        (torch.zeros(2, 5, 3), torch.ones(3, 5), r"Expected report_mask \(2, 5\).*got a tensor \(3, 5\) of float32"),
        (torch.zeros(2, 5, 3), [1, 2], r"Expected report_mask \(2, 5\).*got a list"),
        (torch.zeros(2, 3), torch.ones(2, 3), r"report_mask goes with features \(B, T, D\), but they are \(2, 3\)"),
    ],
)
def test_what_cannot_be_pooled_is_told_with_its_shape_and_the_remedy(features, mask, message):
    with pytest.raises(UserError, match=message):
        pool(features, mask, "report")


def test_what_is_pooled_is_handed_on_in_parts():
    random = torch.Generator().manual_seed(0)
    flat, words, maps = (torch.randn(shape, generator=random) for shape in [(2, 3), (2, 4, 3), (2, 3, 4, 5)])
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    assert parts(flat, None) == (None, None)
    assert parts(words, None) == (words, None)
    assert parts(words, mask)[1].equal(mask.bool())
    regions, none = parts(maps, None)
    assert none is None
    assert regions.shape == (2, 20, 3)
    assert regions[1, 7].equal(maps[1, :, 1, 2])
