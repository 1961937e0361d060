"""The parameters of an objective beside a Trainer's model: in its optimizer, its checkpoints and its new starts."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_file
from hardneg_plugin.objectives import HardNegativeObjective
from hardneg_plugin.objectives.study_parts import whole_parts
from hardneg_plugin.plugin.optimizer_group import add_group
from hardneg_plugin.tensor_file import read_tensors

OBJECTIVE_FILE = "hard_negatives.pt"
"""The weights of the objective in a checkpoint's folder."""

# It stands before a Trainer in the bases, and takes its methods from there.
_Trainer: Any = Any if TYPE_CHECKING else object


class ObjectiveBesideModel(_Trainer):
    """The part of `HardNegativeTrainerMixin` that trains, saves and loads the objective with the model.

    >>> class Beside(ObjectiveBesideModel):
    ...     hard_negatives = HardNegativeObjective()

    Raises:
        UserError: resuming from a checkpoint without the objective.
    """

    hard_negatives: HardNegativeObjective
    _untrained: dict[str, Any] | None = None

    def call_model_init(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's new model; the objective begins anew with it. Arguments are those of `Trainer`."""
        if self._untrained is None:
            self._untrained = deepcopy(self.hard_negatives.state_dict())
        self.hard_negatives.load_state_dict(self._untrained)
        return super().call_model_init(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's optimizer, with the parameters of the objective in a further group."""
        optimizer = super().create_optimizer(*args, **kwargs)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        added = {name: p for name, p in self.hard_negatives.named_parameters("hard_negatives") if id(p) not in held}
        add_group((optimizer, self.lr_scheduler), added)
        return optimizer

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        state = whole_parts(self.hard_negatives.state_dict(), self.args.device)
        if self.args.should_save:
            with whole_file(Path(output_dir, OBJECTIVE_FILE)) as file:
                torch.save(state, file)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            path = Path(checkpoint, OBJECTIVE_FILE)
            if not path.exists():
                raise UserError(
                    f"{path}: expected the weights of the objective beside the model's, but there is no such file: resume from a "
                    f"checkpoint of {type(self).__name__} saved without save_only_model, or start anew from the model's weights."
                )
            self.hard_negatives.load_state_dict(read_tensors(path))
        super()._load_optimizer_and_scheduler(checkpoint)
