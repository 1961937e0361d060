"""A report generator as a folder that holds all of it and no code: weights, settings, tokenizer, preprocessing and a card."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.data.tokenizer import Tokenizer, tokenizer_from_state
from hardneg_plugin.errors import UserError, first_line
from hardneg_plugin.files import read_json, whole_text_file, write_json
from hardneg_plugin.runs.checkpoint import HOST
from hardneg_plugin.runs.inference_model import PARTS
from hardneg_plugin.runs.provenance import DISTRIBUTION, versions
from hardneg_plugin.runs.trusted import INSTEAD, check_trusted

VERSION = 1
CONFIG, PREPROCESSING, WEIGHTS, CARD = "config.json", "preprocessor_config.json", "model.safetensors", "README.md"
TOKENIZERS = {"words": "vocabulary.json", "huggingface": "tokenizer.json"}
"""The file of each kind of tokenizer: our vocabulary and its cleaning, or what `tokenizers` writes."""
FILES = (CONFIG, PREPROCESSING, WEIGHTS, CARD, *TOKENIZERS.values())
OURS = tuple(f"hardneg_plugin.{room}." for room in ("backbones", "grounding", "knowledge", "data.phantom"))
"""Where the classes are that a folder may name."""
_REFUSED = "An exported folder has plain values and parts of a report generator of ours only: get it from elsewhere."
_OF_GENERATOR = ("visual.", "decoder.", "entity_projection.")
_ELSEWHERE = ("name_or_path", "weights", "checkpoint")
"""Settings by which a part would read files beside the folder, as it would by `pretrained` and a name of timm with a colon."""


def weights_of(model: Any) -> dict[str, Tensor]:
    """The weights that writing reports needs, each once, on the CPU: none of the objective and of the optimizer.

    Args:
        model: the `ReportGenerator`.
    """
    left_out = {f"decoder.{name}": value for name, value in model.decoder.left_out_weights().items()}
    weights: dict[str, Tensor] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, value in {**model.state_dict(), **left_out}.items():
        place = (value.data_ptr(), value.dtype, value.shape, value.stride())
        if not name.startswith(_OF_GENERATOR) or (value.numel() and place in seen):
            continue
        seen.add(place)
        weights[name] = value.detach().cpu().contiguous()
    return weights


def write_files(folder: Path, model: Any, settings: Mapping[str, Any], card: str) -> None:
    """Write all files into a folder that is there.

    Args:
        folder: the folder.
        model: the `ReportGenerator`.
        settings: the config that rebuilds it, of `PARTS`.
        card: the text of README.md.

    Raises:
        UserError: what the settings name is not ours, or the tokenizer is of no kind that can be written.
        OSError: a file cannot be written.
    """
    _check_settings(settings, "settings of the model")
    state = model.tokenizer.state()
    if (kind := state.get("kind")) not in TOKENIZERS:
        raise UserError(
            f"Expected a tokenizer of kind {' or '.join(TOKENIZERS)}, but got {kind!r}: it cannot be read back."
        )
    config = {
        "library_name": DISTRIBUTION,
        "format_version": VERSION,
        "architectures": ["ReportGenerator"],
        **settings,
        "decoding": asdict(model.decoding),
        "tokenizer": kind,
        "versions": versions(),
    }
    write_json(folder / CONFIG, config)
    write_json(folder / PREPROCESSING, _preprocessing(model))
    if kind == "huggingface":
        with whole_text_file(folder / TOKENIZERS[kind]) as file:
            file.write(state["json"])
    else:
        write_json(folder / TOKENIZERS[kind], {name: value for name, value in state.items() if name != "kind"})
    try:
        safetensors.torch.save_file(weights_of(model), str(folder / WEIGHTS), metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # which it makes of a full disk
        raise OSError(first_line(error)) from error
    # safetensors 0.8 writes what nobody else may read, whatever the umask
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)
    with whole_text_file(folder / CARD) as file:
        file.write(card)


def is_exported(folder: Path) -> bool:
    """Whether a folder has what `write_files` writes, rather than a run.

    >>> is_exported(Path("outputs/mine"))
    False
    """
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def read_files(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The `ReportGenerator` of a folder, in evaluation mode on the CPU, and the settings that rebuild it.

    Raises:
        UserError: the folder was not written by `write_files`, is damaged or of another version, or names what is not ours.
    """
    config = _read_config(folder)
    settings = {name: config[name] for name in PARTS if name in config}
    _check_settings(settings, str(folder / CONFIG))
    tokenizer = _read_tokenizer(folder, config.get("tokenizer"))
    model = _build(settings, config.get("decoding"), tokenizer, folder / CONFIG)
    _load_weights(model, folder / WEIGHTS)
    _use_preprocessing(model, folder / PREPROCESSING)
    return model.eval(), settings


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a folder's file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return dict(safetensors.torch.load_file(str(file)))
    except Exception as error:  # a damaged or missing file makes the reader raise errors of its own and OSError
        raise UserError(f"Expected the weights of a report generator in {file}, but {first_line(error)}.") from error


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        is_run = (folder / "config.yaml").is_file()
        remedy = (
            "It is the folder of a run: take from_run, or write one of it by hardneg-export RUN format=hub output=FOLDER."
            if is_run
            else "hardneg-export RUN format=hub output=FOLDER writes one."
        )
        raise UserError(f"Expected the folder of an exported report generator, but {folder} has no {CONFIG}. {remedy}")
    config = read_json(file, "config")
    if not isinstance(config, dict) or config.get("library_name") != DISTRIBUTION:
        raise UserError(
            f"Expected the folder of an exported report generator, but {file} is not one of {DISTRIBUTION}: the model is of "
            "another library."
        )
    if config.get("format_version") != VERSION:
        raise UserError(
            f"Expected a folder of version {VERSION}, but {file} says {config.get('format_version')!r}. Install the "
            f"{DISTRIBUTION} that wrote it, or export the run again."
        )
    return config


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    """Check that settings name our classes only, and no file beside the folder.

    Raises:
        UserError: with the key.
    """
    try:
        check_trusted(settings, where)
    except UserError as error:  # which says how to trust a run
        raise UserError(f"{str(error).removesuffix(INSTEAD)}{_REFUSED}") from error
    for key, name, value in _values(settings):
        if name == "_target_" and not str(value).startswith(OURS):
            raise UserError(f"{where}: {key} is {value!r}. {_REFUSED}")
        if (name in _ELSEWHERE and value is not None) or (
            key in ("visual.pretrained", "visual.name") and (value is True or ":" in str(value))
        ):
            raise UserError(f"{where}: {key} is {value!r}, but an exported folder holds all that the model needs.")


def _values(node: Any, key: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every value at any depth, with its key and the end of it."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    for name, value in items:
        yield f"{key}{name}", str(name), value
        yield from _values(value, f"{key}{name}.")


def _read_tokenizer(folder: Path, kind: Any) -> Tokenizer:
    if kind not in TOKENIZERS:
        raise UserError(f"{folder / CONFIG}: expected a tokenizer {' or '.join(TOKENIZERS)}, but got {kind!r}.")
    file = folder / TOKENIZERS[kind]
    content = read_json(file, "tokenizer")
    try:
        if kind == "huggingface":
            return tokenizer_from_state({"kind": kind, "json": file.read_text(encoding="utf-8")})
        return tokenizer_from_state({**content, "kind": kind})
    except Exception as error:  # a foreign file can make the tokenizers raise anything
        raise UserError(f"Expected a tokenizer in {file}, but it cannot be read ({first_line(error)}).") from error


def _build(settings: Mapping[str, Any], decoding: Any, tokenizer: Tokenizer, file: Path) -> Any:
    try:
        make = instantiate(OmegaConf.create({**settings, "_target_": HOST}), _partial_=True)
        return make(tokenizer=tokenizer, optimizer=torch.optim.AdamW, decoding=Decoding(**decoding))
    except Exception as error:  # settings of another version are refused by each class in its own way
        reason = next((cause for cause in _causes(error) if isinstance(cause, UserError)), error.__cause__ or error)
        raise UserError(
            f"{file}: this version of {DISTRIBUTION} cannot build the model ({first_line(reason)}). config.json lists the versions "
            "that wrote it."
        ) from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _load_weights(model: Any, file: Path) -> None:
    if not file.is_file():
        raise UserError(
            f"Expected the weights of the model in {file}, but there is no such file. Copy the folder again."
        )
    try:
        safetensors.torch.load_model(model, str(file))
    except Exception as error:  # as in `read_weights`, and a RuntimeError for other names or shapes
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{file} does not fit the model of {CONFIG} beside it, or is damaged: {reason}") from error


def _extractor(model: Any) -> Any:
    return model.visual.extractor if isinstance(model.visual, GroundedVisual) else model.visual


def _preprocessing(model: Any) -> dict[str, Any]:
    """What `generate` does to an image, under the names that image processors of transformers have for it."""
    if model.image_size is None:
        raise UserError("Expected `image_size` to be set, but it is None: set it to the size of the training images.")
    extractor = _extractor(model)
    return {
        "do_resize": True,
        "size": {"height": model.image_size, "width": model.image_size},
        "resample": 2,  # bilinear, antialiased
        "do_rescale": False,  # pixels are gray values from 0 to 255
        "do_normalize": True,
        "image_mean": extractor.mean.flatten().tolist(),
        "image_std": extractor.std.flatten().tolist(),
    }


def _use_preprocessing(model: Any, file: Path) -> None:
    """Set the size of images and their normalisation as a file has it: another timm may have other numbers."""
    content, extractor = read_json(file, "preprocessing"), _extractor(model)
    try:
        height, width = content["size"]["height"], content["size"]["width"]
        if type(height) is not int or height < 1 or height != width:
            raise ValueError(f"size: expected a square of pixels, but got {height!r} x {width!r}")
        for name in ("mean", "std"):
            values, buffer = torch.tensor(content[f"image_{name}"]), getattr(extractor, name)
            if values.shape != (len(buffer),):
                raise ValueError(f"image_{name}: expected {len(buffer)} numbers, but got {content[f'image_{name}']!r}")
            buffer.copy_(values.view_as(buffer))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # RuntimeError: of torch, about what is no number
        raise UserError(
            f"Expected the size of images and their normalisation in {file}, but {first_line(error)}."
        ) from error
    model.image_size = height
