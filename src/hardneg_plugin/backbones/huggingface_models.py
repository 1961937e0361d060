"""Models of Hugging Face transformers with cross-attention: built from a config, or loaded with their weights."""

import copy
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, cast

import torch

from hardneg_plugin.backbones.model_code import without_code
from hardneg_plugin.errors import UserError, first_line

# transformers takes seconds to import: functions import what they need of it.

INSTEAD = "Take a GPT-2, BERT, RoBERTa or BART."
"""Remedy that ends the message about an unsuitable model."""


def config_of(name_or_path: str) -> Any:
    """The config of a model on the hub or in a folder, without code that comes with it.

    Raises:
        UserError: If it cannot be loaded, or asks for a kernel to be downloaded.
    """
    from transformers import AutoConfig

    try:
        return without_code(AutoConfig.from_pretrained(name_or_path, trust_remote_code=False))
    except Exception as error:  # the hub and the readers of its files raise errors of many kinds
        raise UserError(_cannot_load(name_or_path, error)) from error


def config_from_values(values: Mapping[str, Any] | None) -> Any:
    """A config from its `model_type` and the values that differ from the defaults.

    Raises:
        UserError: If the `model_type` is missing or unknown, or its config has no such value.
    """
    from transformers import AutoConfig

    values = dict(values or {})
    model_type = values.pop("model_type", None)
    if model_type is None:
        raise UserError(
            "Expected `name_or_path` or a `config` with a `model_type`, but got neither: give a model's name or folder, "
            "or for example config={model_type: gpt2, n_layer: 2}."
        )
    try:
        defaults = AutoConfig.for_model(model_type)
    except ValueError as error:
        raise UserError(
            f"Expected `config.model_type` of transformers, such as gpt2, but got {model_type!r}."
        ) from error
    # transformers would accept them as attributes that nothing reads
    unknown = [
        name for name in values if not hasattr(defaults, name) and name not in ("is_decoder", "add_cross_attention")
    ]
    if unknown:
        raise UserError(f"config: {type(defaults).__name__} has no {', '.join(unknown)}; see its documentation.")
    try:
        return AutoConfig.for_model(model_type, **values)
    except Exception as error:  # values are checked by each config in its own way
        raise UserError(f"config: a {model_type} cannot have the values {values}: {first_line(error)}.") from error


def build(config: Any) -> Any:
    """A model with random weights.

    Raises:
        UserError: If transformers cannot build it, or it has no cross-attention.
    """
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except Exception as error:  # values are checked by each model in its own way
        raise UserError(
            f"config: a {config.model_type} cannot be built as a decoder that cross-attends: {first_line(error)}. "
            "Correct its values, or take a gpt2, bert, roberta or bart."
        ) from error
    _check_signature(model)
    return model


def load(name_or_path: str, config: Any, vocab_size: int) -> Any:
    """A pretrained model, with one more row for token 0.

    Args:
        name_or_path: A name on the hub, or a folder.
        config: Of the model, with cross-attention.
        vocab_size: Number of tokens V of the tokenizer.

    Raises:
        UserError: If weights are missing, cannot be loaded or have another vocabulary, or the model has no cross-attention.
    """
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # the hub and the readers of its files raise errors of many kinds
        raise UserError(_cannot_load(name_or_path, error)) from error
    _check_signature(model)
    # transformers leaves weights that the file lacks random; only cross-attention and head may be
    missing = [
        name
        for name in report["missing_keys"]
        if name.startswith(f"{model.base_model_prefix}.") and "cross" not in name and "encoder_attn" not in name
    ]
    if missing:
        raise UserError(
            f"Expected all weights of {name_or_path!r}, but {len(missing)} tensors of its config are missing, {missing[0]} first."
        )
    rows = model.get_input_embeddings().num_embeddings
    # rows & -rows: the largest power of two that divides them
    if not 0 <= rows - vocab_size < rows & -rows:
        raise UserError(
            f"Expected the vocabulary of {name_or_path!r}, {rows} tokens, but the tokenizer has {vocab_size}: use the "
            "model's tokenizer (tokenizer=huggingface tokenizer.name_or_path=...), or set pretrained=false."
        )
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    model.resize_token_embeddings(vocab_size + 1, mean_resizing=False)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    with torch.no_grad():
        for values in (embeddings.weight, head.weight, head.bias):
            if values is not None:
                # a random row, off the scale of the others, would be generated always or never
                values[-1] = values[:-1].mean(0)
    return model


def use_row_as_token_0(model: Any, row: int) -> None:
    """Let one row of the vocabulary, and no other, begin, end and pad reports.

    Args:
        model: a transformers decoder, changed in place.
        row: its index in the embedding, >= 0.
    """
    from transformers import GenerationConfig

    # replaces the settings that came with the model, which `generate` would fall back on
    model.generation_config = GenerationConfig(bos_token_id=row, eos_token_id=row, pad_token_id=row)
    # the model's padding token is a token like any other, and gets a gradient
    model.get_input_embeddings().padding_idx = None


def eager_twin(model: Any) -> Any:
    """A copy that shares all weights, in evaluation mode and with attention that returns its maps; the model stays as it is."""
    tensors = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, tensors).eval()
    twin.set_attn_implementation("eager")
    return twin


def first_position(model: Any) -> int:
    """The position of the first token: after the padding index in RoBERTa and relatives, else 0."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return cast(int, module.padding_idx) + 1
    return 0


def _check_signature(model: Any) -> None:
    if "encoder_hidden_states" not in inspect.signature(model.forward).parameters:
        name = type(model).__name__
        raise UserError(f"Expected a decoder that can attend to an image, but {name} has no cross-attention. {INSTEAD}")


def _cannot_load(name_or_path: str, error: Exception) -> str:
    return (
        f"Expected a Hugging Face model under {name_or_path!r}, but it could not be loaded ({first_line(error)}). "
        "Give a folder that holds a config.json and weights, or a name that is on the hub or in its local cache."
    )


@contextmanager
def quietly() -> Iterator[None]:
    """Silence the progress bars, logs and deprecations of transformers; what matters in them is checked here."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # `generate` calls it `cache` from transformers 5.24; the name that all of 5 understands is used here
            warnings.filterwarnings("ignore", "`past_key_values` is deprecated", FutureWarning)
            yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
