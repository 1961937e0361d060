"""How a report generator is read and written: from runs, and from and to folders and repositories of the Hugging Face hub."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_folder, writing
from hardneg_plugin.models.base import move_to_device

Generator = TypeVar("Generator", bound="SavedGenerator")

# Hydra, safetensors and huggingface_hub are imported by functions that need them: training needs none of them here.


@dataclass(frozen=True)
class Origin:
    """Where a generator was read from, and what a folder of it takes from there."""

    settings: Callable[[], Mapping[str, Any]]
    """The config that rebuilds it."""
    card: Callable[[str, str | None, bool], str]
    """The text of the card, given the model's name, its licence, and whether its weights are those that were scored."""
    weights: Callable[[], Mapping[str, Tensor]]
    """The weights as they were read."""


class SavedGenerator:
    """The part of `ReportGenerator` that reads and writes it."""

    image_size: int | None = None
    """Height and width in pixels to which `generate` resizes images: those of the training in a run. None: not known."""
    decoding: Decoding
    _origin: Origin | None = None

    @classmethod
    def from_run(
        cls: type[Generator],
        path: str | Path,
        checkpoint: str | Path = "best",
        device: str | torch.device | None = None,
        trust: bool = False,
        *,
        image_size: int | None = None,
    ) -> Generator:
        """A trained generator in evaluation mode, without hard negatives and caption scores.

        It needs no file that training read.

        Args:
            path: the run folder, or a .ckpt file in its `checkpoints/`.
            checkpoint: "best", or the last if training kept no best; "last"; or the path of a .ckpt file.
            device: as in torch; None: a GPU if there is one.
            trust: build any class that the run's config names. False: only classes that the packaged configs name, so that the run
                folder of someone else runs none of their code.
            image_size: in pixels; required if the run's config does not have it.

        Raises:
            UserError: the run or checkpoint does not exist, cannot be read, or is not trusted.
        """
        from hardneg_plugin.runs.inference_model import load_inference_model

        loaded = load_inference_model(Path(path), str(checkpoint), trust=trust, image_size=image_size)
        model = _checked(loaded.model, cls, f"{path}: expected the run")
        model.image_size = loaded.image_size

        def card(name: str, license: str | None, is_scored: bool) -> str:
            from hardneg_plugin.runs.model_card import card_of_run

            return card_of_run(loaded, name=name, license=license, is_scored=is_scored)

        def weights() -> Mapping[str, Tensor]:
            from hardneg_plugin.runs.checkpoint import read_checkpoint

            state: Mapping[str, Tensor] = read_checkpoint(loaded.checkpoint)["state_dict"]
            return state

        model._origin = Origin(loaded.settings, card, weights)
        return model._on_device(device)

    @classmethod
    def from_pretrained(
        cls: type[Generator],
        folder_or_repo: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        **download: Any,
    ) -> Generator:
        """A generator that `hardneg-export format=hub` or `save_pretrained` wrote, in evaluation mode.

        A folder is read without network, and nothing in it is run: it holds tensors and JSON that names our classes only. Further
        training starts with AdamW under its defaults; `configure_optimizers` of a subclass, or a run, says otherwise.

        Args:
            folder_or_repo: a folder, or a repository "owner/name" of the Hugging Face hub.
            revision: branch, tag or commit of a repository; None: its main branch.
            device: as in torch; None: a GPU if there is one.
            download: further arguments of `huggingface_hub.snapshot_download`, such as `token`, `cache_dir` and `local_files_only`.

        Raises:
            UserError: there is no such folder or repository, it is damaged, or it was written by something else.
        """
        from hardneg_plugin.models.exported_folder import CARD, WEIGHTS, read_files, read_weights
        from hardneg_plugin.models.hub import folder_of

        folder = folder_of(folder_or_repo, revision, **download).absolute()
        built, settings = read_files(folder)
        model = _checked(built, cls, f"{folder}: expected the folder")

        def card(name: str, license: str | None, is_scored: bool) -> str:
            from hardneg_plugin.runs.model_card import card_under_licence, card_without_scores

            if not is_scored or not (folder / CARD).is_file():
                return card_without_scores(name, license)
            text = (folder / CARD).read_text(encoding="utf-8")
            return text if license is None else card_under_licence(text, license)

        model._origin = Origin(lambda: settings, card, lambda: read_weights(folder / WEIGHTS))
        return model._on_device(device)

    def save_pretrained(
        self, folder: str | Path, *, name: str | None = None, license: str | None = None, overwrite: bool = False
    ) -> None:
        """Write a folder that `from_pretrained` reads: all of it, or nothing.

        It holds `model.safetensors` (without the weights of an objective), `config.json`, `preprocessor_config.json`, the tokenizer
        and `README.md`, a model card with the scores of the run. Where the weights have changed since they were read, the card has
        no scores.

        Args:
            folder: is made; or is empty.
            name: of the model in a new card; None: that of the folder. A card that was read with the model stays as it is.
            license: identifier of the hub, such as "apache-2.0"; None: that of the card that was read, or none is stated.
            overwrite: replace an exported folder.

        Raises:
            UserError: the folder exists or cannot be written; the model was built in Python, or of classes that are not ours.
        """
        from hardneg_plugin.models.exported_folder import is_exported, weights_of, write_files

        target = Path(folder).expanduser().absolute()
        if self._origin is None:
            raise UserError(
                "Expected a generator of from_run or from_pretrained, whose settings are known, but this one was built in Python: "
                "train it by hardneg-train, or keep its state_dict."
            )
        may_be_replaced = is_exported(target)
        if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or (overwrite and may_be_replaced))):
            remedy = "overwrite=true replaces it" if may_be_replaced else "it is left as it is"
            raise UserError(f"{target} exists already; {remedy}. Name another folder.")
        before, now = self._origin.weights(), weights_of(self)
        is_scored = all(torch.equal(now[key], before[key]) for key in now.keys() & before.keys())
        card = self._origin.card(name or target.name, license, is_scored)
        with (
            writing(target, "Make room, or name another folder."),
            whole_folder(target, replaces=may_be_replaced) as unfinished,
        ):
            write_files(unfinished, self, self._origin.settings(), card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a report generator of hardneg-plugin",
        license: str | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
    ) -> str:
        """Upload what `save_pretrained` writes to a repository of the Hugging Face hub, which is made where there is none.

        Args:
            repo_id: "owner/name".
            private, revision, commit_message, token, create_pr: as of `huggingface_hub.HfApi`.
            license: as of `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            UserError: as of `save_pretrained`; or the hub refuses it or cannot be reached.
        """
        from hardneg_plugin.models.hub import push_folder

        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            self.save_pretrained(folder, name=repo_id, license=license)
            return push_folder(
                folder,
                repo_id,
                private=private,
                revision=revision,
                commit_message=commit_message,
                token=token,
                create_pr=create_pr,
            )

    def _on_device(self: Generator, device: str | torch.device | None) -> Generator:
        module: Any = self
        moved: Generator = move_to_device(module, device).eval()
        return moved


def _checked(model: Any, wanted: type[Generator], where: str) -> Generator:
    if not isinstance(model, wanted):
        raise UserError(f"{where} of a {wanted.__name__}, but got that of a {type(model).__name__}.")
    return model
