"""TensorBoard's logs of a run, in its folder whatever that is called."""

import os

from pytorch_lightning.loggers import TensorBoardLogger


class BoardLogger(TensorBoardLogger):
    """A `TensorBoardLogger` that takes the name of a folder as it is.

    Lightning's replaces `$NAME` by a variable of the environment, so that a run in a folder of such a name, which someone else may
    have chosen, logs somewhere else. The arguments are those of `TensorBoardLogger`.

    >>> BoardLogger("outputs/$HOME", name="logs", version="tensorboard").log_dir
    'outputs/$HOME/logs/tensorboard'
    """

    @property
    def log_dir(self) -> str:
        """Where its files are."""
        version = self.version if isinstance(self.version, str) else f"version_{self.version}"
        return os.path.join(self.root_dir, version)
