"""A training step of each variant, without the trainer around it, on a device and in a precision."""

from functools import partial
from typing import Any, Literal

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from overhead import SIZES, keys_of, made_batch
from torch import Tensor
from torch.nn.functional import normalize

from gpu_parts.part import Setting
from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.models.hard_negative_generator import HardNegativeReportGenerator
from hardneg_plugin.objectives import Bank, Queue
from hardneg_plugin.objectives.schedule import TrainingProgress
from hardneg_plugin.objectives.weighted_terms import total_loss

Precision = Literal["float32", "bf16", "fp16"]
VARIANTS: dict[str, list[str]] = {
    "host": ["model=host"],
    "in_batch": [],
    "queue 16k": ["negatives=queue", "negatives.size=16384"],
    "queue 64k": ["negatives=queue", "negatives.size=65536"],
    "bank 16k": ["negatives=bank"],
    "by_image": ["token_weights=by_image"],
    "by_image, hardened": ["token_weights=by_image", "token_weights.hardened=true"],
    "by_text": ["token_weights=by_text"],
    "likelihood margin": ["likelihood_margin=softplus"],
    "reclf": ["objective=reclf"],
    "gk_mvlp": ["objective=gk_mvlp"],
    "paired": ["negatives=paired", "data.paired.table=unused"],
}
IN_BANK = 16_384


def on(device: str, value: Any) -> Any:
    """A batch with its tensors on a device."""
    if isinstance(value, dict):
        return {name: on(device, item) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


class Step:
    """Forward, backward and update of one variant.

    Args:
        variant: of `VARIANTS`.
        size: "released" or "phantom", as in `overhead.SIZES`; "tiny": a phantom one of few channels.
        studies: of the batch.
        setting: for the device.
        precision: of autocast; float32: none.
        channels_last: of the visual extractor.
        cached: the visual features are computed once, and a step begins with them.
        overrides: more of them.
    """

    def __init__(
        self,
        variant: str,
        size: str,
        studies: int,
        setting: Setting,
        *,
        precision: Precision = "bf16",
        channels_last: bool = False,
        cached: bool = False,
        overrides: tuple[str, ...] = (),
    ) -> None:
        self.variant, self.device, self.precision = variant, setting.device, precision
        settings = SIZES["phantom" if setting.tiny else size]
        shape = {**settings["batch"], "studies": studies}
        chosen = [*settings["overrides"], *VARIANTS[variant], "metrics.caption=null", *overrides]
        if setting.tiny:
            shape |= {"pixels": 32, "words": 12, "vocabulary": 40}
            chosen += ["visual.options.channels=[8,8,16,16]", "visual.options.stem_width=8", "backbone.width=32"]
            chosen += ["backbone.heads=2", "backbone.layers=1", "backbone.feedforward_width=32"]
            chosen += [] if variant == "host" else ["objective.width=16"]
        if channels_last:
            chosen.append("model.channels_last=true")
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", chosen)
        words = ("<unk>", *(f"w{i:05d}" for i in range(shape["vocabulary"] - 1)))
        torch.manual_seed(0)
        self.model: Any = _built(config, WordTokenizer(words), setting.device)
        torch.manual_seed(0)
        self.batch: Any = on(setting.device, made_batch(**shape))
        if variant == "paired":
            self.batch["negatives"] = on(setting.device, made_batch(**shape, first=500))
        if variant == "gk_mvlp":
            prompts = len(self.model.hard_negatives.prompts)
            self.batch["facts"] = torch.randint(0, 2, (studies, prompts)).to(setting.device)
        if isinstance(self.model, HardNegativeReportGenerator):
            fill(self.model.hard_negatives, config.model.hard_negatives.width, setting)
        fused = {"fused": True} if setting.is_cuda else {}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4, **fused)
        self.done = 0
        if cached:
            with torch.no_grad(), self._autocast():
                visual = self.model.encode_images(self.batch)
            self.model.encode_images = lambda batch: visual

    def __call__(self) -> None:
        """A step."""
        loss = self.loss()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def loss(self) -> Tensor:
        """Forward only."""
        self.done += 1
        with self._autocast():
            outputs = self.model._teacher_forced(self.batch)
            loss: Tensor = outputs["loss"]
            if isinstance(self.model, HardNegativeReportGenerator):
                objective = self.model.hard_negatives
                positional, named = self._given(outputs)
                loss = total_loss(objective.weights, loss, objective(*positional, **named))
        return loss

    def given_to_objective(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Its arguments of the next step."""
        with self._autocast():
            return self._given(self.model._teacher_forced(self.batch))

    def _given(self, outputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # the bank looks for neighbours once, at its second step
        progress = TrainingProgress(step=self.done, epoch=min(self.done - 1, 1), fraction=0.5)
        pairs, statements = self.model.embed(self.batch, outputs), self.model.embed_statements(self.batch, outputs)
        given: dict[str, Any] = {} if statements is None else {"statements": statements}
        if self.model.hard_negatives.reads_reports:
            given["read"] = partial(self.model.token_losses, self.batch, outputs)
        return (pairs, progress), given

    def bytes_held(self) -> int:
        """Of parameters, their gradients and the optimizer's state."""
        held = list(self.model.parameters())
        held += [p.grad for p in self.model.parameters() if p.grad is not None]
        held += [
            value for state in self.optimizer.state.values() for value in state.values() if isinstance(value, Tensor)
        ]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def _autocast(self) -> Any:
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device, dtype=dtype, enabled=self.precision != "float32")


def _built(config: Any, tokenizer: WordTokenizer, device: str) -> Any:
    make = instantiate(config.model, _partial_=True)
    try:
        with torch.device(device):  # random weights are made there, which is much faster
            model = make(tokenizer=tokenizer)
    except RuntimeError:
        model = make(tokenizer=tokenizer)
    return model.to(device).train()


def fill(objective: Any, width: int, setting: Setting) -> None:
    """Fill a queue or a bank with studies that no batch holds, but for the bank's own.

    Args:
        objective: whose source it is.
        width: of the embeddings.
        setting: for the device.
    """
    source = objective.negatives
    if not isinstance(source, Queue | Bank):
        return
    kept = 256 if setting.tiny else source.queue.size if isinstance(source, Queue) else IN_BANK
    images, reports = (normalize(torch.randn(kept, width, device=setting.device), dim=-1) for _ in range(2))
    first = 100_000 if isinstance(source, Queue) else 0
    studies = torch.arange(first, first + kept)
    if isinstance(source, Queue):
        source.queue.push(images, reports, keys_of(studies).to(setting.device))
    else:
        source.bank.write(studies.to(setting.device), keys_of(studies).to(setting.device), images, reports)
