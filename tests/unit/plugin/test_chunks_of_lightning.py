"""test_chunks.py for hosts of `lightning.pytorch`."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning.pytorch")
sys.path.append(str(Path(__file__).parent))
from both_lightnings import rewritten

rewritten("test_chunks", globals())
