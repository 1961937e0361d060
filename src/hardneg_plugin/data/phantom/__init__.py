"""Procedural chest studies: a data set without files, with known findings and places."""

from hardneg_plugin.data.phantom.clinic import Statement
from hardneg_plugin.data.phantom.edits import PhantomEdits
from hardneg_plugin.data.phantom.knowledge import PhantomKnowledge
from hardneg_plugin.data.phantom.studies import PhantomStudies

__all__ = ["PhantomEdits", "PhantomKnowledge", "PhantomStudies", "Statement"]
