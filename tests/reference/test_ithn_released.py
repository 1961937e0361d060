"""The released ITHN formulas, against recorded numbers of the released code (unit embeddings in, float32)."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.functional.hardening import Released, harden_released
from hardneg_plugin.functional.losses import absolute_separation, released_alignment
from hardneg_plugin.objectives import Absolute, Paired, ReleasedAlignment, Weights
from hardneg_plugin.objectives.schedule import Exponential, TrainingProgress

RECORDED = Path(__file__).parent / "ithn_released.safetensors"


@pytest.fixture(scope="module")
def recorded():
    with safe_open(RECORDED, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        numbers = {name: float(value) for name, value in file.metadata().items()}
    return tensors, numbers


def test_hardened_negatives(recorded):
    tensors, numbers = recorded
    hardened = harden_released(
        tensors["in/images"], tensors["in/reports"], tensors["in/negatives"], hardness=numbers["hardness"]
    )
    torch.testing.assert_close(hardened, tensors["out/hardened"], rtol=0, atol=1e-6)


def test_losses(recorded):
    tensors, numbers = recorded
    loss = released_alignment(
        tensors["in/images"],
        tensors["in/reports"],
        tensors["in/negative_images"],
        tensors["in/negatives"],
        tensors["out/hardened"],
        pair_scale=numbers["logit_scale_1"],
        hardened_scale=numbers["logit_scale_3"],
    ).mean()
    torch.testing.assert_close(loss, tensors["out/alignment_loss"][0], rtol=1e-6, atol=0)
    separation = absolute_separation(tensors["in/images"], tensors["in/negative_images"][:, None]).mean()
    torch.testing.assert_close(separation, tensors["out/separation_loss"][0], rtol=1e-6, atol=0)


def test_whole_objective(recorded):
    """hardening=released alignment=released separation=absolute schedule=exponential, in epoch 30 of the released recipe."""
    tensors, numbers = recorded

    objective = HardNegativeObjective(
        alignment=ReleasedAlignment(),
        hardening=Released(),
        negatives=Paired(),
        schedule=Exponential(rate=0.01, unit="epoch"),
        separation=Absolute(),
        weights=Weights(report=0.7, alignment=0.1, separation=0.2),
    )
    with torch.no_grad():
        objective.log_scales.copy_(torch.tensor([numbers["logit_scale_1"], numbers["logit_scale_3"]]).log())
    mined = PairEmbeddings(images=tensors["in/negative_images"], reports=tensors["in/negatives"])
    pairs = PairEmbeddings(
        images=tensors["in/images"], reports=tensors["in/reports"], study_ids=range(6), negatives=mined
    )
    terms = objective(pairs, TrainingProgress(epoch=29))
    assert terms.logs["hardness"].item() == pytest.approx(numbers["hardness"], rel=1e-6)
    torch.testing.assert_close(terms.alignment_loss, tensors["out/alignment_loss"][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(terms.separation_loss, tensors["out/separation_loss"][0], rtol=1e-5, atol=0)
