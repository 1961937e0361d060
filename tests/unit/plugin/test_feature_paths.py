"""Where features are found in a host."""

from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import nn

from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.feature_paths import FeaturePaths, find_module, pick, recorded


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
        ((1, 2), ["--1"], r"batch has no '--1': it is a tuple of 2\."),
        ((1, 2), ["²"], r"batch has no '²': it is a tuple of 2\."),
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


def test_at_most_three_similar_modules_are_named():
    host = nn.ModuleDict({f"encoder{i}": nn.Identity() for i in range(5)})
    with pytest.raises(UserError, match=r"Did you mean 'encoder\d' or 'encoder\d' or 'encoder\d'\?"):
        find_module(host, "encoder", "images")
    with pytest.raises(UserError, match=r"has no module 'zzz'\. Its modules are encoder0, encoder1,"):
        find_module(host, "zzz", "images")


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


def test_similar_paths_are_searched_for_in_case_of_an_error_only(monkeypatch):
    searched = []
    monkeypatch.setattr(
        "hardneg_plugin.plugin.host_paths.get_close_matches", lambda *given, **options: searched.append(given) or []
    )
    host, places = Nested(), FeaturePaths(images="encoder", reports="decoder.norm.states")
    calls = {"encoder": [torch.ones(2, 2)], "decoder.norm.states": [{"states": torch.ones(2, 2)}]}
    places.pairs(host, {}, None, calls)
    assert not searched
    calls["decoder.norm.states"] = [{"words": torch.ones(2, 2)}]
    with pytest.raises(UserError, match="has no 'states'"):
        places.pairs(host, {}, None, calls)
    assert searched
