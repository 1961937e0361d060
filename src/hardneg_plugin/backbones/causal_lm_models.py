"""Language models of transformers without cross-attention: built, loaded, adapted, and their prompts."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from hardneg_plugin.backbones.huggingface_models import config_of
from hardneg_plugin.errors import UserError, first_line

# transformers and peft take seconds to import: functions import what they need of them.

IMAGE = "<<image>>"
"""Where a chat template puts the image; never tokenized."""


def build_language_model(config: Any) -> Any:
    """A causal language model with random weights, in float32.

    Raises:
        UserError: transformers cannot build it.
    """
    from transformers import AutoModelForCausalLM

    _check_reads_text_only(config)
    try:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # values are checked by each model in its own way
        raise UserError(
            f"config: a {config.model_type} cannot be built as a causal language model: {first_line(error)}. Correct its values, "
            "or take a llama, qwen2, gemma or gpt2."
        ) from error


def load_language_model(name_or_path: str, vocab_size: int, dtype: torch.dtype) -> Any:
    """A pretrained causal language model, its vocabulary as it is.

    Args:
        name_or_path: a name on the hub, or a folder.
        vocab_size: number of tokens V of the tokenizer.
        dtype: of the weights.

    Raises:
        UserError: it cannot be loaded, weights are missing, or the vocabulary is another.
    """
    from transformers import AutoModelForCausalLM

    config = config_of(name_or_path)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name_or_path,
            config=config,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except Exception as error:  # the hub and the readers of its files raise errors of many kinds
        raise UserError(
            f"Expected a causal language model of transformers under {name_or_path!r}, but it could not be loaded "
            f"({first_line(error)}). Give a folder that holds a config.json and weights, or a name that is on the hub or in its "
            "local cache."
        ) from error
    _check_reads_text_only(model.config)
    missing = sorted(report["missing_keys"])
    if missing:
        raise UserError(
            f"Expected all weights of {name_or_path!r}, but {len(missing)} tensors of its config are missing, {missing[0]} first."
        )
    rows = model.get_input_embeddings().num_embeddings
    if (
        not 0 <= rows - vocab_size <= max(64, vocab_size // 50)
    ):  # models pad their vocabulary, Phi-2 by 905 of 51200 rows
        raise UserError(
            f"Expected the vocabulary of {name_or_path!r}, {rows} rows, but the tokenizer has {vocab_size} tokens: use the "
            "model's tokenizer (tokenizer=huggingface tokenizer.name_or_path=...), or set pretrained=false."
        )
    return model


def _check_reads_text_only(config: Any) -> None:
    if getattr(config, "hidden_size", None) is None:
        raise UserError(
            f"Expected a language model alone, but a {config.model_type} has parts for images or sound beside it: take its text "
            "model, such as a gemma3_text for a gemma3."
        )


def end_row_of(model: Any, name_or_path: str) -> int:
    """The row of the token that ends a text of the model.

    Args:
        model: the language model.
        name_or_path: its name, for the message.

    Raises:
        UserError: its config names none.
    """
    end = model.config.eos_token_id
    end = end[0] if isinstance(end, list) and end else end
    if not isinstance(end, int) or not 0 <= end < model.get_input_embeddings().num_embeddings:
        raise UserError(
            f"Expected an eos_token_id in the config of {name_or_path!r}, which ends reports, but got {end!r}."
        )
    return end


def adapt_language_model(model: Any, adapt: str, lora: Mapping[str, Any] | None) -> None:
    """Freeze the model, or all but LoRA's adapters, which are added in place; "full" leaves it as it is.

    Args:
        model: the language model.
        adapt: "frozen", "lora" or "full".
        lora: arguments of `peft.LoraConfig`; None: `target_modules="all-linear"` and its defaults. Its `bias` trains biases, too.

    Raises:
        UserError: peft is not installed, or refuses the arguments; weights in bfloat16 would be trained.
    """
    if adapt == "full":
        return
    model.requires_grad_(False)
    if adapt == "frozen":
        return
    try:
        import peft
    except ImportError as error:
        raise UserError("adapt=lora needs peft: pip install 'hardneg-plugin[peft]'.") from error
    # GPT-2 keeps its matrices transposed
    is_transposed = any(type(module).__name__ == "Conv1D" for module in model.modules())
    options = {"target_modules": "all-linear", "fan_in_fan_out": is_transposed, **(lora or {})}
    try:
        peft.inject_adapter_in_model(peft.LoraConfig(**options), model)
    except Exception as error:  # peft checks each argument in its own way
        raise UserError(f"lora: expected arguments of peft.LoraConfig, but {first_line(error)}.") from error
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
        elif parameter.requires_grad and parameter.dtype != torch.float32:
            raise UserError(
                f"lora: {name} would be trained in bfloat16: leave out what trains it (bias), or set dtype=float32."
            )


def weights_checksum(module: nn.Module) -> str:
    """Of names, shapes and values, rounded to bfloat16: the same for a model in float32 and in bfloat16.

    Every value counts in a sum, and up to 1024 of each tensor by their place.
    """
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        bits = tensor.detach().flatten().bfloat16().view(torch.int16).cpu()
        fours = len(bits) // 4 * 4  # summed four at a time, as one integer that may overflow
        total = int(bits[:fours].view(torch.int64).sum())
        digest.update(f"{name} {tuple(tensor.shape)} {total}".encode())
        for some in (bits[:: 1 + len(bits) // 1024], bits[fours:]):
            digest.update(some.numpy().tobytes())
    return digest.hexdigest()


def prompt_rows(
    prompt: str | Sequence[int] | None, name_or_path: str | None, *, chat: bool
) -> tuple[list[int], list[int]]:
    """Rows of the vocabulary before the image, and between image and report.

    Args:
        prompt: a text for the model's own tokenizer, or rows of the vocabulary.
        name_or_path: of the model; None: it has no tokenizer.
        chat: put image and prompt into the user's turn of the tokenizer's chat template.

    Raises:
        UserError: a text without tokenizer, or no chat template.
    """
    if not chat and not isinstance(prompt, str):
        return [], list(prompt or ())
    if name_or_path is None:
        raise UserError(
            "prompt: expected rows of the vocabulary, such as [3, 14], as a language model made from a `config` has no tokenizer "
            f"of its own, but got {prompt!r} and chat={chat}."
        )
    if not isinstance(prompt, str | None):
        raise UserError(f"prompt: expected a text for chat=true, but got {prompt!r}.")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
        before, after = "", prompt or ""
        if chat:
            turn = [{"role": "user", "content": f"{IMAGE}{after}"}]
            text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
            if text.count(IMAGE) != 1:
                raise ValueError(f"the template shows the user's turn {text.count(IMAGE)} times")
            before, after = text.split(IMAGE)
        rows = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, after)]
        return rows[0], rows[1]
    except Exception as error:  # readers of its files and templates raise errors of many kinds
        raise UserError(
            f"prompt: expected a tokenizer{' with a chat template' if chat else ''} under {name_or_path!r}, but "
            f"{first_line(error)}."
        ) from error
