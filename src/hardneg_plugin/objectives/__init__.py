"""What is added to a host's loss."""

from hardneg_plugin.objectives.alignment import InfoNCE, ReleasedAlignment, Triplet
from hardneg_plugin.objectives.alternating import Alternating
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.grounded_knowledge import GroundedKnowledgeObjective
from hardneg_plugin.objectives.hard_negative import HardNegativeObjective, ObjectiveOutput, Weights
from hardneg_plugin.objectives.neighbours import Bank
from hardneg_plugin.objectives.pairs import PairEmbeddings
from hardneg_plugin.objectives.relation_enhanced import RelationEnhancedObjective
from hardneg_plugin.objectives.separation import Absolute, Hinge
from hardneg_plugin.objectives.sources import InBatch, Paired, Queue

__all__ = [
    "Absolute",
    "Alternating",
    "Bank",
    "EmbeddedBatch",
    "GroundedKnowledgeObjective",
    "HardNegativeObjective",
    "HardNegatives",
    "Hinge",
    "InBatch",
    "InfoNCE",
    "ObjectiveOutput",
    "PairEmbeddings",
    "Paired",
    "Queue",
    "RelationEnhancedObjective",
    "ReleasedAlignment",
    "Triplet",
    "Weights",
]
