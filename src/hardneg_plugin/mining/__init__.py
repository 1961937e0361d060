"""Offline mining: report embeddings, which studies match, and the exact search for each study's nearest other reports."""
