"""A bank with auxiliary negatives over two ranks with uneven batches: the objective, and the same in plain loops."""

import math
from typing import Any

import torch
from torch import Tensor

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.distributed import mean_over_ranks
from hardneg_plugin.objectives import Alternating, Bank, Hinge, InfoNCE
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress

SIZES = [(1, 1), (5, 3), (4, 4), (2, 6), (1, 5), (3, 3), (6, 2), (4, 1), (3, 5), (5, 4)]
"""Studies of each rank, step by step; two steps are an epoch."""
BAD = {(3, 1, 2), (5, 0, 0), (8, 1, 4)}
"""Step, rank and row of the studies with a feature that is not finite."""
STUDIES, WIDTH, K = 14, 6, 2
HARDNESS, STEP_SIZE, GUARD, SEPARATION, SCALE = 0.6, 0.15, 0.05, -0.3, 1 / 0.2


def numbers(step: int, rank: int) -> list[int]:
    """The studies of a rank; one may come twice in a step."""
    random = torch.Generator().manual_seed(100 * step + rank)
    return torch.randint(STUDIES, (SIZES[step][rank],), generator=random).tolist()


def features(step: int, rank: int) -> tuple[Tensor, Tensor]:
    """Images and reports of the studies; a study's two visits differ a little."""
    fixed, drift = torch.Generator().manual_seed(0), torch.Generator().manual_seed(9000 + 10 * step + rank)
    of_studies = torch.randn(2, STUDIES, WIDTH, generator=fixed)
    of_studies[0] += of_studies[1]
    rows = of_studies[:, numbers(step, rank)]
    rows = rows + 0.3 * torch.randn(rows.shape, generator=drift)
    return rows[0], rows[1]


def progress(step: int) -> TrainingProgress:
    return TrainingProgress(step=step, epoch=step // 2)


def of_rank(rank: int, *, sharded: bool) -> list[dict[str, Any]]:
    """Of each step the loss of all ranks and the gradients of this rank's features, by the objective."""
    objective = HardNegativeObjective(
        negatives=Bank(k=K, sharded=sharded),
        hardening=Alternating(step_size=STEP_SIZE, margin=GUARD),
        alignment=InfoNCE(temperature=1 / SCALE, negative_weight=0.7, hardened_weight=1.3),
        separation=Hinge(margin=SEPARATION),
        schedule=Constant(hardness=HARDNESS),
    )
    seen = []
    for step in range(len(SIZES)):
        images, reports = (rows.requires_grad_() for rows in features(step, rank))
        with torch.no_grad():
            for row in range(len(images)):
                if (step, rank, row) in BAD:
                    images[row, 1] = torch.nan
        own = numbers(step, rank)
        pairs = PairEmbeddings(images, reports, study_ids=own, patient_ids=[n % 9 for n in own])
        terms = objective(pairs, progress(step))
        loss = terms.alignment_loss + 0.3 * terms.separation_loss
        loss.backward()
        assert images.grad is not None
        assert reports.grad is not None
        # of the mean over ranks, as DDP takes it
        seen.append({"loss": mean_over_ranks(loss), "images": images.grad / 2, "reports": reports.grad / 2})
    return seen


def in_loops() -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The same in float64 and plain loops: losses, gradients by rank, and how often each case came up."""
    slots: dict[int, tuple[Tensor, Tensor]] = {}
    owned: dict[int, list[Tensor]] = {}
    neighbours: dict[int, list[int]] = {}
    seen, came = [], dict.fromkeys(("of bank", "of batch", "owned", "turned back", "missing"), 0)
    for step in range(len(SIZES)):
        if step % 2 == 0 and step:
            neighbours = {
                n: sorted(
                    (m for m in slots if not is_match(n, m)), key=lambda m, n=n: -cosine(slots[n][1], slots[m][1])
                )[:K]
                for n in slots
            }
        leaves = [[rows.double().requires_grad_() for rows in features(step, rank)] for rank in (0, 1)]
        rows = [
            (n, leaves[rank][0][i] / leaves[rank][0][i].norm(), leaves[rank][1][i] / leaves[rank][1][i].norm())
            for rank in (0, 1)
            for i, n in enumerate(numbers(step, rank))
            if (step, rank, i) not in BAD
        ]
        losses, kept = [], []
        for i, (n, z, u) in enumerate(rows):
            others = [j for j, (m, _, _) in enumerate(rows) if j != i and not is_match(n, m)]
            in_batch = sorted(others, key=lambda j, u=u: -cosine(u, rows[j][2]))[:K]
            known = [slots[m] for m in neighbours.get(n, [])]
            negatives: list[tuple[Tensor, Tensor] | None] = []
            for place in range(K):
                if place < len(known):
                    negatives.append(known[place])
                elif place < len(in_batch):
                    negatives.append(rows[in_batch[place]][1:])
                else:
                    negatives.append(None)
            came["of bank"] += sum(place < len(known) for place in range(K))
            came["of batch"] += sum(len(known) <= place < len(in_batch) for place in range(K))
            came["missing"] += sum(one is None for one in negatives)
            guard = cosine(z, u) - GUARD
            if n in owned:
                hardened = [turned_back(z.detach(), x, guard) for x in owned[n]]
                came["owned"] += 1
                came["turned back"] += sum(cosine(z, x) > guard for x in owned[n])
            else:
                hardened = [torch.zeros(WIDTH).double() if one is None else one[1].detach() for one in negatives]
            is_new = all(one is not None and cosine(z, one[1]) <= guard for one in negatives)
            if n in owned or is_new:
                kept.append((n, [ascended(z.detach(), u.detach(), x, guard) for x in hardened]))
            losses.append(loss_of(z, u, [rows[j] for j in others], negatives, hardened))
        loss = torch.stack(losses).mean()
        loss.backward()
        seen.append({"loss": loss.detach(), **{rank: [leaf.grad for leaf in leaves[rank]] for rank in (0, 1)}})
        # of two rows of one study the first counts
        for n, moved in reversed(kept):
            owned[n] = moved
        for n, z, u in reversed(rows):
            slots[n] = z.detach(), u.detach()
    return seen, came


def cosine(x: Tensor, y: Tensor) -> float:
    return float((x @ y).detach())


def is_match(n: int, m: int) -> bool:
    return n == m or n % 9 == m % 9


def loss_of(z: Tensor, u: Tensor, others: list[Any], negatives: list[Any], hardened: list[Tensor]) -> Tensor:
    """InfoNCE both ways and the separation of one study."""
    to_report, to_image = [(SCALE * z @ u).exp()], [(SCALE * u @ z).exp()]
    for _, image, report in others:
        to_report.append((SCALE * z @ report).exp())
        to_image.append((SCALE * u @ image).exp())
    apart = []
    for negative, hard in zip(negatives, hardened, strict=True):
        if negative is not None:
            image, report = negative
            to_report += [0.7 * (SCALE * z @ report).exp(), 1.3 * (SCALE * z @ hard).exp()]
            to_image.append(0.7 * (SCALE * u @ image).exp())
            apart.append((z @ image - SEPARATION).clamp_min(0))
    alignment = (sum(to_report).log() + sum(to_image).log()) / 2 - SCALE * z @ u  # type: ignore[union-attr]
    return alignment + 0.3 * (torch.stack(apart).mean() if apart else 0)


def angle(x: Tensor, y: Tensor) -> float:
    return math.acos(max(-1.0, min(1.0, cosine(x, y))))


def along(x: Tensor, y: Tensor, way: float) -> Tensor:
    """The point at an angle from x on the great circle through y."""
    whole = angle(x, y)
    return (math.sin(whole - way) * x + math.sin(way) * y) / math.sin(whole) if whole > 1e-9 else x


def turned_back(z: Tensor, x: Tensor, guard: float) -> Tensor:
    return along(z, x, math.acos(guard)) if cosine(z, x) > guard else x


def ascended(z: Tensor, u: Tensor, n: Tensor, guard: float) -> Tensor:
    """One step of the ascent from n: towards the image, to the guard at most, and to the rim of the cap around n."""
    if cosine(z, n) > guard:
        return n
    way = min(STEP_SIZE, max(0.0, angle(z, n) - math.acos(guard)), HARDNESS * angle(u, n))
    return along(n, z, way)
