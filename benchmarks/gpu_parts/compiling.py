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
    for name, variant, overrides in (
        ("host", "host", ("model.compile=true",)),
        ("in_batch", "in_batch", ("model.compile=true",)),
        ("in_batch, r2gen", "in_batch", ("backbone=r2gen", "model.compile=true")),
        ("in_batch, r2gencmn", "in_batch", ("backbone=r2gencmn", "model.compile=true")),
    ):
        if setting.tiny and "r2gen" in name:
            continue
        with rows.row(f"model, {name}") as row:
            _compare(variant, overrides, setting, row)
    for variant in ("in_batch",) if setting.tiny else ("in_batch", "reclf", "by_text"):
        with rows.row(f"objective, {variant}") as row:
            _compare(variant, (), setting, row, objective=True)


def _compare(
    variant: str, overrides: tuple[str, ...], setting: Setting, row: Row, *, objective: bool = False
) -> None:
    values: dict[str, Any] = {}
    steps: dict[str, Step] = {}
    still = ("backbone.dropout=0", "backbone.patch_dropout=0")
    plain = tuple(one for one in overrides if not one.startswith("model.compile"))
    for name, chosen in (("eager", plain), ("compiled", overrides)):
        step = Step(variant, "phantom", 8, setting, precision="float32", overrides=(*chosen, *still))
        if objective and name == "compiled":
            step.model.hard_negatives.compile()
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
    seconds = in_turns(steps, setting, turns=1 if setting.tiny else 12, uncounted=1 if setting.tiny else 4)
    row["compiled_over_eager"] = statistics.median(
        a / b for a, b in zip(seconds["compiled"], seconds["eager"], strict=True)
    )
    row["ms_eager"] = 1000 * statistics.median(seconds["eager"])


def _same(name: str, names: dict[str, float]) -> str:
    return next(other for other in names if other.replace("_orig_mod.", "") == name)


def run_breaks(setting: Setting, rows: Rows) -> None:
    """Graph breaks of the visual extractor, the decoder and the objective of each variant."""
    from torch._dynamo import explain, reset

    for variant in ("host", "in_batch", "queue 16k", "bank 16k", "by_image", "by_text", "likelihood margin", "reclf", "gk_mvlp"):
        with rows.row(variant) as row:
            step = Step(variant, "phantom", 8, setting, precision="float32")
            step()
            step()
            reset()
            if variant == "host":
                batch = step.batch
                calls: dict[str, Any] = {
                    "extractor": (step.model.visual.network, (torch.rand_like(_pixels(step)),)),
                    "decoder": (
                        step.model.decoder.states,
                        (step.model.encode_images(batch).patches.detach(), batch["tokens"]),
                    ),
                }
            else:
                calls = {"objective": (step.loss, ())}
            for part, (call, arguments) in calls.items():
                try:
                    found = explain(call)(*arguments)
                    row |= {f"{part}_breaks": found.graph_break_count, f"{part}_graphs": found.graph_count}
                    reasons = [str(one.reason).splitlines()[0][:100] for one in found.break_reasons]
                    places = [one.user_stack[-1] for one in found.break_reasons if one.user_stack]
                    row[f"{part}_reasons"] = [
                        f"{reason} ({frame.filename.rpartition('hardneg_plugin/')[2].rpartition('site-packages/')[2]}:{frame.lineno})"
                        for reason, frame in zip(reasons, places, strict=False)
                    ][:8]
                except Exception as error:
                    row[f"{part}_reasons"] = [short(error)]


def _pixels(step: Step) -> Any:
    images = step.batch["images"][:, 0].float()
    return images
