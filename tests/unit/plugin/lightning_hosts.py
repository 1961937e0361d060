"""The hosts of plugged_hosts.py as modules of `lightning.pytorch`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
from both_lightnings import rewritten

rewritten("plugged_hosts", globals())
