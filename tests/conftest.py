"""What holds for all tests: nothing is fetched, logs outlive a test, interrupts arrive, what takes long comes first."""

import multiprocessing
import os
import signal
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read once, at import

import huggingface_hub  # noqa: F401  # its log handler keeps the error stream there is when it is imported
import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # a busy machine is no fault
settings.load_profile("no deadline")

# the fork server of a test process is started once, by whichever test is first
multiprocessing.set_forkserver_preload(["hardneg_plugin.apps.train", "hardneg_plugin.apps.evaluate"])

INTEGRATION = Path(__file__).parent / "integration"
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
"""Real data sets beside the checkout: IU X-Ray (Open-i, CC BY-NC-ND 4.0) and case reports (mostly CC BY-NC-SA). Their licences
keep them out of a project under Apache-2.0, so what is asserted on them is asserted on studies written for the tests too."""


@pytest.fixture(scope="session", autouse=True)
def interrupts():
    """Interrupts arrive here and in processes that tests start, even where a shell has them ignored, as for its background jobs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a program that is executed gets the default then


@pytest.fixture(scope="session")
def real_data():
    """The folder of a real data set, by name; skips with the reason where there is none."""

    def folder(name):
        if not (REAL_DATA / name).is_dir():
            pytest.skip(
                f"no {name} at {REAL_DATA}: its licence keeps it out of the project; written studies stand in for it"
            )
        return REAL_DATA / name

    return folder


def pytest_collection_modifyitems(items):
    """Whole commands are slow. Slow tests come first, so that no worker is left with a long one at the end."""
    for item in items:
        if INTEGRATION in item.path.parents:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
