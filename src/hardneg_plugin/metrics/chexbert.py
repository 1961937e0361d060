"""CheXbert: the 14 CheXpert labels of reports, by a BERT with a head for each label."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardneg_plugin.backbones.model_code import without_code
from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.metrics.chexpert import CONDITIONS, label_f1
from hardneg_plugin.metrics.clinical import check_files
from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats
from hardneg_plugin.tensor_file import read_tensors

HUB = ("StanfordAIMI/RRG_scorers", "chexbert.pth")
CLASSES = np.array([np.nan, 1.0, 0.0, -1.0])
"""Blank, positive, negative, uncertain."""
MAX_TOKENS = 512
PLAIN = {"trust_remote_code": False}


@dataclass(frozen=True)
class CheXbert:
    """The `ClinicalMetric` "chexbert_F1": F1 of the labels that CheXbert gives, in twelve variants (see `label_f1`).

    The released labeller runs with transformers alone, as the package f1chexbert does not work with transformers 5. "micro14",
    "macro14", "micro5" and "macro5" of "uncertain-positive" are the scores of that package.

    Args:
        weights: the released `chexbert.pth`; None takes it from the hub's cache, or downloads it.
        bert: `config.json` and `vocab.txt` of bert-base-uncased: a folder, or a name on the hub or in its cache.
        batch_size: reports at a time, >= 1.
        device: a torch device.

    Raises:
        UserError: in `check` and when called: weights, config or vocabulary cannot be loaded, or do not fit together.

    Source: Smit et al. 2020.
    """

    weights: str | None = None
    bert: str = "bert-base-uncased"
    batch_size: int = 32
    device: str = "cpu"

    def check(self) -> None:
        """See `ClinicalMetric`."""
        self._load()

    @torch.inference_mode()
    def __call__(self, generated: Sequence[str], references: Sequence[str], ids: Sequence[str]) -> ScoreCard:
        """See `ClinicalMetric`."""
        tokenizer, labeller = self._load()
        texts = sorted({*generated, *references}, key=len)  # batches of similar lengths
        labels: dict[str, Floats] = {}
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            tokens = tokens.to(self.device)
            classes = labeller(tokens["input_ids"], tokens["attention_mask"]).cpu().numpy()
            labels.update(zip(batch, CLASSES[classes], strict=True))
        rows, reference_rows = (np.array([labels[text] for text in side]) for side in (generated, references))
        return label_f1(rows, reference_rows, "chexbert")

    def _load(self) -> tuple[Any, "_Labeller"]:
        from transformers import BertConfig, BertTokenizer  # seconds to import

        state = self._state()
        if Path(self.bert).is_dir():  # for a folder without these files, transformers makes defaults
            check_files(Path(self.bert), ["config.json", "vocab.txt"], "clinical.chexbert.bert")
        try:
            config = without_code(_cached_or_downloaded(partial(BertConfig.from_pretrained, **PLAIN), self.bert))
            tokenizer = _cached_or_downloaded(partial(BertTokenizer.from_pretrained, **PLAIN), self.bert)
        except (OSError, ValueError) as error:
            raise UserError(
                f"clinical.chexbert.bert: expected config.json and vocab.txt of bert-base-uncased, but {self.bert!r} cannot be "
                f"loaded ({first_line(error)}). Without a network, give a folder with the two files."
            ) from error
        labeller = _Labeller(config)
        try:  # some files have a pooler, and positions as a buffer
            missing, _ = labeller.load_state_dict(state, strict=False)
        except RuntimeError as error:
            missing = [first_line(error)]
        if missing:
            raise UserError(
                f"clinical.chexbert.weights: expected the weights of CheXbert on {self.bert!r}, but {self.weights or HUB[1]} "
                f"does not fit ({missing[0]})."
            )
        return tokenizer, labeller.to(self.device).eval()

    def _state(self) -> dict[str, Tensor]:
        """The weights by name; only tensors are unpickled."""
        file = Path(self.weights) if self.weights is not None else _downloaded_weights()
        try:
            state = read_tensors(file)["model_state_dict"]
            return {name.removeprefix("module."): tensor for name, tensor in state.items()}
        except Exception as error:  # unpickling can raise anything
            raise UserError(
                f"clinical.chexbert.weights: expected the released chexbert.pth, but {file} cannot be read as such "
                f"({type(error).__name__}: {first_line(error)})."
            ) from error


class _Labeller(nn.Module):
    """The class of each condition from the state of the first token; modules have the names of the released weights."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        from transformers import BertModel

        self.bert = BertModel(config, add_pooling_layer=False)
        classes = [len(CLASSES)] * (len(CONDITIONS) - 1) + [2]  # "No Finding" is blank or positive
        self.linear_heads = nn.ModuleList(nn.Linear(config.hidden_size, number) for number in classes)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Classes `(B, 14)` of tokens `(B, L)`."""
        first = self.bert(tokens, attention_mask=mask).last_hidden_state[:, 0]
        return torch.stack([head(first).argmax(dim=-1) for head in self.linear_heads], dim=1)


def _downloaded_weights() -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(_cached_or_downloaded(hf_hub_download, *HUB))
    except Exception as error:  # the hub and its HTTP client raise their own classes
        raise UserError(
            f"The weights of CheXbert cannot be loaded ({first_line(error)}). Without a network, set "
            "clinical.chexbert.weights to the file chexbert.pth."
        ) from error


def _cached_or_downloaded(load: Any, *names: str) -> Any:
    """From the cache first: without a network, asking the hub takes minutes."""
    try:
        return load(*names, local_files_only=True)
    except OSError:
        return load(*names)
