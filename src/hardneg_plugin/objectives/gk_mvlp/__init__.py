"""Grounded knowledge: entities that look for their regions."""
