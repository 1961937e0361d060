"""The half of the plug-in that keeps the objective beside the host's weights in a LightningModule's checkpoints."""

from typing import Any

from hardneg_plugin.distributed import warn_on_first_rank
from hardneg_plugin.objectives.study_parts import whole_parts
from hardneg_plugin.plugin.host_state import check_default_fits, settings_of, take_out
from hardneg_plugin.plugin.rank_agreement import (
    RankAgreement,
    is_sharded,
    load_whole_state,
    require_host_keys,
    whole_state,
)

_NAME = "hard_negatives"
_SETTINGS = "hard_negatives_settings"


class ObjectiveCheckpoint(RankAgreement):
    """What `HardNegativeMixin` needs to save a checkpoint that loads into the bare host, and to load it again, sharded or not."""

    _objective_is_default = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the host's weights in the state dict, and put those of the objective beside it."""
        inside = take_out(checkpoint["state_dict"])
        checkpoint[_SETTINGS] = settings_of(self.hard_negatives)
        if is_sharded(self):
            inside = whole_state(self.hard_negatives)
            checkpoint["host_weights"] = list(checkpoint["state_dict"])
        checkpoint[_NAME] = whole_parts(inside, self.device)
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the weights of the objective back into the state dict, after the host has read its own."""
        inside = take_out(checkpoint.get("state_dict", {}))
        super().on_load_checkpoint(checkpoint)
        weights = checkpoint.get(_NAME, inside)
        if not weights and (weights := self.hard_negatives.state_dict()):
            message = (
                "The checkpoint holds no hard-negative objective, as one of the bare host: the objective starts afresh."
            )
            if "state_dict" in checkpoint:
                message += " Load it by load_from_checkpoint: trainer.fit(ckpt_path=...) needs optimizer states of the objective."
            warn_on_first_rank(message)
        if self._objective_is_default:
            check_default_fits(weights, checkpoint.get(_SETTINGS, {}), self.hard_negatives, type(self).__name__)
        if "state_dict" in checkpoint:
            checkpoint["state_dict"].update({f"{_NAME}.{name}": value for name, value in weights.items()})
            return
        # the strategy has loaded the host's weights by itself
        require_host_keys(self, checkpoint, self.trainer.ckpt_path)
        if _NAME in checkpoint:
            load_whole_state(self.hard_negatives, weights)
