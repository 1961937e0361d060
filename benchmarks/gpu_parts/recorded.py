"""The recorded numbers of the released R2Gen, R2GenCMN and ITHN, in float32 and in bf16."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from gpu_parts.card import bf16, exact
from gpu_parts.part import Row, Rows, Setting
from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.backbones.official import load_official
from hardneg_plugin.backbones.released_names import decoder_names
from hardneg_plugin.functional.hardening import Released
from hardneg_plugin.objectives import Absolute, Paired, ReleasedAlignment, Weights
from hardneg_plugin.objectives.schedule import Exponential, TrainingProgress

FLOAT32 = {"log_probs": 2e-5, "loss": 1e-5, "gradient": 1e-3, "tokens": 1.0}
"""Largest absolute difference of log-probabilities and of the loss, largest relative one of a gradient's norm; equal tokens."""
BF16 = {"log_probs": 0.5, "loss": 0.02, "gradient": 0.3, "tokens": 0.0}
ROUNDING = 1e-6
"""A key's bias shifts all scores alike: what its gradient has is rounding, in float32 below this."""


def run(setting: Setting, rows: Rows) -> None:
    """One row for each model and precision."""
    exact()
    for name in ("r2gen", "r2gencmn"):
        for precision, limits in (("float32", FLOAT32), ("bf16", BF16)):
            with rows.row(f"{name}, {precision}") as row:
                _decoder(name, precision, limits, setting, row)
    for precision in ("float32", "bf16"):
        with rows.row(f"ithn, {precision}") as row:
            _objective(precision, setting, row)


def _read(name: str, setting: Setting) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open  # where it is missing, this part is skipped and no other

    with safe_open(setting.recorded / f"{name}.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _decoder(name: str, precision: str, limits: dict[str, float], setting: Setting, row: Row) -> None:
    tensors, numbers = _read(name, setting)
    options: dict[str, Any] = json.loads(numbers["config"])
    inputs = {key: value.to(setting.device) for key, value in _below(tensors, "in/").items()}
    outputs = {key: value.to(setting.device) for key, value in _below(tensors, "out/").items()}
    decoder: Any = load_official(name, _below(tensors, "state/"), options).to(setting.device)
    tokens, mask, patches = inputs["seq"], inputs["mask"][:, 1:], inputs["att_feats"]

    def computed() -> Tensor:
        if precision == "bf16":
            with bf16(setting):
                return decoder.log_probs(patches, tokens)
        return decoder.log_probs(patches, tokens)

    log_probs = computed()
    loss = -(log_probs.gather(2, tokens[:, 1:, None])[..., 0] * mask).sum() / mask.sum()
    loss.backward()
    row["log_probs"] = (log_probs - outputs["logprobs"]).abs().max().item()
    row["loss"] = abs(loss.item() - float(numbers["loss"]))
    norms = _gradient_norms(decoder)
    expected: dict[str, float] = json.loads(numbers["grad_norms"])
    shared = [key for key in expected if not key.endswith("linears.1.bias")]
    row["gradient"] = max(abs(norms[key] - expected[key]) / max(expected[key], ROUNDING) for key in shared)

    def same(kind: str, beam_size: int) -> float:
        max_length = outputs[kind].shape[1]
        if precision == "bf16":
            with bf16(setting):
                got = decoder.generate(patches, beam_size=beam_size, max_length=max_length)
        else:
            got = decoder.generate(patches, beam_size=beam_size, max_length=max_length)
        return (got == outputs[kind]).float().mean().item()

    row["tokens_beam"], row["tokens_greedy"] = same("beam", options["beam_size"]), same("greedy", 1)
    row["limits"] = limits
    row["ok"] = (
        all(row[key] <= limits[key] for key in ("log_probs", "loss", "gradient"))
        and min(row["tokens_beam"], row["tokens_greedy"]) >= limits["tokens"]
    )


def _gradient_norms(decoder: nn.Module) -> dict[str, float]:
    gradients = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    named: Any = decoder_names(decoder)  # type: ignore[arg-type]
    return {name.released: gradients[name.ours][name.part].norm().item() for name in named}  # type: ignore[index]


def _objective(precision: str, setting: Setting, row: Row) -> None:
    """hardening=released alignment=released separation=absolute schedule=exponential, in epoch 30 of the released recipe."""
    cpu, metadata = _read("ithn_released", setting)
    tensors = {name: tensor.to(setting.device) for name, tensor in cpu.items()}
    numbers = {name: float(value) for name, value in metadata.items()}
    objective = HardNegativeObjective(
        alignment=ReleasedAlignment(),
        hardening=Released(),
        negatives=Paired(),
        schedule=Exponential(rate=0.01, unit="epoch"),
        separation=Absolute(),
        weights=Weights(report=0.7, alignment=0.1, separation=0.2),
    ).to(setting.device)
    assert objective.log_scales is not None
    with torch.no_grad():
        objective.log_scales.copy_(torch.tensor([numbers["logit_scale_1"], numbers["logit_scale_3"]]).log())
    mined = PairEmbeddings(images=tensors["in/negative_images"], reports=tensors["in/negatives"])
    pairs = PairEmbeddings(
        images=tensors["in/images"], reports=tensors["in/reports"], study_ids=range(6), negatives=mined
    )
    # the objective works in float32 whatever the precision around it
    with torch.autocast(setting.device, dtype=torch.bfloat16, enabled=precision == "bf16"):
        terms = objective(pairs, TrainingProgress(epoch=29))
    for name, loss in (("alignment", terms.alignment_loss), ("separation", terms.separation_loss)):
        expected = tensors[f"out/{name}_loss"][0].item()
        row[f"{name}_relative"] = abs(loss.item() - expected) / abs(expected)
    row["limit"] = 2e-5
    row["ok"] = max(row["alignment_relative"], row["separation_relative"]) <= row["limit"]
