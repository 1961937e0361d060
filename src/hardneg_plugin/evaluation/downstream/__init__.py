"""Downstream tasks on a trained model's frozen features: what each study adds to the scores of each task."""
