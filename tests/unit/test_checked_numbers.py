"""Every number that a constructor takes is checked where it is made: for its range, finite, no bool; one line that names it.

Classes are found by looking, so that a new one cannot be forgotten: it is checked, or stands in `UNCHECKED` with a reason.
"""

import importlib
import inspect
import math
import typing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import hardneg_plugin
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError, require_count, require_number
from hardneg_plugin.knowledge import ChestXray
from hardneg_plugin.models.optim import parameter_groups, warmup_cosine

WHERE = [
    "functional",
    "objectives",
    "neighbours",
    "grounding",
    "backbones/decoding.py",
    "backbones/search.py",
    "data/datamodule.py",
    "data/edited.py",
    "data/neighbour_batches.py",
    "data/paired.py",
    "data/token_emphasis.py",
    "training/diagnosis/callback.py",
]
BUILT_BY_AN_OBJECTIVE = "an objective makes it, of numbers that it has checked"
A_RESULT = "holds what was computed"
UNCHECKED = {
    "ProjectionHead": BUILT_BY_AN_OBJECTIVE,
    "PartHeads": BUILT_BY_AN_OBJECTIVE,
    "PairEncoder": BUILT_BY_AN_OBJECTIVE,
    "PairMatchingLoss": BUILT_BY_AN_OBJECTIVE,
    "Round": BUILT_BY_AN_OBJECTIVE,
    "SemanticRelations": BUILT_BY_AN_OBJECTIVE,
    "ImportanceRelations": BUILT_BY_AN_OBJECTIVE,
    "WordRegionScorer": BUILT_BY_AN_OBJECTIVE,
    "TrainingProgress": "the trainer's position",
    "Neighbours": A_RESULT,
    "ExcludedCounts": A_RESULT,
    "_Records": A_RESULT,
    "FaissSearch": "its chunk is that of ChunkedSearch; the package is optional",
    "ApproximateSearch": "the package is optional; tests/unit/neighbours/test_approximate.py",
    "_Lookup": "ApproximateSearch makes it",
    "PairedStudies": "PairedNegatives makes it, of numbers that it has checked",
}
SIZES = {"image_width": 4, "report_width": 4, "width": 4}
NEEDED = {
    "ReportQueue": {"size": 4},
    "HardNegativeObjective": SIZES,
    "RelationEnhancedObjective": {**SIZES, "word_region_width": 4},
    "GroundedKnowledgeObjective": {**SIZES, "knowledge": ChestXray(), "entity_width": 4},
    "SentenceTransformerEmbedder": {"name_or_path": "unused"},
    "NeighbourRule": {"groups": {}},
    "Grounding": {"patch_width": 4, "width": 8, "heads": 2, "knowledge": ChestXray()},
    "Boxes": {"count": 2},
    "Learned": {"width": 4},
    "SeededShuffle": {"size": 4},
    "StudyDataModule": {
        "source": PhantomStudies(train=4, val=2, test=2, size=32),
        "tokenizer": partial(WordTokenizer.from_reports, min_count=1),
        "batch_size": 2,
        "max_length": 8,
    },
    "ReportEdits": {"editor": None},
    "NeighbourShuffle": {"neighbours": [[1], [0]], "size": 2},
    "PairedNegatives": {"table": None, "pool": 3},
    "InBatch": {"pool": 3},
    "Queue": {"pool": 3},
    "Bank": {"pool": 3},
}
"""Arguments without a default, and others that show a check."""


def constructors():
    root = Path(hardneg_plugin.__file__).parent
    for place in WHERE:
        for file in sorted((root / place).rglob("*.py")) if (root / place).is_dir() else [root / place]:
            name = ".".join(file.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__")
            module = importlib.import_module(name)
            for one in vars(module).values():
                if inspect.isclass(one) and one.__module__ == name and not getattr(one, "_is_protocol", False):
                    yield one


def numbers_of(call):
    """The names of arguments that are numbers, and whether each is an integer; None is allowed where it is in the annotation."""
    try:
        parameters = inspect.signature(call, eval_str=True).parameters.values()
    except (TypeError, ValueError):
        return {}
    kinds = {p.name: [p.annotation, *typing.get_args(p.annotation)] for p in parameters}
    return {name: float not in of for name, of in kinds.items() if int in of or float in of}


FOUND = {one.__name__: one for one in constructors() if numbers_of(one)}
OPTIMISERS = {
    "warmup_cosine": (warmup_cosine, {"optimizer": torch.optim.SGD([torch.zeros(1)], lr=0.1), "total_steps": 9}),
    "parameter_groups": (parameter_groups, {"named_parameters": [], "visual_lr": 0.1, "decay_vectors": False}),
}
CALLS = {
    **{name: (one, NEEDED.get(name, {})) for name, one in FOUND.items() if name not in UNCHECKED},
    **OPTIMISERS,
}
ARGUMENTS = [
    (name, argument)
    for name, (call, _) in CALLS.items()
    for argument in numbers_of(call)
    if (name, argument) != ("warmup_cosine", "total_steps")  # the trainer counts them
]


def test_the_search_finds_what_it_should():
    assert {
        "InfoNCE",
        "InBatch",
        "Bank",
        "Alternating",
        "Weights",
        "ByImage",
        "NeighbourBatches",
        "Decoding",
    } <= FOUND.keys()
    assert UNCHECKED.keys() <= FOUND.keys()
    assert NEEDED.keys() <= CALLS.keys()
    assert len(ARGUMENTS) > 90


@pytest.mark.parametrize("name", CALLS)
def test_what_is_right_is_taken(name):
    call, needed = CALLS[name]
    call(**needed)


@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_every_number_is_checked(name, argument):
    call, needed = CALLS[name]
    least = [] if (name, argument) in UNBOUNDED else [-(10**9), -1e9]
    wrong = [math.nan, math.inf, -math.inf, np.float64("nan"), True, False, "1", [1], 1j, *least]
    if numbers_of(call)[argument]:
        wrong += [1.5, 2.0]
    for value in wrong:
        with pytest.raises(UserError, match=argument) as caught:
            call(**{**needed, argument: value})
        assert str(value) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


UNBOUNDED = {("Decoding", "length_penalty")}


def test_numbers_of_numpy_are_numbers():
    require_number(np.float32(0.5), "x", "a share", least=0, most=1)
    require_count(np.int64(3), "x")
    require_count(10**400, "x")
    with pytest.raises(UserError, match="x: expected a positive integer, but got True"):
        require_count(np.True_, "x")


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        ({"least": 0, "most": 1}, [0, 0.5, 1], [-0.01, 1.01]),
        ({"above": 0, "below": 1}, [0.01, 0.99], [0, 1]),
        ({}, [-1e300, 0, 1e300], [math.inf, math.nan]),
    ],
)
def test_ends_are_inside_or_outside(limits, inside, outside):
    for value in inside:
        require_number(value, "x", "y", **limits)
    for value in outside:
        with pytest.raises(UserError, match="x: expected y, but got"):
            require_number(value, "x", "y", **limits)
