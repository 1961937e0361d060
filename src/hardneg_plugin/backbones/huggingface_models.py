"""Models of Hugging Face transformers that can attend to an image: built from a config, or loaded with their weights."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch

from hardneg_plugin.errors import UserError

# transformers takes seconds to import: functions import what they need of it.

INSTEAD = "Take a GPT-2, BERT, RoBERTa or BART."
"""What an error about a model that will not do ends with."""


def config_of(name_or_path: str) -> Any:
    """The config of a name on the hub or a folder."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name_or_path)
    except Exception as error:  # the hub and the readers of its files raise errors of many kinds
        raise UserError(_cannot_load(name_or_path, error)) from error


def config_from_values(values: Mapping[str, Any] | None) -> Any:
    """A config from plain values, the `model_type` among them."""
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
    # transformers would take them as attributes that nothing reads.
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
    """A model of random weights."""
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # values are checked by each model in its own way
        raise UserError(
            f"config: a {config.model_type} cannot be built as a decoder that cross-attends: {first_line(error)}. "
            "Correct its values, or take a gpt2, bert, roberta or bart."
        ) from error
    _check_signature(model)
    return model


def load(name_or_path: str, config: Any, vocab_size: int) -> Any:
    """Pretrained weights, with one more row for word 0."""
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            name_or_path, config=config, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the hub and the readers of its files raise errors of many kinds
        raise UserError(_cannot_load(name_or_path, error)) from error
    _check_signature(model)
    # What the file lacks would stay random without a word: the attention to the image may, and a head.
    missing = [
        name
        for name in report["missing_keys"]
        if name.startswith(f"{model.base_model_prefix}.") and "cross" not in name and "encoder_attn" not in name
    ]
    if missing:
        raise UserError(
            f"The weights of {name_or_path!r} lack {len(missing)} tensors of its config, {missing[0]} first."
        )
    rows = model.get_input_embeddings().num_embeddings
    # rows & -rows: the largest power of two that divides them
    if not 0 <= rows - vocab_size < rows & -rows:
        raise UserError(
            f"Expected the vocabulary of {name_or_path!r}, {rows} words, but the tokenizer has {vocab_size}: take the "
            "model's own tokenizer (tokenizer=huggingface tokenizer.name_or_path=...), or set pretrained=false."
        )
    model.resize_token_embeddings(vocab_size, mean_resizing=False)
    model.resize_token_embeddings(vocab_size + 1, mean_resizing=False)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    with torch.no_grad():
        for values in (embeddings.weight, head.weight, head.bias):
            if values is not None:
                # A random row would be off the scale of the others, and be written always or never.
                values[-1] = values[:-1].mean(0)
    return model


def make_word_0_begin_and_end(model: Any, row: int) -> None:
    """Let row `row` of the vocabulary begin, end and pad reports, and nothing else."""
    from transformers import GenerationConfig

    # No settings that came with the model: `generate` would fill in from them what a search leaves open.
    model.generation_config = GenerationConfig(bos_token_id=row, eos_token_id=row, pad_token_id=row)
    # The model's padding token is a word like any other, and has a gradient.
    model.get_input_embeddings().padding_idx = None


def first_position(model: Any) -> int:
    """RoBERTa and its kin count positions from behind their padding index, everything else from 0."""
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


def first_line(error: Exception) -> str:
    """What an error of another library says, short enough for one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(" .:")


@contextmanager
def quietly() -> Iterator[None]:
    """Without the progress bars and reports of transformers: what matters in them is checked here."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
