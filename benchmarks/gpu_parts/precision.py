"""fp16 with an overflow on purpose, channels last, and the objective under autocast."""

import copy
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from gpu_parts.card import exact, in_turns
from gpu_parts.part import Rows, Setting
from gpu_parts.steps import Step


def run(setting: Setting, rows: Rows) -> None:
    """fp16 and its scaler, and the two memory formats."""
    exact()
    with rows.row("fp16 with GradScaler") as row:
        step = Step("in_batch", "phantom", 8, setting, precision="fp16")
        scaler = GradScaler(setting.device, init_scale=2.0**10, growth_interval=1000)
        losses = [_scaled(step, scaler) for _ in range(3)]
        row |= {"losses": [round(loss, 4) for loss in losses], "scale": scaler.get_scale()}
        row["ok"] = all(map(_is_finite, losses)) and losses[-1] < losses[0] * 1.5
    with rows.row("an overflow on purpose") as row:
        step = Step("in_batch", "phantom", 8, setting, precision="fp16")
        scaler = GradScaler(setting.device, init_scale=2.0**10, growth_interval=1000)
        _scaled(step, scaler)
        before = copy.deepcopy(step.model.state_dict())
        parameters = {name for name, _ in step.model.named_parameters()}
        scale = scaler.get_scale()
        loss = _scaled(step, scaler, factor=float("inf"))
        after = step.model.state_dict()
        same = all(torch.equal(before[name], after[name]) for name in parameters)
        row |= {"loss": loss, "scale": scale, "scale_after": scaler.get_scale(), "weights_unchanged": same}
        row["loss_after"] = _scaled(step, scaler)
        moved = any(not torch.equal(before[name], step.model.state_dict()[name]) for name in parameters)
        row["ok"] = same and moved and scaler.get_scale() < scale and _is_finite(row["loss_after"])
    with rows.row("channels last") as row:
        _channels_last(setting, row)


def _scaled(step: Step, scaler: Any, factor: float = 1.0) -> float:
    loss = step.loss()
    step.optimizer.zero_grad()
    scaler.scale(loss * factor).backward()
    scaler.step(step.optimizer)
    scaler.update()
    return loss.item()


def _is_finite(value: float) -> bool:
    return abs(value) < float("inf")


def _channels_last(setting: Setting, row: dict[str, Any]) -> None:
    """The same loss and gradient in both formats, and the time of the one over that of the other in bf16."""
    values = {}
    for name in ("contiguous", "channels_last"):
        step = Step("in_batch", "phantom", 8, setting, precision="float32", channels_last=name == "channels_last")
        loss = step.loss()
        loss.backward()
        gradient = next(p.grad for p in step.model.visual.parameters() if p.grad is not None and p.dim() == 4)
        values[name] = loss.item(), gradient.norm().item()
    (loss, norm), (other_loss, other_norm) = values.values()
    row |= {"loss_relative": abs(loss - other_loss) / abs(loss), "gradient_relative": abs(norm - other_norm) / norm}
    row["ok"] = row["loss_relative"] < 1e-5 and row["gradient_relative"] < 1e-3
    image = torch.rand(4 if setting.tiny else 128, 3, 64 if setting.tiny else 224, 64 if setting.tiny else 224)
    calls = {}
    for name in values:
        network = _network(setting)
        layout = torch.channels_last if name == "channels_last" else torch.contiguous_format
        network, images = network.to(memory_format=layout), image.to(setting.device, memory_format=layout)  # type: ignore[call-overload]
        calls[name] = lambda network=network, images=images: _backward(network, images, setting)
    seconds = in_turns(calls, setting, turns=1 if setting.tiny else 8, uncounted=1 if setting.tiny else 3)
    medians = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    row["channels_last_over_contiguous"] = medians["channels_last"] / medians["contiguous"]


def _network(setting: Setting) -> nn.Module:
    import timm

    network: nn.Module = timm.create_model("resnet10t" if setting.tiny else "resnet101", num_classes=0)
    return network.to(setting.device).train()


def _backward(network: nn.Module, images: torch.Tensor, setting: Setting) -> None:
    with torch.autocast(setting.device, dtype=torch.bfloat16):
        loss = network(images).float().square().mean()
    loss.backward()
