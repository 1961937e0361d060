"""Procedural chest studies: a data set that needs no files, whose findings and their places are known."""

from hardneg_plugin.data.phantom.knowledge import PhantomKnowledge
from hardneg_plugin.data.phantom.studies import PhantomStudies

__all__ = ["PhantomKnowledge", "PhantomStudies"]
