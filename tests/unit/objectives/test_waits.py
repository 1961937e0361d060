"""The forward pass of an objective on a GPU never waits for the device: seen without one, by tensors without values."""

import traceback
from functools import partial
from unittest import mock

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.functional.likelihood import TokenLosses
from hardneg_plugin.knowledge import ChestXray
from hardneg_plugin.objectives import (
    ByImage,
    ByText,
    EditMargin,
    EmbeddedBatch,
    GroundedKnowledgeObjective,
    InBatch,
    LikelihoodMargin,
    Queue,
    RelationEnhancedObjective,
    Triplet,
)
from hardneg_plugin.objectives.schedule import TrainingProgress

SIZES = {"image_width": 6, "report_width": 6, "width": 8}
STUDIES, WORDS, PATCHES = 4, 5, 6
ROWS = {
    "in_batch": partial(HardNegativeObjective, negatives=InBatch(k=2), **SIZES),
    "queue": lambda: HardNegativeObjective(negatives=Queue(size=8), **SIZES),
    "triplet": partial(HardNegativeObjective, alignment=Triplet(), **SIZES),
    "by_image": partial(HardNegativeObjective, token_weights=ByImage(hardened=True), **SIZES),
    "by_text": partial(HardNegativeObjective, token_weights=ByText(), **SIZES),
    "margin": partial(HardNegativeObjective, likelihood_margin=LikelihoodMargin(side="both"), **SIZES),
    "edit_margin": partial(HardNegativeObjective, edit_margin=EditMargin(), **SIZES),
    "reclf": partial(RelationEnhancedObjective, word_region_width=4, **SIZES),
    "gk_mvlp": partial(GroundedKnowledgeObjective, knowledge=ChestXray(), entity_width=6, **SIZES),
    "gk_mvlp, triplet": partial(
        GroundedKnowledgeObjective, knowledge=ChestXray(), entity_width=6, alignment=Triplet(), **SIZES
    ),
}


class Waits(TorchDispatchMode):
    """Operations for which the host waits: a value of the device, or a copy to it that is not asynchronous."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket._qualified_op_name
        if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero"):
            self.found.append(_place(name))
        if name.startswith("aten::index_put") and args[0].device != args[2].device:  # x[index] = 0.0
            self.found.append(_place(name))
        copies = name == "aten::_to_copy" and torch.device(kwargs.get("device") or "cpu").type == "cuda"
        if copies and args[0].device.type == "cpu" and not kwargs.get("non_blocking"):
            self.found.append(_place(name))
        return func(*args, **kwargs)


def _place(name):
    """An operation, and the line of the project that calls it."""
    frames = [frame for frame in traceback.extract_stack() if "hardneg_plugin" in frame.filename]
    return (name, f"{frames[-1].filename}:{frames[-1].lineno}") if frames else (name, "")


def step(objective, number):
    prompts = len(getattr(objective, "prompts", ()))
    rows = partial(torch.rand, device="cuda", requires_grad=True)
    tokens = torch.ones(STUDIES, WORDS, dtype=torch.int64, device="cuda")
    read = TokenLosses(rows(STUDIES, WORDS), tokens.bool(), tokens)
    pairs = PairEmbeddings(
        images=rows(STUDIES, 6),
        reports=rows(STUDIES, 6),
        study_ids=[f"study {number * STUDIES + index}" for index in range(STUDIES)],
        texts=tokens,
        regions=rows(STUDIES, PATCHES, 6),
        words=rows(STUDIES, WORDS, 6),
        entities=rows(STUDIES, prompts, 6) if prompts else None,
        facts=torch.zeros(STUDIES, prompts, dtype=torch.int64, device="cuda") if prompts else None,
    )
    given = {"statements": rows(2, prompts, 6)} if prompts else {}
    terms = objective(pairs, TrainingProgress(step=number, fraction=0.5), read=lambda *_, **__: read, **given)
    return terms.logged(read.losses.mean())


@pytest.mark.parametrize("make", ROWS.values(), ids=ROWS)
def test_no_step_waits_for_the_device(make):
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        # generators have no fake ones
        mock.patch.object(EmbeddedBatch, "generator", return_value=None),
        mock.patch.object(torch.Tensor, "exponential_", lambda self, generator: self),
    ):
        with torch.device("cuda"):
            objective = make()
        for module in objective.modules():  # made of values of the CPU
            module._buffers.update({name: buffer.to("cuda") for name, buffer in module._buffers.items()})
        step(objective, 0)
        with Waits() as waits:
            logged = step(objective, 1)
    assert not waits.found
    assert {value.device.type for value in logged.values()} == {"cuda"}


def test_a_wait_would_be_seen():
    with FakeTensorMode(), Waits() as waits:
        torch.tensor(0.5, device="cuda")
        torch.rand(3).to("cuda", non_blocking=True)  # not this one
        torch.rand(3).to("cuda")
        torch.rand(3, device="cuda")[torch.arange(3, device="cuda")] = 0.0
        with pytest.raises(Exception, match="_local_scalar_dense"):
            torch.rand((), device="cuda").item()
    assert [name for name, _ in waits.found] == [
        *("aten::_to_copy", "aten::_to_copy", "aten::index_put_", "aten::_local_scalar_dense")
    ]
