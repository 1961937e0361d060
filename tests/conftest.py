"""What holds for all tests: nothing is fetched, logs go to a stream that outlives a test, what takes long comes first."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, at import

import huggingface_hub  # noqa: F401  # its log handler keeps the error stream there is when it is imported
import pytest

INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items):
    """Whole commands are slow. Slow tests come first, so that no worker is left with a long one at the end."""
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
