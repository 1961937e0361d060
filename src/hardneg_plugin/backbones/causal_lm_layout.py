"""How a causal language model reads a study: start, image, prompt and begin as a prefix, then the report."""

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.bridges import Bridge
from hardneg_plugin.backbones.decoder import ReportDecoder
from hardneg_plugin.backbones.huggingface_models import eager_twin
from hardneg_plugin.errors import UserError

CHOICES = {
    "bridge": ("linear", "mlp", "queries"),
    "adapt": ("frozen", "lora", "full"),
    "dtype": ("float32", "bfloat16"),
}


class PrefixReader(ReportDecoder):
    """A report decoder that reads `[start, before, image, after, begin, report]` with a causal language model.

    Start and begin are learned vectors, at first that of the end token. Only the positions from begin on predict the report.

    Args:
        model: of `AutoModelForCausalLM`.
        bridge: from patches to positions.
        vocab_size: number of tokens V.
        end_row: row of token 0 in the model's vocabulary; token `i` is row `i - 1`.
        before: rows before the image.
        after: rows between image and report.

    Raises:
        UserError: a row is not in the vocabulary.
    """

    _rows: Tensor

    def __init__(
        self, model: Any, bridge: Bridge, *, vocab_size: int, end_row: int, before: Sequence[int], after: Sequence[int]
    ) -> None:
        super().__init__()
        self.model, self.bridge = model, bridge
        self.vocab_size = vocab_size
        self.width: int = model.config.hidden_size
        self.register_buffer("_rows", torch.tensor([end_row, *range(vocab_size)]), persistent=False)
        self._before, self._after = list(before), list(after)
        most = self.word_embedding.num_embeddings
        wrong = [row for row in (*self._before, *self._after) if not 0 <= row < most]
        if wrong:
            raise UserError(f"prompt: expected rows in [0, {most}) of the vocabulary, but got {wrong[0]}.")
        end = self.word_embedding(torch.tensor(end_row)).detach().float()
        self.start, self.begin = nn.Parameter(end.clone()), nn.Parameter(end.clone())
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def states(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """See `ReportDecoder`; the last hidden states from begin on."""
        return self._read(*self._prefix(patches, patch_mask), tokens)

    def text_states(self, tokens: Tensor) -> Tensor:
        """See `ReportDecoder`: of `[start, begin, report]`, a pass of its own without image and prompt."""
        prefix = torch.stack([self.start, self.begin]).expand(len(tokens), -1, -1)
        return self._read(prefix, prefix.new_ones(prefix.shape[:2], dtype=torch.bool), tokens)

    @property
    def word_embedding(self) -> nn.Embedding:
        """The model's input embeddings."""
        return cast(nn.Embedding, self.model.get_input_embeddings())

    def word_embeddings(self, tokens: Tensor) -> Tensor:
        """See `ReportDecoder`."""
        return self._embed(self._rows[tokens[:, 1:]])

    def attention_maps(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """See `ReportDecoder`: the share of each patch in the attention to the image.

        With query tokens, what a position attends to through them: its shares of the tokens times theirs of the patches. All 0 in a
        layer whose sliding window no longer reaches the image.
        """
        prefix, mask = self._prefix(patches, patch_mask)
        inputs = self._inputs(prefix, mask, tokens)
        maps = torch.stack(eager_twin(self.model).base_model(**inputs, output_attentions=True).attentions, dim=1)
        first, last = 1 + len(self._before), prefix.shape[1] - 1 - len(self._after)
        of_image = maps[..., prefix.shape[1] - 1 :, first:last].float()
        to_patches = self.bridge.on_patches(of_image, patches, patch_mask)
        return to_patches / to_patches.sum(-1, keepdim=True).clamp(min=1e-12)

    def _prefix(self, patches: Tensor, patch_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """`[start, before, image, after, begin]`, `(B, S, width)`, and which positions there are, `(B, S)` bool."""
        image, is_image = self.bridge(patches, patch_mask)
        before, after = (
            self._embed(torch.tensor(rows, dtype=torch.long, device=patches.device)).expand(len(patches), -1, -1)
            for rows in (self._before, self._after)
        )
        start, begin = (vector.expand(len(patches), 1, -1) for vector in (self.start, self.begin))
        prefix = torch.cat([start, before, image.to(start.dtype), after, begin], dim=1)
        return prefix, F.pad(is_image, (1 + len(self._before), 1 + len(self._after)), value=True)

    def _embed(self, rows: Tensor) -> Tensor:
        embedded: Tensor = self.word_embedding(rows).to(self.start.dtype)
        return embedded

    def _read(self, prefix: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        states: Tensor = self.model.base_model(**self._inputs(prefix, mask, tokens)).last_hidden_state
        return states[:, prefix.shape[1] - 1 :].to(self.start.dtype)

    def _inputs(self, prefix: Tensor, mask: Tensor, tokens: Tensor) -> dict[str, Any]:
        text = tokens[:, 1:-1]
        self._check_length(prefix.shape[1] + text.shape[1])
        mask = torch.cat([mask, text > 0], dim=1).long()
        inputs = {
            "inputs_embeds": self._as_input(torch.cat([prefix, self._embed(self._rows[text])], dim=1)),
            "attention_mask": mask,
            "use_cache": False,
        }
        if self._takes_positions:  # as `generate` counts them
            inputs["position_ids"] = (mask.cumsum(1) - 1).masked_fill(mask == 0, 0)
        return inputs

    def _as_input(self, embedded: Tensor) -> Tensor:
        return embedded.to(self.word_embedding.weight.dtype)

    def _check_length(self, positions: int) -> None:
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and positions > most:
            raise UserError(
                f"Expected at most {most} positions of {type(self.model).__name__} for image, prompt and report, but got "
                f"{positions}: lower data.max_length and decoding.max_length, set backbone.bridge=queries, or take a model with "
                "more positions."
            )


def check_choices(*, queries: int, **given: str) -> None:
    """Check the settings that have few values.

    Args:
        queries: positions of `bridge="queries"`.
        given: by name, of `CHOICES`.

    Raises:
        UserError: a value is not among them.
    """
    for name, value in given.items():
        if value not in CHOICES[name]:
            raise UserError(f"backbone.{name}: expected {', '.join(CHOICES[name])}, but got {value!r}.")
    if queries < 1:
        raise UserError(f"backbone.queries: expected a positive integer, but got {queries}.")
