"""The grounded-knowledge module: from the patches of an image to features of each entity."""

from hardneg_plugin.grounding.grounding import Grounding
from hardneg_plugin.grounding.regions import Boxes, Cells, Learned, Patches, Regions

__all__ = ["Boxes", "Cells", "Grounding", "Learned", "Patches", "Regions"]
