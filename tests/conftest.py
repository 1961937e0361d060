"""What holds for all tests: nothing is fetched, and libraries log to a stream that outlives a single test."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, at import

import huggingface_hub  # noqa: F401  # its log handler keeps the error stream there is when it is imported


def pytest_collection_modifyitems(items):
    """The README's commands are one long test: begun last, it would keep one worker busy while the others have nothing left."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
