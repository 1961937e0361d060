"""From an image's patches to what they say of each entity that may be found."""

from hardneg_plugin.grounding.grounding import Grounding
from hardneg_plugin.grounding.regions import Boxes, Cells, Learned, Patches, Regions

__all__ = ["Boxes", "Cells", "Grounding", "Learned", "Patches", "Regions"]
