"""What holds for all tests: nothing is fetched, and libraries log to a stream that outlives a single test."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, at import

import huggingface_hub  # noqa: F401  # its log handler keeps the error stream there is when it is imported
