"""Runs read again: their predictions, studies one by one, baselines, downstream tasks."""
