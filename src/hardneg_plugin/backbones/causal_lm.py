"""Any causal language model of Hugging Face transformers as a report decoder that reads the image as a prefix."""

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hardneg_plugin.backbones.bridges import make_bridge
from hardneg_plugin.backbones.causal_lm_models import (
    adapt_language_model,
    build_language_model,
    end_row_of,
    load_language_model,
    prompt_rows,
    weights_checksum,
)
from hardneg_plugin.backbones.decoder import ReportDecoder
from hardneg_plugin.backbones.decoding import Decoded, Decoding
from hardneg_plugin.backbones.generation import best_first, generation_arguments
from hardneg_plugin.backbones.huggingface_models import config_from_values, config_of, quietly, use_row_as_token_0
from hardneg_plugin.errors import UserError

CHOICES = {
    "bridge": ("linear", "mlp", "queries"),
    "adapt": ("frozen", "lora", "full"),
    "dtype": ("float32", "bfloat16"),
}


class CausalLMDecoder(ReportDecoder):
    """Llama, Qwen, Gemma, GPT-2, ...: a model of `AutoModelForCausalLM` that reads `[start, image, prompt, begin, report]`.

    Start and begin are learned vectors, at first that of the end token. Token `i` is row `i - 1` of the model's vocabulary, as in
    `HuggingFaceTokenizer`. Token 0 ends reports: the last row V of a model made here, the `eos_token_id` of a pretrained one, whose
    vocabulary stays as it is. Only the positions from begin on have a loss. Search uses the model's `generate` with its cache.

    A `state_dict` leaves out frozen weights that came from `name_or_path`: they are read from there again, and a checksum in
    `settings` tells whether they are the same. Frozen random weights are kept: another release may make others from a seed.

    Args:
        vocab_size: number of tokens V; for pretrained weights at most the model's rows.
        patch_width: width `D_v` of the patch features.
        name_or_path: a name on the hub, or a folder with a `config.json` and weights.
        config: without `name_or_path`: `model_type` and the values of its config that differ from the defaults.
        pretrained: start from the weights of `name_or_path`; False reads its config only.
        bridge: from patches to positions: "linear", "mlp", or "queries", which attend to the patches.
        queries: positions of `bridge="queries"`, >= 1.
        bridge_heads: attention heads of `bridge="queries"`.
        max_patches: learn a position for each of this many patches; None adds none to those of the model.
        prompt: between image and report: a text for the tokenizer of `name_or_path`, or rows of the vocabulary.
        before_image: rows of the vocabulary before the image; `chat` gives its own.
        chat: put image and prompt into the user's turn of the tokenizer's chat template.
        adapt: of the language model, "frozen", "lora" (needs peft) or "full".
        lora: arguments of `peft.LoraConfig`.
        dtype: of frozen pretrained weights, "float32" or "bfloat16"; what is trained is float32.
        gradient_checkpointing: compute activations of the language model again in backward.
        end_row: row of token 0; None: as above. Checkpoints set it.
        checksum: of the pretrained weights; None: not compared. Checkpoints set it.

    Raises:
        UserError: the model cannot be built or loaded, or has another vocabulary; an argument is out of range; image, prompt and
            report have more tokens than the model has positions.

    >>> config = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    ...           "num_key_value_heads": 2, "intermediate_size": 8}
    >>> decoder = CausalLMDecoder(vocab_size=20, patch_width=6, config=config)
    >>> decoder.log_probs(torch.rand(2, 4, 6), torch.tensor([[0, 5, 7, 0], [0, 3, 0, 0]])).shape
    torch.Size([2, 3, 21])
    """

    _rows: Tensor
    _is_repeated: Tensor

    def __init__(
        self,
        vocab_size: int,
        patch_width: int,
        *,
        name_or_path: str | None = None,
        config: Mapping[str, Any] | None = None,
        pretrained: bool = True,
        bridge: str = "linear",
        queries: int = 32,
        bridge_heads: int = 4,
        max_patches: int | None = None,
        prompt: str | Sequence[int] | None = None,
        before_image: Sequence[int] = (),
        chat: bool = False,
        adapt: str = "full",
        lora: Mapping[str, Any] | None = None,
        dtype: str = "float32",
        gradient_checkpointing: bool = False,
        end_row: int | None = None,
        checksum: str | None = None,
    ) -> None:
        super().__init__()
        _check_choices(bridge=bridge, adapt=adapt, dtype=dtype, queries=queries)
        is_loaded = name_or_path is not None and pretrained
        if dtype == "bfloat16" and (adapt == "full" or not is_loaded):
            raise UserError(
                "dtype=bfloat16 is for frozen pretrained weights: set adapt=frozen or adapt=lora, or leave dtype=float32 and set "
                "trainer.precision=bf16-mixed."
            )
        self.vocab_size = vocab_size
        self._checksum: str | None = None
        with quietly():
            if is_loaded:
                self.model = load_language_model(cast(str, name_or_path), vocab_size, getattr(torch, dtype))
                end_row = end_row_of(self.model, cast(str, name_or_path))
                if adapt != "full":
                    self._checksum = weights_checksum(self.model)
            else:
                values = config_from_values(config) if name_or_path is None else config_of(name_or_path)
                if end_row is None:
                    values.vocab_size, end_row = vocab_size + 1, vocab_size
                values.bos_token_id = values.eos_token_id = values.pad_token_id = end_row
                self.model = build_language_model(values)
            before, after = prompt_rows(prompt, name_or_path, chat=chat)
        if checksum is not None and self._checksum != checksum:
            raise UserError(
                f"Expected the weights of {name_or_path!r} that training started from, but they are others: the checkpoint holds "
                "only what was trained. Give the same model (backbone.name_or_path=...)."
            )
        use_row_as_token_0(self.model, end_row)
        self.width: int = self.model.config.hidden_size
        # token to row; a pretrained end token is not written a second time under its own number
        rows = torch.tensor([end_row, *range(vocab_size)])
        self.register_buffer("_rows", rows, persistent=False)
        self.register_buffer("_is_repeated", (rows == end_row) & (torch.arange(vocab_size + 1) > 0), persistent=False)
        self._before, self._after = [*before_image, *before], after
        self._check_prompt()
        adapt_language_model(self.model, adapt, lora)
        self._adapt, self._end_row, self._is_from_config = adapt, end_row, not is_loaded
        self.bridge = make_bridge(
            bridge, patch_width, self.width, queries=queries, heads=bridge_heads, max_patches=max_patches
        )
        end = self.word_embedding(torch.tensor(end_row)).detach().float()
        self.start, self.begin = nn.Parameter(end.clone()), nn.Parameter(end.clone())
        self._left_out = (
            {
                f"model.{name}"
                for name, value in self.model.named_parameters(remove_duplicate=False)
                if not value.requires_grad
            }
            if self._checksum
            else set[str]()
        )
        if gradient_checkpointing:
            with warnings.catch_warnings():  # transformers 6 renames it
                warnings.simplefilter("ignore", FutureWarning)
                self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._check_head()
        self.train()  # transformers loads models in evaluation mode

    @property
    def settings(self) -> dict[str, Any]:
        """The full config and the prompt's rows instead of a name or a folder; with frozen pretrained weights their checksum."""
        if self._checksum is not None:
            return {"checksum": self._checksum}
        return {
            "name_or_path": None,
            "config": self.model.config.to_dict(),
            "end_row": self._end_row,
            "before_image": list(self._before),
            "prompt": list(self._after),
            "chat": False,
        }

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Without frozen weights that come from a folder or a name; arguments as of `nn.Module`."""
        prefix = kwargs.get("prefix", "")
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        for name in self._left_out:
            state.pop(prefix + name, None)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        own = dict(self.named_parameters(remove_duplicate=False))
        for name in self._left_out:
            state_dict.setdefault(prefix + name, own[name].detach())
        super()._load_from_state_dict(state_dict, prefix, *arguments)

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

    def classify(self, states: Tensor) -> Tensor:
        """See `ReportDecoder`."""
        head = self.model.get_output_embeddings()
        logits = head(states.to(head.weight.dtype))
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        logits = logits[..., self._rows].float().masked_fill(self._is_repeated, torch.finfo(torch.float32).min)
        return F.log_softmax(logits, dim=-1)

    def attention_maps(self, patches: Tensor, tokens: Tensor, *, patch_mask: Tensor | None = None) -> Tensor:
        """See `ReportDecoder`: what each position of the report attends to within the image, as shares that sum to 1."""
        # on a twin that shares the weights, as eager attention and evaluation mode are set for this call only
        tensors = {id(tensor): tensor for tensor in chain(self.model.parameters(), self.model.buffers())}
        twin = copy.deepcopy(self.model, tensors).eval()
        twin.set_attn_implementation("eager")
        prefix, mask = self._prefix(patches, patch_mask)
        inputs = self._inputs(prefix, mask, tokens)
        maps = torch.stack(twin.base_model(**inputs, output_attentions=True).attentions, dim=1).float()
        first, last = 1 + len(self._before), prefix.shape[1] - 1 - len(self._after)
        to_image = self.bridge.on_patches(maps[..., prefix.shape[1] - 1 :, first:last], patches, patch_mask)
        return to_image / to_image.sum(-1, keepdim=True).clamp(min=1e-12)

    def search(self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
        """See `ReportDecoder`; by the model's `generate`."""
        prefix, mask = self._prefix(patches, patch_mask)
        self._check_length(prefix.shape[1] + decoding.max_length)
        arguments = generation_arguments(decoding, begin_tokens=0)
        arguments["logits_processor"].append(self._only_tokens)
        with quietly():
            rows = self.model.generate(
                inputs_embeds=prefix.to(self.word_embedding.weight.dtype), attention_mask=mask.long(), **arguments
            )
        tokens = torch.where(rows == self._end_row, 0, rows + 1)
        tokens = F.pad(tokens, (0, decoding.max_length - tokens.shape[1])).unflatten(0, (len(patches), -1))
        sums = [self._log_prob(patches, report, patch_mask) for report in tokens.unbind(1)]
        decoded = Decoded(tokens, torch.stack(sums, dim=1))
        return decoded if decoding.sample else best_first(decoded, decoding.length_penalty)

    def _only_tokens(self, rows: Tensor, scores: Tensor) -> Tensor:
        """Scores with padding rows of the vocabulary forbidden."""
        is_token = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
        is_token[self._rows] = True
        return scores.masked_fill(~is_token, -torch.inf)

    def _log_prob(self, patches: Tensor, tokens: Tensor, patch_mask: Tensor | None) -> Tensor:
        """Summed log-probabilities `(B,)` of tokens `(B, T)` without the begin token, including the end."""
        rows = F.pad(tokens, (1, 0))
        log_probs = self.log_probs(patches, rows, patch_mask=patch_mask).gather(2, tokens[..., None])[..., 0]
        is_counted = rows[:, :-1] > 0  # a token other than 0 is followed by a token or the end
        is_counted[:, 0] = True
        return (log_probs * is_counted).sum(1)

    def _embed(self, rows: Tensor) -> Tensor:
        embedded: Tensor = self.word_embedding(rows).to(self.start.dtype)
        return embedded

    def _prefix(self, patches: Tensor, patch_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """`[start, before, image, after, begin]`, `(B, S, width)`, and which positions there are, `(B, S)` bool."""
        image, is_image = self.bridge(patches, patch_mask)
        before, after = (
            self._embed(torch.tensor(rows, dtype=torch.long, device=patches.device)).expand(len(patches), -1, -1)
            for rows in (self._before, self._after)
        )
        start, begin = (vector.expand(len(patches), 1, -1) for vector in (self.start, self.begin))
        dtype = self.start.dtype
        prefix = torch.cat([start, before, image.to(dtype), after, begin], dim=1)
        return prefix, F.pad(is_image, (1 + len(self._before), 1 + len(self._after)), value=True)

    def _read(self, prefix: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        states: Tensor = self.model.base_model(**self._inputs(prefix, mask, tokens)).last_hidden_state
        return states[:, prefix.shape[1] - 1 :].to(self.start.dtype)

    def _inputs(self, prefix: Tensor, mask: Tensor, tokens: Tensor) -> dict[str, Any]:
        text = tokens[:, 1:-1]
        self._check_length(prefix.shape[1] + text.shape[1])
        embedded = torch.cat([prefix, self._embed(self._rows[text])], dim=1)
        mask = torch.cat([mask, text > 0], dim=1).long()
        inputs = {
            "inputs_embeds": embedded.to(self.word_embedding.weight.dtype),
            "attention_mask": mask,
            "use_cache": False,
        }
        if "position_ids" in inspect.signature(self.model.forward).parameters:  # as `generate` counts them
            inputs["position_ids"] = (mask.cumsum(1) - 1).masked_fill(mask == 0, 0)
        return inputs

    def _check_length(self, tokens: int) -> None:
        most = getattr(self.model.config, "max_position_embeddings", None)
        if most is not None and tokens > most:
            raise UserError(
                f"Expected at most {most} positions of {type(self.model).__name__} for image, prompt and report, but got {tokens}: "
                "lower data.max_length, set backbone.bridge=queries, or take a model with more positions."
            )

    def _check_prompt(self) -> None:
        rows = self.word_embedding.num_embeddings
        wrong = [row for row in (*self._before, *self._after) if not 0 <= row < rows]
        if wrong:
            raise UserError(f"prompt: expected rows in [0, {rows}) of the vocabulary, but got {wrong[0]}.")

    @torch.no_grad()
    def _check_head(self) -> None:
        """Check that logits are what `classify` makes of the last hidden states."""
        self.eval()
        tokens = torch.zeros(1, 2, dtype=torch.long)
        prefix = torch.stack([self.start, self.begin])[None]
        logits = self.model(**self._inputs(prefix, torch.ones(1, 2, dtype=torch.bool), tokens)).logits[:, -1:]
        expected = logits[..., self._rows].float().masked_fill(self._is_repeated, torch.finfo(torch.float32).min)
        if not torch.allclose(self.classify(self.text_states(tokens)), expected.log_softmax(-1), atol=1e-2):
            raise UserError(
                f"Expected a model whose head turns its last hidden states into logits, but {type(self.model).__name__} is built "
                "differently. Take a llama, qwen2, gemma or gpt2."
            )


def _check_choices(*, queries: int, **given: str) -> None:
    for name, value in given.items():
        if value not in CHOICES[name]:
            raise UserError(f"backbone.{name}: expected {', '.join(CHOICES[name])}, but got {value!r}.")
    if queries < 1:
        raise UserError(f"backbone.queries: expected a positive integer, but got {queries}.")
