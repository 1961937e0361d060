"""What is added to a host's loss."""

from hardneg_plugin.objectives.alignment import InfoNCE, ReleasedAlignment, Triplet
from hardneg_plugin.objectives.hard_negative import HardNegativeObjective, ObjectiveOutput, Weights
from hardneg_plugin.objectives.pairs import PairEmbeddings
from hardneg_plugin.objectives.separation import Absolute, Hinge
from hardneg_plugin.objectives.sources import HardNegatives, InBatch

__all__ = [
    "Absolute",
    "HardNegativeObjective",
    "HardNegatives",
    "Hinge",
    "InBatch",
    "InfoNCE",
    "ObjectiveOutput",
    "PairEmbeddings",
    "ReleasedAlignment",
    "Triplet",
    "Weights",
]
