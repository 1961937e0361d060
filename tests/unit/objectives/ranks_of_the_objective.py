"""The objective under DDP in two processes; a module of its own, for started processes to import."""

import itertools
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pad_sequence

from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.data.phantom import PhantomKnowledge
from hardneg_plugin.distributed import Shards, from_first_rank, mean_over_ranks
from hardneg_plugin.functional.hardening import Arc, Ascent, Projection, Segment
from hardneg_plugin.grounding import Grounding, Learned
from hardneg_plugin.objectives import (
    Alternating,
    Bank,
    GroundedKnowledgeObjective,
    Hinge,
    InBatch,
    InfoNCE,
    Paired,
    Queue,
    RelationEnhancedObjective,
    Triplet,
)
from hardneg_plugin.objectives.schedule import Constant, TrainingProgress

sys.path.append(str(Path(__file__).parent))  # where spawned processes look, too
import bank_in_loops

KNOWLEDGE = PhantomKnowledge()
PROMPTS = len(KNOWLEDGE.prompts)
NEIGHBOURS = {f"study {i}": [f"study {(i + j) % 30}" for j in (1, 5, 7)] for i in range(30)}
SOURCES = {
    "in_batch": lambda: InBatch(k=2),
    "queue": lambda: Queue(size=20, k=2),
    "bank": lambda: Bank(k=2),
    "table": lambda: Bank(k=2, table=NEIGHBOURS),
    "paired": lambda: Paired(k=2),
}
ALIGNMENTS = {"info_nce": InfoNCE, "triplet": Triplet, "reclf": InfoNCE, "gk_mvlp": InfoNCE}
HARDENINGS = {
    "arc": Arc,
    "segment": Segment,
    "projection": Projection,
    "ascent": Ascent,
    "alternating": Alternating,
    "none": lambda: None,
}
CASES = [
    *itertools.product(SOURCES, ["info_nce"], ["arc", "alternating"]),
    *itertools.product(["in_batch"], ["info_nce"], ["segment", "projection", "ascent", "none"]),
    *itertools.product(["in_batch", "bank"], ["triplet"], ["arc"]),
    *itertools.product(["in_batch", "queue"], ["reclf", "gk_mvlp"], ["arc"]),
]
SIZES = [(5, 3), (4, 4), (2, 6), (5, 3), (1, 4), (3, 3)]
"""Studies of each rank, step by step."""


class Model(nn.Module):
    """A linear encoder on either side and the objective: what DDP would wrap."""

    def __init__(self, source: str, alignment: str, hardening: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image, self.report = nn.Linear(6, 7), nn.Linear(5, 4)
        kind: Any = HardNegativeObjective
        if alignment == "reclf":
            kind = partial(RelationEnhancedObjective, word_region_width=4, chunk=2)
        if alignment == "gk_mvlp":
            regions = partial(Learned, count=2)
            grounding = partial(Grounding, width=4, heads=2, regions=regions)
            kind = partial(GroundedKnowledgeObjective, heads=1, knowledge=KNOWLEDGE, grounding=grounding)
        self.objective = kind(
            separation=Hinge(margin=0.0),
            negatives=SOURCES[source](),
            alignment=ALIGNMENTS[alignment](),
            hardening=HARDENINGS[hardening](),
            schedule=Constant(unit="step", hardness=0.5, warmup=1),
            image_width=7,
            report_width=4,
            width=3,
        )

    def forward(self, batch: dict[str, Any], progress: TrainingProgress) -> Tensor:
        given = {"statements": self.statements()} if self.objective.statement_texts else {}
        terms = self.objective(self.pairs(batch), progress, **given)
        return terms.alignment_loss + 0.3 * terms.separation_loss

    def statements(self) -> Tensor:
        features: Tensor = self.report(torch.linspace(-1, 1, 2 * PROMPTS * 5).sin().view(2, PROMPTS, 5))
        return features

    def pairs(self, batch: dict[str, Any]) -> PairEmbeddings:
        return PairEmbeddings(
            images=self.image(batch["images"]),
            reports=self.report(batch["reports"]),
            study_ids=batch["ids"],
            texts=batch["texts"],
            patient_ids=batch["patients"],
            regions=self.image(batch["regions"]),
            region_mask=batch["region_mask"],
            words=self.report(batch["words"]),
            word_mask=batch["word_mask"],
            facts=batch["facts"],
            negatives=self.pairs(batch["negatives"]) if "negatives" in batch else None,
        )


def studies(numbers: list[int], seed: int, negatives: int = 0) -> dict[str, Any]:
    """Studies by number: every seventh has one text, numbers that differ by 15 one patient."""
    random = [torch.Generator().manual_seed(1000 * seed + number) for number in numbers]
    batch = {
        "images": torch.stack([torch.randn(6, generator=r) for r in random]),
        "reports": torch.stack([torch.randn(5, generator=r) for r in random]),
        "ids": [f"study {number}" for number in numbers],
        "texts": ["normal" if number % 7 == 0 else f"text {number}" for number in numbers],
        "patients": [number % 15 for number in numbers],
        "facts": torch.stack([torch.randint(-1, 2, (PROMPTS,), generator=r) for r in random]),
    }
    # as many as the number has it, so that ranks have different longest ones
    for name, width, most in (("region", 6, 3), ("word", 5, 4)):
        parts = [torch.randn(1 + n % most, width, generator=r) for n, r in zip(numbers, random, strict=True)]
        batch[f"{name}s"] = pad_sequence(parts, batch_first=True)
        batch[f"{name}_mask"] = pad_sequence([torch.ones(len(p), dtype=torch.bool) for p in parts], batch_first=True)
    if negatives:
        batch["negatives"] = studies([(n + j + 1) % 30 for n in numbers for j in range(negatives)], seed)
    return batch


def steps() -> list[tuple[list[list[int]], TrainingProgress]]:
    """The study numbers of each rank and the position, for each step; a study may come twice in one."""
    random = torch.Generator().manual_seed(0)
    return [
        (
            [torch.randint(30, (size,), generator=random).tolist() for size in sizes],
            TrainingProgress(step=step, epoch=step // 2),
        )
        for step, sizes in enumerate(SIZES)
    ]


def run(model: nn.Module, objective: HardNegativeObjective, ranks: list[int]) -> list[dict[str, Any]]:
    """Each step's gradients, losses and the checkpoint of the objective's sources, for the studies of some ranks.

    Weights are drawn anew for each step, alike everywhere: rounding must not add up over steps.
    """
    seen = []
    for step, (numbers, progress) in enumerate(steps()):
        random = torch.Generator().manual_seed(step)
        for name, parameter in model.named_parameters():
            parameter.grad = None
            if "log_scales" not in name:
                parameter.data.normal_(generator=random)
        own = [number for rank in ranks for number in numbers[rank]]
        loss = model(studies(own, seed=step, negatives=2), progress)
        loss.backward()
        gradients = {
            name.removeprefix("module."): parameter.grad.clone() for name, parameter in model.named_parameters()
        }
        kept = {name: value for name, value in objective.state_dict().items() if name.endswith("_extra_state")}
        seen.append({"gradients": gradients, "loss": mean_over_ranks(loss), "kept": kept})
    return seen


def in_two_ranks(folder: Path) -> list[dict[str, Any]]:
    """What each of two ranks saw, by case."""
    start_processes(_rank, (str(folder),), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"seen-{rank}.pt", weights_only=False) for rank in (0, 1)]


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    seen: dict[Any, Any] = {}
    for case in CASES:
        model = Model(*case)
        # without find_unused_parameters: every parameter must have a gradient in every step
        seen[case] = run(DistributedDataParallel(model), model.objective, [rank])
    seen["accumulated"] = _accumulated(rank)
    seen["collectives"] = _collectives(rank)
    seen["gathered"] = _gathered(rank)
    for sharded in (False, True):
        seen["bank in loops", sharded] = bank_in_loops.of_rank(rank, sharded=sharded)
    torch.save(seen, f"{folder}/seen-{rank}.pt")
    dist.destroy_process_group()


def _accumulated(rank: int) -> dict[str, Tensor]:
    """Gradients of two micro-batches, the first without DDP's exchange."""
    model = Model("in_batch", "info_nce", "arc")
    wrapped = DistributedDataParallel(model)
    first, second = steps()[1:3]
    with wrapped.no_sync():
        (wrapped(studies(first[0][rank], seed=1), first[1]) / 2).backward()
    (wrapped(studies(second[0][rank], seed=2), second[1]) / 2).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def _collectives(rank: int) -> list[str]:
    """The collectives of one step of the objective, forward and backward."""
    called = []
    real = {name: getattr(dist, name) for name in ("all_gather", "all_reduce", "broadcast")}

    def counting(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return real[name](*args, **kwargs)

        return call

    model = Model("in_batch", "info_nce", "arc")
    for name in real:
        setattr(dist, name, counting(name))
    model(studies([1, 2, 3], seed=rank), TrainingProgress(step=5)).backward()
    for name, function in real.items():
        setattr(dist, name, function)
    return called


def _gathered(rank: int) -> dict[str, Any]:
    own = torch.arange(3.0 + rank)[:, None] + 10 * rank
    shards = Shards.of(len(own), own.device)
    return {
        "rows": shards.gather(own),
        "own": shards.gather(own)[shards.local],
        "sizes": shards.sizes,
        "mean": mean_over_ranks(torch.tensor([1.0 + rank])),
        "weighted": mean_over_ranks(shards.mean(own[:, 0])),
        "first": from_first_rank(torch.tensor([5 + rank])),
    }
