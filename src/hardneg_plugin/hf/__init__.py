"""Hard negatives in Hugging Face's Trainer, and in trainers built on it such as TRL's SFTTrainer."""

from hardneg_plugin.hf.trainer import HardNegativeTrainer, HardNegativeTrainerMixin

__all__ = ["HardNegativeTrainer", "HardNegativeTrainerMixin"]
