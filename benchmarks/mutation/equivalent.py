"""Mutants that do what the module does, by the module: before, after, and the reason."""

EQUIVALENT: dict[str, list[tuple[str, str, str]]] = {}
