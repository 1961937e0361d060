"""Loss and gradients of every objective, hardening and source of negatives: on the device, and on the CPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gpu_parts.card import exact
from gpu_parts.part import Rows, Setting
from hardneg_plugin import HardNegativeObjective, PairEmbeddings
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.data.phantom import PhantomKnowledge
from hardneg_plugin.functional.hardening import Arc, Ascent, Projection, Released, Segment
from hardneg_plugin.functional.likelihood import TokenLosses, mean_token_loss, token_losses
from hardneg_plugin.grounding import Grounding
from hardneg_plugin.objectives import (
    Alternating,
    Bank,
    ByImage,
    ByText,
    GroundedKnowledgeObjective,
    Hinge,
    InBatch,
    LikelihoodMargin,
    Paired,
    Queue,
    RelationEnhancedObjective,
    Triplet,
)
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.objectives.weighted_terms import total_loss

LIMITS = {"loss": 1e-5, "gradient": 1e-3}
"""Relative difference of the loss, and of each gradient to the norm of the largest."""
STUDIES, WORDS, PATCHES, WIDTH, VOCABULARY = 12, 9, 10, 32, 40
SIZES = {"image_width": 24, "report_width": 20, "width": WIDTH}

Make = Callable[[], HardNegativeObjective]


def cases() -> dict[str, Make]:
    """The objectives by name."""
    ithn = partial(HardNegativeObjective, **SIZES)
    hardenings: dict[str, Any] = {
        "arc": Arc(margin=0.02),
        "segment": Segment(margin=0.02),
        "projection": Projection(),
        "ascent": Ascent(steps=5, step_size=0.1, margin=0.02),
        "released": Released(),
        "none": None,
    }
    made: dict[str, Make] = {f"hardening={name}": partial(ithn, hardening=one) for name, one in hardenings.items()}
    made["hardening=alternating"] = lambda: ithn(hardening=Alternating(step_size=0.1, margin=0.02))  # it has a state
    sources: dict[str, Callable[[], Any]] = {
        "in_batch": lambda: InBatch(k=3),
        "queue": lambda: Queue(size=32, k=2),
        "bank": lambda: Bank(k=2),
        "paired": lambda: Paired(),
    }
    for name, source in sources.items():
        made[f"negatives={name}"] = lambda source=source: ithn(negatives=source(), separation=Hinge())  # type: ignore
    made["alignment=triplet"] = partial(ithn, alignment=Triplet())
    made["token_weights=by_image"] = partial(ithn, token_weights=ByImage(hardened=True, k=2, relative=True))
    made["token_weights=by_text"] = partial(ithn, token_weights=ByText())
    made["likelihood_margin"] = partial(ithn, likelihood_margin=LikelihoodMargin(side="both", k=2))
    made["objective=reclf"] = partial(RelationEnhancedObjective, **SIZES, word_region_width=8)
    made["objective=gk_mvlp"] = partial(
        GroundedKnowledgeObjective,
        **SIZES,
        knowledge=PhantomKnowledge(),
        grounding=partial(Grounding, width=16, heads=2),
    )
    return made


def run(setting: Setting, rows: Rows) -> None:
    """One row for each objective: differences, relative to the CPU's values."""
    exact()
    for name, make in cases().items():
        with rows.row(name) as row:
            expected, got = _outcome(make, "cpu"), _outcome(make, setting.device)
            largest = max(gradient.norm().item() for gradient in expected["gradients"].values())
            row["loss"] = abs(expected["loss"] - got["loss"]) / abs(expected["loss"])
            differences = {
                key: (gradient - got["gradients"][key]).norm().item() / largest
                for key, gradient in expected["gradients"].items()
            }
            row["gradient"], row["gradients"] = max(differences.values()), len(differences)
            row["ok"] = all(row[key] <= limit for key, limit in LIMITS.items())


def _outcome(make: Make, device: str) -> dict[str, Any]:
    """The loss of the second of two steps, and its gradients, on the CPU."""
    torch.manual_seed(0)
    objective = make().train()
    decoder = TransformerDecoder(
        VOCABULARY, 24, width=16, heads=2, layers=1, feedforward_width=16, dropout=0.0, patch_dropout=0.0
    )
    model = nn.ModuleDict({"objective": objective, "decoder": decoder}).to(device)
    features: dict[str, Tensor] = {}
    loss = torch.zeros(())
    for step in range(2):
        model.zero_grad()
        features = _features(step, objective, device)
        loss = _loss(objective, decoder, features, step)
        loss.backward()
    named = {**dict(model.named_parameters()), **{f"in/{key}": value for key, value in features.items()}}
    gradients = {key: value.grad.cpu() for key, value in named.items() if value.grad is not None}
    return {"loss": loss.item(), "gradients": gradients}


def _features(step: int, objective: HardNegativeObjective, device: str) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(10 + step)
    prompts = len(getattr(objective, "prompts", ()))
    shapes = {
        "images": (STUDIES, 24),
        "reports": (STUDIES, 20),
        "negative_images": (STUDIES, 24),
        "negative_reports": (STUDIES, 20),
        "regions": (STUDIES, PATCHES, 24),
        "words": (STUDIES, WORDS, 20),
        **({"statements": (2, prompts, 20)} if prompts else {}),
    }
    return {name: torch.randn(shape, generator=random).to(device).requires_grad_() for name, shape in shapes.items()}


def _loss(
    objective: HardNegativeObjective, decoder: TransformerDecoder, features: dict[str, Tensor], step: int
) -> Tensor:
    device = features["images"].device
    tokens = torch.randint(1, VOCABULARY, (STUDIES, WORDS), generator=torch.Generator().manual_seed(3)).to(device)
    tokens[:, 0] = tokens[:, -1] = 0
    mask = torch.ones_like(tokens, dtype=torch.bool)
    patches = features["regions"]

    def read(order: Tensor | None = None, towards: Tensor | None = None) -> TokenLosses:
        others = patches if order is None else patches[order]
        if towards is not None:
            others = torch.lerp(others, patches, towards[:, None, None])
        return token_losses(decoder.log_probs(others, tokens), tokens, mask)

    prompts = len(getattr(objective, "prompts", ()))
    facts = torch.randint(-1, 2, (STUDIES, prompts), generator=torch.Generator().manual_seed(4)).to(device)
    pairs = PairEmbeddings(
        images=features["images"],
        reports=features["reports"],
        # the second batch has half of the first one's studies
        study_ids=torch.arange(STUDIES, device=device) + step * STUDIES // 2,
        regions=patches,
        words=features["words"],
        grid=(2, PATCHES // 2),
        facts=facts if prompts else None,
        negatives=PairEmbeddings(images=features["negative_images"], reports=features["negative_reports"]),
    )
    given: dict[str, Any] = {"statements": features["statements"]} if prompts else {}
    own = read()
    terms = objective(pairs, TrainingProgress(step=step, epoch=step, fraction=0.5), read=read, **given)
    return total_loss(objective.weights, mean_token_loss(own.losses, own.mask), terms)
