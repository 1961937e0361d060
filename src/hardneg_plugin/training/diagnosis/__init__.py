"""Diagnosis while training: what a model writes and how similar its embeddings are, shown, and warning signs told in words."""

from hardneg_plugin.training.diagnosis.callback import Diagnosis

__all__ = ["Diagnosis"]
