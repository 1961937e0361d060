"""The two Lightnings: `pytorch_lightning` and `lightning.pytorch` have a LightningModule each. Neither is imported here."""

import sys
from typing import Any

PACKAGES = ("pytorch_lightning", "lightning.pytorch")


def lightning_module_of(host: type) -> Any:
    """The LightningModule that a class derives from; None for a class of neither package."""
    for package in PACKAGES:
        # whoever defined a subclass has imported it
        base = getattr(sys.modules.get(package), "LightningModule", None)
        if base is not None and issubclass(host, base):
            return base
    return None


def overrides(host: Any, method: str) -> bool:
    """Whether a LightningModule has a method of its own.

    Args:
        host: a LightningModule.
        method: a hook of LightningModule.
    """
    return method in vars(host) or getattr(type(host), method) is not getattr(lightning_module_of(type(host)), method)
