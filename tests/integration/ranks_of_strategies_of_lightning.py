"""ranks_of_strategies.py as a user of `lightning.pytorch` would have written it, for started processes to import."""

from pathlib import Path

SOURCE = Path(__file__).with_name("ranks_of_strategies.py").read_text()
exec(compile(SOURCE.replace("pytorch_lightning", "lightning.pytorch"), __file__, "exec"), globals())
