"""Tests of `pytorch_lightning` hosts once more, for hosts of `lightning.pytorch`: the same files with the import rewritten."""

from pathlib import Path

FOLDER = Path(__file__).parent


def rewritten(name, namespace):
    """Run a file of this folder in a namespace as a user of `lightning.pytorch` would have written it.

    Args:
        name: of the module.
        namespace: the globals of the module that stands for it.
    """
    source = (FOLDER / f"{name}.py").read_text()
    changed = source.replace("pytorch_lightning", "lightning.pytorch").replace("plugged_hosts", "lightning_hosts")
    assert changed != source, f"{name} has nothing of Lightning"
    exec(compile(changed, f"{name}.py for lightning.pytorch", "exec"), namespace)
