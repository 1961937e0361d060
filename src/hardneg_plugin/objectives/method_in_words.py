"""An objective as a line that one reads: what is aligned, which hard negatives, how they are hardened."""

from hardneg_plugin.objectives import Bank, HardNegativeObjective, InBatch, Paired, Queue
from hardneg_plugin.objectives.schedule import Constant, Schedule


def method_in_words(objective: HardNegativeObjective | None) -> str:
    """An objective in words.

    Args:
        objective: of the model; None: the bare generator.

    >>> method_in_words(None)
    'the report loss alone, no hard negatives'
    >>> print(method_in_words(HardNegativeObjective(hardening=None)))
    HardNegativeObjective: InfoNCE (weight 0.05), hard negatives the nearest report of the batch, not hardened
    """
    if objective is None:
        return "the report loss alone, no hard negatives"
    aligned = f"{type(objective.alignment).__name__} (weight {objective.weights.alignment:g})"
    parts = [aligned, *_negatives(objective)]
    for name in ("separation", "token_weights", "likelihood_margin", "edit_margin"):
        if (part := getattr(objective, name)) is not None:
            parts.append(f"{name} {type(part).__name__}")
    return f"{type(objective).__name__}: {', '.join(parts)}"


def _negatives(objective: HardNegativeObjective) -> list[str]:
    is_without = getattr(objective.alignment, "negative_weight", 1) == 0
    if is_without and objective.hardening is None and objective.separation is None:
        return ["no hard negatives in it"]
    source = f"hard negatives {_source(objective)}"
    if objective.hardening is None:
        return [source, "not hardened"]
    return [source, f"hardened by {type(objective.hardening).__name__} ({_schedule(objective.schedule)})"]


def _source(objective: HardNegativeObjective) -> str:
    negatives = objective.negatives
    if isinstance(negatives, InBatch):
        return (
            "the nearest report of the batch" if negatives.k == 1 else f"the {negatives.k} nearest reports of the batch"
        )
    if isinstance(negatives, Queue):
        return f"the nearest of the batch and the latest {negatives.queue.size:,} studies"
    if isinstance(negatives, Bank):
        return "the nearest of all training studies"
    if isinstance(negatives, Paired):
        return "mined before the training"
    return f"by {type(negatives).__name__}"


def _schedule(schedule: Schedule) -> str:
    if isinstance(schedule, Constant):
        return f"hardness {schedule.hardness:g}"
    return f"hardness up to {getattr(schedule, 'peak', schedule.cap):g}, {type(schedule).__name__.lower()}"
