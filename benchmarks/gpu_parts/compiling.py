"""torch.compile of the model and of the objective, against the same without; and graph breaks, on any device."""

import statistics
from typing import Any

import torch

from gpu_parts.card import exact, in_turns
from gpu_parts.part import Row, Rows, Setting, short
from gpu_parts.steps import Step

LIMITS = {"loss": 1e-5, "gradient": 2e-3}


def run(setting: Setting, rows: Rows) -> None:
    """Equal loss and gradient, then the time of a step in bf16, compiled over not compiled."""
    exact()
    cases = [("objective", "transformer_small", "in_batch"), ("decoder", "transformer_small", "in_batch")]
    if not setting.tiny:
        cases += [("decoder", "r2gen", "in_batch"), ("decoder", "r2gencmn", "in_batch")]
        cases += [("objective", "transformer_small", "reclf"), ("objective", "transformer_small", "by_text")]
    for what, backbone, variant in cases:
        if setting.left() < 0:
            return
        with rows.row(f"{what}, {variant if what == 'objective' else backbone}") as row:
            _compare(variant, (f"backbone={backbone}",), what, setting, row)


def run_extractor(setting: Setting, rows: Rows) -> None:
    """The same of the visual extractor, which takes longest to compile."""
    exact()
    with rows.row("extractor") as row:
        _compare("in_batch", (), "extractor", setting, row)


def _compare(variant: str, overrides: tuple[str, ...], what: str, setting: Setting, row: Row) -> None:
    values: dict[str, Any] = {}
    steps: dict[str, Step] = {}
    still = ("backbone.dropout=0", "backbone.patch_dropout=0")
    for name in ("eager", "compiled"):
        step = Step(variant, "phantom", 8, setting, precision="float32", overrides=(*overrides, *still))
        if name == "compiled":
            _compile(step.model, what, "eager" if setting.tiny else "inductor")
        loss = step.loss()
        loss.backward()
        norms = {key: p.grad.norm().item() for key, p in step.model.named_parameters() if p.grad is not None}
        values[name] = loss.item(), norms
        step.precision, steps[name] = "bf16", step
    (loss_value, norms), (other, others) = values["eager"], values["compiled"]
    largest = max(norms.values())
    row["loss"] = abs(loss_value - other) / abs(loss_value)
    row["gradient"] = max(abs(norm - others[_same(key, others)]) / largest for key, norm in norms.items())
    row["ok"] = all(row[key] <= limit for key, limit in LIMITS.items())
    if setting.tiny:
        return
    seconds = in_turns(steps, setting, turns=12, uncounted=4)
    row["compiled_over_eager"] = statistics.median(
        a / b for a, b in zip(seconds["compiled"], seconds["eager"], strict=True)
    )
    row["ms_eager"] = 1000 * statistics.median(seconds["eager"])


def _compile(model: Any, what: str, backend: str) -> None:
    """A part of the model; model.compile=true compiles decoder and extractor."""
    if what == "objective":
        model.hard_negatives.compile(backend=backend)
    elif what == "decoder":
        model.decoder.states = torch.compile(model.decoder.states, backend=backend)
    else:
        model.visual.network.compile(backend=backend)


def _same(name: str, names: dict[str, float]) -> str:
    return next(other for other in names if other.replace("_orig_mod.", "") == name)


def run_breaks(setting: Setting, rows: Rows) -> None:
    """Graph breaks of the visual extractor, the decoder and the objective of each variant."""
    from torch._dynamo import explain, reset

    variants = (
        "host",
        "in_batch",
        "queue 16k",
        "bank 16k",
        "by_image",
        "by_text",
        "likelihood margin",
        "reclf",
        "gk_mvlp",
    )
    for variant in variants[:2] if setting.tiny else variants:
        with rows.row(variant) as row:
            step = Step(variant, "phantom", 8, setting, precision="float32")
            step()
            step()
            reset()
            images = step.batch["images"][:, 0].float()
            patches = step.model.encode_images(step.batch).patches.detach()
            if variant == "host":
                calls: dict[str, Any] = {
                    "extractor": (step.model.visual.network, (images,)),
                    "decoder": (step.model.decoder.states, (patches, step.batch["tokens"])),
                }
                if setting.tiny:
                    del calls["extractor"]
            else:
                calls = {"objective": (step.model.hard_negatives, step.given_to_objective())}
            for part, (call, arguments) in calls.items():
                try:
                    positional, named = arguments if part == "objective" else (arguments, {})
                    found = explain(call)(*positional, **named)
                    row |= {f"{part}_breaks": found.graph_break_count, f"{part}_graphs": found.graph_count}
                    row[f"{part}_reasons"] = list(dict.fromkeys(map(_reason, found.break_reasons)))
                except Exception as error:
                    row[f"{part}_reasons"] = [short(error)]


def _reason(found: Any) -> str:
    text = str(found.reason).splitlines()[0][:100]
    if not found.user_stack:
        return text
    frame = found.user_stack[-1]
    return f"{text} ({frame.filename.rpartition('hardneg_plugin/')[2].rpartition('/lib/')[2]}:{frame.lineno})"
