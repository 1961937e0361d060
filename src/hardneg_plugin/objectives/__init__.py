"""The objectives that are added to a host's loss, and the strategies they are made of."""

from hardneg_plugin.objectives.alignment import InfoNCE, ReleasedAlignment, Triplet
from hardneg_plugin.objectives.alternating import Alternating
from hardneg_plugin.objectives.batch import EmbeddedBatch, HardNegatives
from hardneg_plugin.objectives.embeddings import PairEmbeddings
from hardneg_plugin.objectives.gk_mvlp.objective import GroundedKnowledgeObjective
from hardneg_plugin.objectives.likelihood.edit_margin import EditMargin
from hardneg_plugin.objectives.likelihood.margin import LikelihoodMargin
from hardneg_plugin.objectives.likelihood.token_weights import ByEmphasis, ByImage, ByText
from hardneg_plugin.objectives.negatives.bank import Bank
from hardneg_plugin.objectives.negatives.sources import InBatch, Paired, Queue
from hardneg_plugin.objectives.objective import HardNegativeObjective
from hardneg_plugin.objectives.reclf.objective import RelationEnhancedObjective
from hardneg_plugin.objectives.separation import Absolute, Hinge
from hardneg_plugin.objectives.weighted_terms import ObjectiveOutput, Weights

__all__ = [
    "Absolute",
    "Alternating",
    "Bank",
    "ByEmphasis",
    "ByImage",
    "ByText",
    "EditMargin",
    "EmbeddedBatch",
    "GroundedKnowledgeObjective",
    "HardNegativeObjective",
    "HardNegatives",
    "Hinge",
    "InBatch",
    "InfoNCE",
    "LikelihoodMargin",
    "ObjectiveOutput",
    "PairEmbeddings",
    "Paired",
    "Queue",
    "RelationEnhancedObjective",
    "ReleasedAlignment",
    "Triplet",
    "Weights",
]
