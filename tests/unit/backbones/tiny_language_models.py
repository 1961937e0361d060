"""Tiny causal language models with random weights, made here or saved as the hub has them."""

from pathlib import Path

import torch
from torch import Tensor

from hardneg_plugin.backbones.causal_lm import CausalLMDecoder

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
}
CONFIGS = {
    "llama": {"model_type": "llama", **SIZES},
    "qwen3": {"model_type": "qwen3", "head_dim": 8, **SIZES},
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2},
    "gemma2": {"model_type": "gemma2", "head_dim": 8, **SIZES},  # caps its logits
}
TOKENS = torch.tensor([[0, 3, 1, 6, 2, 0, 0], [0, 5, 0, 0, 0, 0, 0], [0, 1, 1, 4, 3, 6, 0]])
PATCH_MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]]).bool()  # none counts as all
BRIDGES = {"linear": {}, "mlp": {"prompt": [2, 5]}, "queries": {"queries": 3, "bridge_heads": 2, "before_image": [1]}}


def make(
    family: str = "llama", bridge: str = "linear", vocab_size: int = 6, seed: int = 0, **options
) -> CausalLMDecoder:
    torch.manual_seed(seed)
    options = {"config": CONFIGS[family], "bridge": bridge, **BRIDGES[bridge], **options}
    decoder = CausalLMDecoder(vocab_size, 5, **options)
    if options.get("name_or_path") is None:
        decoder.model.get_input_embeddings().weight.data.mul_(20.0)  # away from nearly equal logits
    return decoder


def save(folder: Path, family: str = "llama", rows: int = 8, **values) -> Path:
    """A language model as the hub has them: end token 1, and a row more than the tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**{**CONFIGS[family], "vocab_size": rows, "eos_token_id": 1, **values})
    torch.manual_seed(5)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def log_prob_of(
    decoder: CausalLMDecoder, patches: Tensor, report: list[int], patch_mask: Tensor | None = None
) -> float:
    """Of a report of one study, by teacher forcing: its tokens, and the end where it has one."""
    rows = torch.tensor([[0, *report]])
    log_probs = decoder.log_probs(patches[None], rows, patch_mask=None if patch_mask is None else patch_mask[None])[0]
    counted = report[: report.index(0) + 1] if 0 in report else report
    return sum(float(log_probs[position, token]) for position, token in enumerate(counted))
