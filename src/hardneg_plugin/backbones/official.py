"""Weights of the released R2Gen and R2GenCMN, to and from the decoders and ResNets of this package.

Loading copies them into views of our tensors, export copies them out of the views.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.layers import sinusoids
from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.backbones.released import listed, read_released
from hardneg_plugin.backbones.released_names import EXTRACTOR, Name, decoder_names, resnet_names
from hardneg_plugin.backbones.visual_features import ViewEncoder
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_file

Decoder = TypeVar("Decoder", R2Gen, R2GenCMN)
Extractor = ViewEncoder | GroundedVisual

_DECODER = "encoder_decoder."
_POSITIONS = 5000
"""Rows of the released position tables."""

_SIZES = {"width": "d_model", "heads": "num_heads", "layers": "num_layers", "feedforward_width": "d_ff"}
_RATES = {"dropout": "dropout", "patch_dropout": "drop_prob_lm"}
# Class, sizes of its memory (our argument: released option), and the option that must equal d_model.
_ARCHITECTURES: dict[str, tuple[type[R2Gen] | type[R2GenCMN], dict[str, str], str]] = {
    "r2gen": (R2Gen, {"memory_slots": "rm_num_slots", "memory_heads": "rm_num_heads"}, "rm_d_model"),
    "r2gencmn": (R2GenCMN, {"memory_size": "cmm_size", "topk": "topk"}, "cmm_dim"),
}
# The other options have the released values as the decoders' own defaults.
_DEFAULTS: dict[str, Any] = {"vocab_size": None, "d_vf": 2048, "d_model": 512}


def load_official(
    architecture: str, state_dict: Mapping[str, Tensor] | None, options: Mapping[str, Any]
) -> R2Gen | R2GenCMN:
    """A decoder with released weights, in evaluation mode.

    Args:
        architecture: `r2gen` or `r2gencmn`.
        state_dict: As in `load_released`; None: random weights.
        options: By released names: `vocab_size` (without token 0), `d_model`, `d_ff`, `d_vf`, `num_heads`, `num_layers`,
            `dropout`, `drop_prob_lm` (dropout of the patches), `rm_num_slots`, `rm_num_heads`, `rm_d_model`, `cmm_size`,
            `cmm_dim`, `topk`. Defaults are those released; the width of the memory defaults to `d_model`. Other options, such as
            `max_seq_length`, do not affect the weights and are ignored.

    Raises:
        UserError: If the architecture is unknown, an option is out of range, or the weights do not fit.

    >>> options = {"vocab_size": 20, "d_model": 8, "d_ff": 8, "d_vf": 6, "num_heads": 2, "num_layers": 1, "rm_num_heads": 2}
    >>> load_official("r2gen", None, options).generate(torch.rand(2, 4, 6), max_length=5).shape
    torch.Size([2, 5])
    """
    if architecture not in _ARCHITECTURES:
        raise UserError(f"Expected `architecture` to be {' or '.join(_ARCHITECTURES)}, but got `{architecture}`.")
    make, memory_sizes, memory_width = _ARCHITECTURES[architecture]
    sizes = _SIZES | memory_sizes
    chosen = {**_DEFAULTS, **options}
    for name in ("vocab_size", "d_vf", *sizes.values()):
        size = chosen.get(name, 1)
        if not isinstance(size, int) or size < 1:
            raise UserError(f"Expected the option `{name}` of {architecture} to be a positive integer, but got {size}.")
    for name in _RATES.values():
        rate = chosen.get(name, 0)
        if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise UserError(f"Expected the option `{name}` of {architecture} to be in [0, 1), but got {rate}.")
    if chosen.get(memory_width, chosen["d_model"]) != chosen["d_model"]:
        raise UserError(
            f"Expected the options `{memory_width}` and `d_model` of {architecture} to be equal, but got "
            f"{chosen[memory_width]} and {chosen['d_model']}."
        )
    arguments = {ours: chosen[released] for ours, released in (sizes | _RATES).items() if released in chosen}
    decoder = make(chosen["vocab_size"], chosen["d_vf"], **arguments).eval()
    if state_dict is not None:
        load_released(state_dict, decoder)
    return decoder


def r2gen(vocab_size: int, patch_width: int, *, checkpoint: str | None = None, **sizes: Any) -> R2Gen:
    """`R2Gen`, optionally with released weights; the `_target_` of the configs.

    Args:
        vocab_size, patch_width, sizes: Of `R2Gen`.
        checkpoint: A released `.pth` file; None: random weights.

    Raises:
        UserError: As `R2Gen`, `read_released` and `load_released`.
    """
    return _with_weights(R2Gen(vocab_size, patch_width, **sizes), checkpoint)


def r2gencmn(vocab_size: int, patch_width: int, *, checkpoint: str | None = None, **sizes: Any) -> R2GenCMN:
    """`R2GenCMN`, optionally with released weights; the `_target_` of the configs.

    Args:
        vocab_size, patch_width, sizes: Of `R2GenCMN`.
        checkpoint: A released `.pth` file; None: random weights.

    Raises:
        UserError: As `R2GenCMN`, `read_released` and `load_released`.
    """
    return _with_weights(R2GenCMN(vocab_size, patch_width, **sizes), checkpoint)


def load_released(
    state_dict: Mapping[str, Tensor],
    decoder: R2Gen | R2GenCMN,
    extractor: Extractor | None = None,
    *,
    source: str = "the released state dict",
) -> None:
    """Load released weights into a decoder and an extractor: all of them, or none if any does not fit.

    Args:
        state_dict: By full released names or those below `encoder_decoder`, with or without the `module.` of `nn.DataParallel`.
            Position tables are ignored: they are computed here.
        decoder: Takes `encoder_decoder.*`.
        extractor: Takes `visual_extractor.*`; None ignores these.
        source: Name of the state dict in error messages, for instance its file.

    Raises:
        UserError: If a tensor is missing, unexpected or of another shape, or the extractor is no plain ResNet.
    """
    views = _views(decoder, extractor)
    state = _full_names(state_dict)
    if extractor is None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(EXTRACTOR)}
    _check_fit(state, views, decoder, source)
    with torch.no_grad():
        for name, view in views.items():
            view.copy_(state[name])


def released_state(decoder: R2Gen | R2GenCMN, extractor: Extractor | None = None) -> dict[str, Tensor]:
    """A state dict that the released code loads with `strict=True`: copies on the CPU, by full released names.

    Args:
        decoder: Source of `encoder_decoder.*`, with the position tables `(1, 5000, width)`.
        extractor: Source of `visual_extractor.*`; None leaves them out.

    Raises:
        UserError: If the extractor is no plain ResNet.
    """
    state = {
        name: view.cpu().clone(memory_format=torch.contiguous_format)
        for name, view in _views(decoder, extractor).items()
    }
    embeds_patches = isinstance(decoder, R2GenCMN)  # R2Gen gives patches no position
    for table in ("model.tgt_embed.1.pe", *["model.src_embed.0.pe"] * embeds_patches):
        state[_DECODER + table] = sinusoids(torch.arange(_POSITIONS), decoder.width)[None]
    return state


def save_released(path: Path, decoder: R2Gen | R2GenCMN, extractor: Extractor | None = None) -> None:
    """Write `{"state_dict": released_state(decoder, extractor)}`, atomically.

    Args:
        path: Of the file; missing folders are created.
        decoder, extractor: As in `released_state`.

    Raises:
        UserError: If the extractor is no plain ResNet.
    """
    content = {"state_dict": released_state(decoder, extractor)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        torch.save(content, file)


def extractor_names(extractor: Extractor) -> list[Name]:
    """Every released name below `visual_extractor`, in the state dict of the extractor.

    Raises:
        UserError: If the extractor is not a plain torchvision ResNet on 3 channels with ImageNet normalisation, or is grounded.
    """
    if isinstance(extractor, GroundedVisual):
        raise UserError(
            "The decoder of objective=gk_mvlp attends to entities beside patches, which the released R2Gen and R2GenCMN do not: it "
            "can neither be written as a released file nor be replaced by one."
        )
    names = resnet_names(extractor.network, extractor.mean, extractor.std)
    return [Name(name.released, f"network.{name.ours}") for name in names]


def _with_weights(decoder: Decoder, checkpoint: str | None) -> Decoder:
    if checkpoint is not None:
        load_released(read_released(Path(checkpoint)), decoder, source=checkpoint)
    return decoder


def _views(decoder: R2Gen | R2GenCMN, extractor: Extractor | None) -> dict[str, Tensor]:
    """Views of our tensors by full released name."""
    state = decoder.state_dict()
    views = {_DECODER + name.released: state[name.ours][name.part] for name in decoder_names(decoder)}
    if extractor is not None:
        state = extractor.state_dict()
        views |= {EXTRACTOR + name.released: state[name.ours][name.part] for name in extractor_names(extractor)}
    return views


def _full_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {name.removeprefix("module."): tensor for name, tensor in state_dict.items() if not name.endswith(".pe")}
    if any(name.startswith(_DECODER) for name in state):
        return state
    return {name if name.startswith(EXTRACTOR) else _DECODER + name: tensor for name, tensor in state.items()}


def _check_fit(
    state: Mapping[str, Tensor], views: Mapping[str, Tensor], decoder: R2Gen | R2GenCMN, source: str
) -> None:
    shapes = [
        f"{name} is {tuple(state[name].shape)} instead of {tuple(view.shape)}"
        for name, view in views.items()
        if name in state and state[name].shape != view.shape
    ]
    found = {
        "missing": [name for name in views if name not in state],
        "unexpected": [name for name in state if name not in views],
        "of another shape": shapes,
    }
    if any(found.values()):
        counted = "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in found.items() if names)
        hint = ""
        logit = state.get(f"{_DECODER}logit.bias")
        if logit is not None and logit.numel() != decoder.vocab_size + 1:
            hint = (
                f" The file has {logit.numel() - 1} tokens, but this data has {decoder.vocab_size}: the vocabulary must be "
                "that of the weights, from the same training reports and threshold."
            )
        for mark, kind in (("model.rm.W.weight", R2Gen), ("memory_matrix", R2GenCMN)):
            if _DECODER + mark in state and not isinstance(decoder, kind):
                hint += f" These are weights of {kind.__name__}: choose it as the backbone."
        raise UserError(
            f"Expected weights of {type(decoder).__name__} as configured, but {source} does not fit, and nothing "
            f"was loaded: {counted}.{hint}"
        )
    # the released cross-modal memory is one module under two names: if their values differ, the file is damaged
    names: dict[int, str] = {}
    for name, view in views.items():
        first = names.setdefault(view.data_ptr(), name)
        if first != name and not state[first].equal(state[name]):
            raise UserError(f"Expected {first} and {name} to be equal, but in {source} they differ: download it again.")
