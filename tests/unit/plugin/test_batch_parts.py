"""Batches of any nesting, split by study and joined again."""

import math
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import asdict, dataclass, field

import numpy as np
import pytest
import torch
from transformers import BatchEncoding
from transformers.modeling_outputs import CausalLMOutput

from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.batch_parts import count_studies, join, split

B = 5
IMAGES, TOKENS = torch.arange(B * 3.0).reshape(B, 3), torch.arange(B * 2).reshape(B, 2)
IDS = ["a", "b", "c", "d", "e"]
Pair = namedtuple("Pair", "images scale")


@dataclass(frozen=True)
class Frozen:
    images: torch.Tensor
    name: str = "one"
    made: int = field(default=3, init=False)


BATCHES = {
    "tensor": (IMAGES, lambda part: part),
    "dict": ({"images": IMAGES, "ids": IDS, "scale": 0.5, "none": None, "text": "hello"}, lambda part: part["images"]),
    "list": ([IMAGES, TOKENS, tuple(IDS)], lambda part: part[0]),
    "tuple of lists": (([IMAGES, [TOKENS]], IDS), lambda part: part[0][0]),
    "named tuple": (Pair(IMAGES, 2.0), lambda part: part.images),
    "frozen dataclass": (Frozen(IMAGES), lambda part: part.images),
    "encoding": (BatchEncoding({"input_ids": TOKENS, "images": IMAGES}), lambda part: part["images"]),
    "user dict": (UserDict({"images": IMAGES}), lambda part: part["images"]),
    "default dict": (defaultdict(list, {"images": IMAGES}), lambda part: part["images"]),
    "ordered, nested": (OrderedDict(a={"b": [{"images": IMAGES}]}), lambda part: part["a"]["b"][0]["images"]),
    "array": ({"images": IMAGES, "rows": np.arange(B)}, lambda part: part["images"]),
    "list of studies": ([{"images": row, "id": i} for row, i in zip(IMAGES, IDS, strict=True)], None),
    "views of several shapes": ({"ids": IDS, "views": [torch.zeros(v, 2) for v in (1, 2, 3, 1, 2)]}, None),
    "no dimensions": ({"images": IMAGES, "step": torch.tensor(7)}, lambda part: part["images"]),
}


def test_a_number_of_a_host_stays_one_where_weights_are_tensors():
    joined = join([{"accuracy": 0.5}, {"accuracy": 1.0}], [3, 2], [torch.tensor(6.0), torch.tensor(2.0)])
    assert joined == {"accuracy": pytest.approx(0.625)}
    assert type(joined["accuracy"]) is float
    assert math.isnan(join([0.5, 1.0], [3, 2], [0, 0]))  # as a mean over no token


def test_what_cannot_be_compared_becomes_a_list_and_what_is_empty_stays():
    class Table:
        def __eq__(self, other):
            return np.array([True, False])

        __hash__ = None

    tables = [Table(), Table()]
    joined = join([{"table": table, "past": ()} for table in tables], [3, 2], [3, 2])
    assert all(table is own for table, own in zip(joined["table"], tables, strict=True))
    assert joined["past"] == ()


@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("name", BATCHES)
def test_parts_are_slices_of_the_batchs_own_class(name, chunks):
    batch, images_of = BATCHES[name]
    parts = split(batch, chunks)
    size = -(-B // chunks)
    assert len(parts) == -(-B // size) <= chunks
    assert all(type(part) is type(batch) for part in parts)
    if images_of is not None:
        for part, start in zip(parts, range(0, B, size), strict=True):
            assert torch.equal(images_of(part), IMAGES[start : start + size])
    elif isinstance(batch, list):
        assert [study["id"] for part in parts for study in part] == IDS
    else:
        assert [len(views) for part in parts for views in part["views"]] == [1, 2, 3, 1, 2]
        assert [study for part in parts for study in part["ids"]] == IDS


@pytest.mark.parametrize("value", ["x", 3, 0.5])
def test_records_with_a_text_or_a_number_are_studies(value):
    """Two of them with three views each; without such a value they may be two collections of three studies."""
    records = [{"views": torch.zeros(3, 2), "own": value} for _ in range(2)]
    assert count_studies(records) == 2
    assert count_studies([{"views": record["views"]} for record in records]) == 3
    assert count_studies(records[:1]) == 3


def test_what_has_no_studies_goes_to_every_part():
    batch = {"images": IMAGES, "text": "abcde", "scale": 2, "none": None, "step": torch.tensor(7), "empty": []}
    for part in split(batch, 2):
        assert all(part[key] is batch[key] for key in ("text", "scale", "none", "step", "empty"))
    assert len(batch["images"]) == B  # untouched


def test_fields_of_a_dataclass_that_its_constructor_does_not_take_are_kept():
    part = split(Frozen(IMAGES, name="other"), 2)[1]
    assert (part.name, part.made) == ("other", 3)


def test_a_callable_splits_otherwise():
    assert split({"rows": IMAGES}, lambda batch: (batch["rows"][:1], batch["rows"][1:]))[1].shape == (4, 3)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            {"images": IMAGES, "more": {"mask": TOKENS[:3]}},
            r"batch\['images'\] has 5 and batch\['more'\] has 3.*callable",
        ),
        (
            {"images": IMAGES, "more": {"a": TOKENS, "mask": TOKENS[:3]}},
            r"batch\['more'\]\['a'\] has 5 and .*'mask'\] has 3",
        ),
        ({"images": IMAGES, "classes": ["x", "y"]}, r"batch\['images'\] has 5 and batch\['classes'\] has 2"),
        ({"step": 3, "text": "abc"}, "an entry per study, but found none in a dict"),
    ],
)
def test_batches_without_one_number_of_studies_are_refused(batch, message):
    with pytest.raises(UserError, match=message):
        split(batch, 2)


@pytest.mark.parametrize("name", [name for name in BATCHES if name != "tensor"])
def test_parts_joined_are_the_batch(name):
    batch, _ = BATCHES[name]
    parts = split(batch, 2)
    again = join(parts, [3, 2], [3, 2])
    assert type(again) is type(batch)
    assert_same(again, batch)


def assert_same(one, other):
    if isinstance(one, torch.Tensor | np.ndarray):
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict | UserDict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, Frozen):
        assert_same(asdict(one), asdict(other))
    else:
        assert one == other


def test_outputs_of_parts():
    parts = [
        {
            "loss": torch.tensor(2.0),
            "states": torch.ones(3, 2, 4),
            "heads": torch.zeros(7, 1),
            "tokens": 5,
            "kind": "x",
        },
        {
            "loss": torch.tensor(4.0),
            "states": torch.ones(1, 5, 4),
            "heads": torch.zeros(7, 1),
            "tokens": 6,
            "kind": "x",
        },
    ]
    whole = join(parts, [3, 1], [3, 1])
    assert whole["loss"] == 2.5
    assert whole["states"].shape == (4, 5, 4)
    assert whole["states"][:3, 2:].eq(0).all()  # padded
    assert len(whole["heads"]) == 2  # not by study: both
    assert (whole["tokens"], whole["kind"]) == ([5, 6], "x")


@pytest.mark.parametrize("make", [torch.tensor, np.array])
def test_whole_numbers_without_dimensions_stay_where_all_parts_have_them(make):
    same = join([make(3), make(3)], [3, 1], [3, 1])
    assert same.ndim == 0
    assert (int(same), same.dtype) == (3, make(3).dtype)
    assert [int(value) for value in join([make(3), make(4)], [3, 1], [3, 1])] == [3, 4]


@pytest.mark.parametrize(
    "values",
    [
        [torch.zeros(3, 2), torch.zeros(2)],  # of other ranks
        [torch.zeros(3, 2), torch.zeros(3, 2)],  # not by study
        [np.zeros((3, 2)), np.zeros((1, 4))],  # arrays are not padded
        [[1, 2, 3], [4, 5]],  # the second has no entry per study
        [{"a": 1}, {"b": 1}],
        [1, 1.0],
    ],
)
def test_what_cannot_be_joined_becomes_a_list(values):
    joined = join(values, [3, 1], [3, 1])
    assert isinstance(joined, list)
    assert all(one is value for one, value in zip(joined, values, strict=True))


def test_outputs_of_transformers():
    parts = [CausalLMOutput(loss=torch.tensor(1.0), logits=torch.zeros(n, 2, 3)) for n in (3, 1)]
    whole = join(parts, [3, 1], [3, 1])
    assert type(whole) is CausalLMOutput
    assert whole.logits.shape == (4, 2, 3)
    assert whole.loss == 1
