"""Procedural chest studies: a data set that needs no files, whose findings and their places are known."""

from .studies import PhantomStudies

__all__ = ["PhantomStudies"]
