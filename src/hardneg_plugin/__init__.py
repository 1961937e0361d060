"""Increasingly hard negatives for chest X-ray report generation, as a plug-in for any LightningModule."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardneg_plugin.objectives import HardNegativeObjective, PairEmbeddings
    from hardneg_plugin.plugin.describe import describe
    from hardneg_plugin.plugin.feature import Feature
    from hardneg_plugin.plugin.host_state import host_state_dict
    from hardneg_plugin.plugin.mixin import HardNegativeMixin
    from hardneg_plugin.plugin.plug_in import plug_in

__all__ = [
    "Feature",
    "HardNegativeMixin",
    "HardNegativeObjective",
    "PairEmbeddings",
    "describe",
    "host_state_dict",
    "plug_in",
]

_PLACES = {
    "Feature": "plugin.feature",
    "HardNegativeMixin": "plugin.mixin",
    "HardNegativeObjective": "objectives",
    "PairEmbeddings": "objectives",
    "describe": "plugin.describe",
    "host_state_dict": "plugin.host_state",
    "plug_in": "plugin.plug_in",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: the commands read their arguments before they import torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
