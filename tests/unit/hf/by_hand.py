"""The training of the tiny generator as a loop by hand: what a Trainer is compared with."""

import sys
from pathlib import Path

import torch
from torch import nn

from hardneg_plugin import PairEmbeddings
from hardneg_plugin.objectives.schedule import TrainingProgress

sys.path.append(str(Path(__file__).parent))
from tiny_generator import Generator, generator, objective, studies


def summed(logits, labels):
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


def by_hand(kind=Generator, accumulated=1, clip=0.0, steps=4, batch=4, losses=summed, bf16=False):
    """Updates without a trainer: weights, and the terms of each update.

    `losses` gives the sum over words from `(N, K)` logits and `(N,)` labels.
    """
    model, added = generator(kind), objective()
    weights = added.weights
    decayed = [p for name, p in model.named_parameters() if "bias" not in name]
    groups = [
        {"params": decayed, "weight_decay": 0.1},
        {"params": [p for name, p in model.named_parameters() if "bias" in name]},
        {"params": list(added.parameters())},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    all_studies, logs = studies(), []
    per_epoch = 16 // (batch * accumulated)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / steps)
        begin = step % per_epoch * batch * accumulated
        parts = [all_studies[begin + i * batch : begin + (i + 1) * batch] for i in range(accumulated)]
        # as the Trainer counts for a model of no known kind: all labels
        words = sum(int((study["labels"] != -100).sum()) for part in parts for study in part)
        update = []
        for part in parts:
            pixels, ids, mask, labels = (
                torch.stack([s[key] for s in part]) for key in ("pixels", "input_ids", "mask", "labels")
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                images, embedded = model.image(pixels), model.words(ids)
                logits = model.head(images[:, None] + embedded)
                total = losses(logits[labels != -100], labels[labels != -100])
            # the mean over words of all parts, or the mean over parts of their means
            loss = total / words if kind is Generator else total / (labels != -100).sum() / accumulated
            reports = (embedded * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            pairs = PairEmbeddings(
                images=images,
                reports=reports,
                study_ids=[s["study"] for s in part],
                texts=[s["report"] for s in part],
            )
            terms = added(pairs, TrainingProgress(step, step // per_epoch, step / steps))
            (weights.report * loss + weights.alignment * terms.alignment_loss / accumulated).backward()
            update.append((loss.item() * accumulated, terms.alignment_loss.item(), terms.logs["hardness"].item()))
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            nn.utils.clip_grad_norm_(added.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        logs.append(torch.tensor(update).mean(0).tolist())
    model = {f"model.{name}": value for name, value in model.state_dict().items()}
    return model | added.state_dict(), logs


def assert_same(found, expected, atol=1e-6):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=atol, rtol=atol, msg=lambda m, n=name: f"{n}: {m}")


def logged(history):
    names = ("report_loss", "alignment_loss", "hardness")
    return [[one[name] for name in names] for one in history if "loss" in one]
