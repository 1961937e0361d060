"""Diagnosis of a training: generated reports and similarities in the loggers, and warnings."""

from hardneg_plugin.training.diagnosis.callback import Diagnosis

__all__ = ["Diagnosis"]
