"""Any causal language model of Hugging Face transformers as a report decoder that reads the image as a prefix."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from hardneg_plugin.backbones.bridges import make_bridge
from hardneg_plugin.backbones.causal_lm_layout import PrefixReader, check_choices
from hardneg_plugin.backbones.causal_lm_models import (
    adapt_language_model,
    build_language_model,
    end_row_of,
    load_language_model,
    prompt_rows,
    weights_checksum,
)
from hardneg_plugin.backbones.decoding import Decoded, Decoding
from hardneg_plugin.backbones.generation import decode_by_generate
from hardneg_plugin.backbones.huggingface_models import config_from_values, config_of, quietly, use_row_as_token_0
from hardneg_plugin.errors import UserError


class CausalLMDecoder(PrefixReader):
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
        check_choices(bridge=bridge, adapt=adapt, dtype=dtype, queries=queries)
        is_loaded = name_or_path is not None and pretrained
        if dtype == "bfloat16" and (adapt == "full" or not is_loaded):
            raise UserError(
                "dtype=bfloat16 is for frozen pretrained weights: set adapt=frozen or adapt=lora, or leave dtype=float32 and set "
                "trainer.precision=bf16-mixed."
            )
        found = None
        with quietly():
            if is_loaded:
                model = load_language_model(cast(str, name_or_path), vocab_size, getattr(torch, dtype))
                end_row = end_row_of(model, cast(str, name_or_path))
                if adapt != "full":
                    found = weights_checksum(model)
            else:
                values = config_from_values(config) if name_or_path is None else config_of(name_or_path)
                if end_row is None:
                    values.vocab_size, end_row = vocab_size + 1, vocab_size
                values.bos_token_id = values.eos_token_id = values.pad_token_id = end_row
                model = build_language_model(values)
            before, after = prompt_rows(prompt, name_or_path, chat=chat)
        if checksum is not None:
            _check_same(checksum, found, name_or_path)
        use_row_as_token_0(model, end_row)
        adapt_language_model(model, adapt, lora)
        made = make_bridge(
            bridge, patch_width, model.config.hidden_size, queries=queries, heads=bridge_heads, max_patches=max_patches
        )
        super().__init__(
            model, made, vocab_size=vocab_size, end_row=end_row, before=[*before_image, *before], after=after
        )
        self._name_or_path, self._end_row, self._checksum = name_or_path, end_row, found
        # a pretrained end token is not written a second time under its own number
        is_repeated = (self._rows == end_row) & (torch.arange(vocab_size + 1) > 0)
        self.register_buffer("_is_repeated", is_repeated, persistent=False)
        parameters = model.named_parameters(remove_duplicate=False) if found else ()
        self._left_out = {f"model.{name}" for name, value in parameters if not value.requires_grad}
        if gradient_checkpointing:
            with warnings.catch_warnings():  # transformers 6 renames it
                warnings.simplefilter("ignore", FutureWarning)
                model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._check_head()
        self.train()  # transformers loads models in evaluation mode

    @property
    def settings(self) -> dict[str, Any]:
        """The full config and the prompt's rows instead of a name or a folder; with frozen pretrained weights their checksum."""
        return self._rebuilding if self._checksum is None else {"checksum": self._checksum}

    @property
    def complete_settings(self) -> dict[str, Any]:
        """See `ReportDecoder`: the full config and the prompt's rows, for frozen pretrained weights too."""
        if next(self.model.parameters()).dtype != torch.float32:
            raise UserError(
                "Expected weights in float32, but the frozen ones are in bfloat16, in which no model is built from a config: train "
                "with backbone.dtype=float32 to write it as a folder of its own."
            )
        return self._rebuilding

    def left_out_weights(self) -> dict[str, Tensor]:
        """See `ReportDecoder`: the frozen pretrained ones."""
        own = dict(self.named_parameters(remove_duplicate=False))
        return {name: own[name].detach() for name in self._left_out}

    @property
    def _rebuilding(self) -> dict[str, Any]:
        return {
            "name_or_path": None,
            "config": self.model.config.to_dict(),
            "end_row": self._end_row,
            "before_image": list(self._before),
            "prompt": list(self._after),
            "chat": False,
        }

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """See `ReportDecoder`: that frozen weights are those of the checkpoint."""
        if "checksum" in settings:
            _check_same(settings["checksum"], self._checksum, self._name_or_path)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Without frozen weights that come from a folder or a name; arguments as of `nn.Module`."""
        prefix = kwargs.get("prefix", "")
        state: dict[str, Any] = super().state_dict(*args, **kwargs)
        for name in self._left_out:
            state.pop(prefix + name, None)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        for name, value in self.left_out_weights().items():
            state_dict.setdefault(prefix + name, value)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def classify(self, states: Tensor) -> Tensor:
        """See `ReportDecoder`."""
        logits = self._logits(states).float().masked_fill(self._is_repeated, torch.finfo(torch.float32).min)
        return F.log_softmax(logits, dim=-1)

    def search(self, patches: Tensor, decoding: Decoding, *, patch_mask: Tensor | None = None) -> Decoded:
        """See `ReportDecoder`; by the model's `generate`."""
        prefix, mask = self._prefix(patches, patch_mask)
        self._check_length(prefix.shape[1] + decoding.max_length - 1)  # the last token is not read
        head = self.model.get_output_embeddings().weight
        is_token = torch.zeros(len(head), dtype=torch.bool, device=head.device)
        is_token[self._rows] = True  # others pad the vocabulary
        inputs = {"inputs_embeds": self._as_input(prefix), "attention_mask": mask.long()}
        return decode_by_generate(self.model, decoding, inputs, end_row=self._end_row, is_token=is_token)

    def _logits(self, states: Tensor) -> Tensor:
        """Of tokens 0 to V, `(..., V + 1)`."""
        head = self.model.get_output_embeddings()
        logits: Tensor = head(states.to(head.weight.dtype))
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits[..., self._rows]

    @torch.no_grad()
    def _check_head(self) -> None:
        """Check that logits are what `_logits` makes of the last hidden states."""
        self.eval()
        # not start and begin: those of a new model are the embedding of padding, zero, and so would be its logits
        prefix = torch.randn(1, 2, self.width, generator=torch.Generator().manual_seed(0))
        inputs = self._inputs(prefix, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.long))
        found = self._logits(self.model.base_model(**inputs).last_hidden_state)
        expected = self.model(**inputs).logits[..., self._rows]
        # the same products in the same type, so they differ by rounding at most; random weights give small logits, of which a
        # scale or a bias changes little: relative to the largest
        share = max(1e-4, 2 * torch.finfo(found.dtype).eps)
        if not (found - expected).abs().max() <= share * expected.abs().max():
            raise UserError(
                "Expected a model whose head alone turns its last hidden states into logits, but "
                f"{type(self.model).__name__} is built differently. Take a llama, qwen2, gemma or gpt2."
            )


def _check_same(checksum: str, found: str | None, name_or_path: str | None) -> None:
    """Check the checksum of the frozen weights of a model against that of a checkpoint."""
    if found is None:
        raise UserError(
            "Expected a pretrained language model with adapt=frozen or lora, as the checkpoint leaves out its frozen weights, but "
            "this one has none: set backbone.name_or_path and backbone.adapt as in training."
        )
    if found != checksum:
        raise UserError(
            f"Expected the weights of {name_or_path!r} that training started from, but they are others: the checkpoint holds only "
            "what was trained. Give the same model (backbone.name_or_path=...)."
        )
