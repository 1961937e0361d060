"""Weights of the released R2Gen and R2GenCMN, to and from the decoders and ResNets of this package.

One table per architecture pairs released names with ours; it is read in both directions. A released name stands for a view
of one of our tensors, as R2Gen's conditional norms are fused here: loading copies into the views, exporting copies them out.
"""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hardneg_plugin.backbones.grounded import GroundedVisual
from hardneg_plugin.backbones.layers import sinusoids
from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.backbones.released import EXTRACTOR, Name, listed, read_released, resnet_names, spelt_out
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_file

# Released module or parameter, ours; `{}` is the index of a layer.
_COMMON = {
    "att_embed.0": "project.0",
    "logit": "output",
    "model.tgt_embed.0.lut": "embedding",
    "model.encoder.layers.{}.self_attn": "encoder.{}.self_attention",
    "model.encoder.layers.{}.feed_forward.w_1": "encoder.{}.feedforward.0",
    "model.encoder.layers.{}.feed_forward.w_2": "encoder.{}.feedforward.3",
    "model.encoder.layers.{}.sublayer.0.norm": "encoder.{}.self_norm",
    "model.encoder.layers.{}.sublayer.1.norm": "encoder.{}.feedforward_norm",
    "model.encoder.norm": "encoder_norm",
    "model.decoder.layers.{}.self_attn": "decoder.{}.self_attention",
    "model.decoder.layers.{}.src_attn": "decoder.{}.image_attention",
    "model.decoder.layers.{}.feed_forward.w_1": "decoder.{}.feedforward.0",
    "model.decoder.layers.{}.feed_forward.w_2": "decoder.{}.feedforward.3",
    "model.decoder.norm": "decoder_norm",
}
_R2GEN = {
    **_COMMON,
    "model.rm.attn": "memory.attention",
    "model.rm.mlp": "memory.mlp",
    "model.rm.W": "memory.word_gates",
    "model.rm.U": "memory.memory_gates",
}
_R2GENCMN = {
    **_COMMON,
    **{f"model.decoder.layers.{{}}.sublayer.{index}.norm": f"norms.{{}}.{index}" for index in range(3)},
    "memory_matrix": "memory.matrix",
    # One module under two names.
    **{
        f"{cmn}.linears.{index}": f"memory.{projection}"
        for cmn in ("cmn", "model.cmn")
        for index, projection in enumerate(("query", "key", "value", "output"))
    },
}
# Within the modules above.
_PROJECTIONS = {"query": "linears.0", "key": "linears.1", "value": "linears.2", "output": "linears.3"}
_R2GEN_LEAVES = {**_PROJECTIONS, "gain": "gamma", "shift": "beta"}
_R2GENCMN_LEAVES = {**_PROJECTIONS, "gain": "a_2", "shift": "b_2"}

Decoder = TypeVar("Decoder", R2Gen, R2GenCMN)

_DECODER = "encoder_decoder."
_POSITIONS = 5000
"""Rows of the released position tables."""

_SIZES = {"width": "d_model", "heads": "num_heads", "layers": "num_layers", "feedforward_width": "d_ff"}
_RATES = {"dropout": "dropout", "patch_dropout": "drop_prob_lm"}
# Class, sizes of its memory (our argument, released one), and the width that must be d_model.
_ARCHITECTURES: dict[str, tuple[type[R2Gen] | type[R2GenCMN], dict[str, str], str]] = {
    "r2gen": (R2Gen, {"memory_slots": "rm_num_slots", "memory_heads": "rm_num_heads"}, "rm_d_model"),
    "r2gencmn": (R2GenCMN, {"memory_size": "cmm_size", "topk": "topk"}, "cmm_dim"),
}
_DEFAULTS: dict[str, Any] = {
    "d_model": 512,
    "d_ff": 512,
    "d_vf": 2048,
    "num_heads": 8,
    "num_layers": 3,
    "dropout": 0.1,
    "drop_prob_lm": 0.5,
    "rm_num_slots": 3,
    "rm_num_heads": 8,
    "topk": 32,
    "cmm_size": 2048,
}


def load_official(
    architecture: str, state_dict: Mapping[str, Tensor] | None, options: Mapping[str, Any]
) -> R2Gen | R2GenCMN:
    """A decoder with released weights, in evaluation mode.

    Args:
        architecture: `r2gen` or `r2gencmn`.
        state_dict: As `load_released` takes it; None leaves the weights fresh.
        options: By the released argument names: `vocab_size` (words, without word 0), `d_model`, `d_ff`, `d_vf`,
            `num_heads`, `num_layers`, `dropout`, `drop_prob_lm` (dropout of the patches), `rm_num_slots`,
            `rm_num_heads`, `rm_d_model`, `cmm_size`, `cmm_dim`, `topk`. Absent ones are as released, and the width of
            the memory as `d_model`; others have no say in the weights and are ignored, `max_seq_length` among them.

    Raises:
        UserError: If there is no such architecture, an option is out of range, or the weights do not fit.
    """
    if architecture not in _ARCHITECTURES:
        raise UserError(f"Expected `architecture` to be {' or '.join(_ARCHITECTURES)}, but got `{architecture}`.")
    make, memory_sizes, memory_width = _ARCHITECTURES[architecture]
    sizes = _SIZES | memory_sizes
    chosen = {**_DEFAULTS, **options}
    for name in ("vocab_size", "d_vf", *sizes.values()):
        size = chosen.get(name)
        if not isinstance(size, int) or size < 1:
            raise UserError(
                f"Expected the option `{name}` of {architecture} to be a whole number from 1, but got {size}."
            )
    for name in _RATES.values():
        if not isinstance(chosen[name], (int, float)) or not 0 <= chosen[name] < 1:
            raise UserError(
                f"Expected the option `{name}` of {architecture} to be at least 0 and below 1, but got {chosen[name]}."
            )
    if chosen.get(memory_width, chosen["d_model"]) != chosen["d_model"]:
        raise UserError(
            f"Expected the options `{memory_width}` and `d_model` of {architecture} to be the same, but got "
            f"{chosen[memory_width]} and {chosen['d_model']}."
        )
    arguments = {ours: chosen[released] for ours, released in (sizes | _RATES).items()}
    decoder = make(chosen["vocab_size"], chosen["d_vf"], **arguments).eval()
    if state_dict is not None:
        load_released(state_dict, decoder)
    return decoder


def r2gen(vocab_size: int, patch_width: int, *, checkpoint: str | None = None, **sizes: Any) -> R2Gen:
    """`R2Gen`, with the weights of a released `.pth` file if one is given: what the configs call.

    Raises:
        UserError: As `R2Gen`, `read_released` and `load_released`.
    """
    return _with_weights(R2Gen(vocab_size, patch_width, **sizes), checkpoint)


def r2gencmn(vocab_size: int, patch_width: int, *, checkpoint: str | None = None, **sizes: Any) -> R2GenCMN:
    """`R2GenCMN`, with the weights of a released `.pth` file if one is given: what the configs call.

    Raises:
        UserError: As `R2GenCMN`, `read_released` and `load_released`.
    """
    return _with_weights(R2GenCMN(vocab_size, patch_width, **sizes), checkpoint)


def load_released(
    state_dict: Mapping[str, Tensor],
    decoder: R2Gen | R2GenCMN,
    extractor: VisualExtractor | GroundedVisual | None = None,
    *,
    source: str = "the released state dict",
) -> None:
    """Put released weights into a decoder and an extractor: all of them, or none if anything does not fit.

    Args:
        state_dict: By full released names, or by those below `encoder_decoder`; each may stand below `module`, as
            `nn.DataParallel` leaves it. Position tables are ignored: they are computed here.
        decoder: What `encoder_decoder.*` goes into.
        extractor: What `visual_extractor.*` goes into; None ignores that.
        source: What an error calls the state dict, for instance its file.

    Raises:
        UserError: If a name is missing, unexpected or of another shape, or the extractor is no plain ResNet.
    """
    views = _views(decoder, extractor)
    state = _full_names(state_dict)
    if extractor is None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(EXTRACTOR)}
    _check_fit(state, views, decoder, source)
    with torch.no_grad():
        for name, view in views.items():
            view.copy_(state[name])


def released_state(
    decoder: R2Gen | R2GenCMN, extractor: VisualExtractor | GroundedVisual | None = None
) -> dict[str, Tensor]:
    """A state dict that the released code loads strictly: copies on the CPU, by full released names.

    Args:
        decoder: Gives `encoder_decoder.*`, with the position tables `(1, 5000, width)`.
        extractor: Gives `visual_extractor.*`; None leaves them out.

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


def save_released(
    path: Path, decoder: R2Gen | R2GenCMN, extractor: VisualExtractor | GroundedVisual | None = None
) -> None:
    """Write `{"state_dict": released_state(decoder, extractor)}`: under its name stands a whole file or what was before.

    Raises:
        UserError: If the extractor is no plain ResNet.
    """
    content = {"state_dict": released_state(decoder, extractor)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        torch.save(content, file)


def decoder_names(decoder: R2Gen | R2GenCMN) -> list[Name]:
    """Every released name below `encoder_decoder` but the position tables; together they stand for every parameter.

    Raises:
        UserError: If the decoder is neither R2Gen nor R2GenCMN.
    """
    if isinstance(decoder, R2Gen):
        layers = len(decoder.decoder)
        return spelt_out(decoder, _R2GEN, _R2GEN_LEAVES, layers) + _conditional_names(layers, decoder.width)
    if isinstance(decoder, R2GenCMN):
        return spelt_out(decoder, _R2GENCMN, _R2GENCMN_LEAVES, len(decoder.decoder))
    raise UserError(f"Expected R2Gen or R2GenCMN, as released weights are of those, but got {type(decoder).__name__}.")


def extractor_names(extractor: VisualExtractor | GroundedVisual) -> list[Name]:
    """Every released name below `visual_extractor`, in the state dict of the extractor.

    Raises:
        UserError: If the extractor is no plain ResNet as torchvision has it, on 3 channels normalised as for ImageNet; or it
            looks for entities.
    """
    if isinstance(extractor, GroundedVisual):
        raise UserError(
            "The released R2Gen and R2GenCMN read patches alone, but a decoder of objective=gk_mvlp also reads what was found of "
            "entities: it can neither be written as a released file nor be replaced by one."
        )
    names = resnet_names(extractor.network, extractor.mean, extractor.std)
    return [Name(name.released, f"network.{name.ours}") for name in names]


def _with_weights(decoder: Decoder, checkpoint: str | None) -> Decoder:
    if checkpoint is not None:
        load_released(read_released(Path(checkpoint)), decoder, source=checkpoint)
    return decoder


def _conditional_names(layers: int, width: int) -> list[Name]:
    """R2Gen's conditional norms, which `ConditionalNorms` holds in five tensors."""
    norms = [f"model.decoder.layers.{layer}.sublayer.{index}.norm" for layer in range(layers) for index in range(3)]
    names = []
    for index, (norm, affine) in enumerate(product(norms, ("gamma", "beta"))):
        rows = slice(index * width, (index + 1) * width)
        names += [
            Name(f"{norm}.{affine}", "norms.affine", rows),
            Name(f"{norm}.mlp_{affine}.0.weight", "norms.first.weight", rows),
            Name(f"{norm}.mlp_{affine}.0.bias", "norms.first.bias", rows),
            Name(f"{norm}.mlp_{affine}.2.weight", "norms.second_weight", index),
            Name(f"{norm}.mlp_{affine}.2.bias", "norms.second_bias", rows),
        ]
    return names


def _views(decoder: R2Gen | R2GenCMN, extractor: VisualExtractor | GroundedVisual | None) -> dict[str, Tensor]:
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
                f" The file has {logit.numel() - 1} words, this data gives {decoder.vocab_size}: the vocabulary must be "
                "the one of the weights, from the same training reports and threshold."
            )
        for mark, kind in (("model.rm.W.weight", R2Gen), ("memory_matrix", R2GenCMN)):
            if _DECODER + mark in state and not isinstance(decoder, kind):
                hint += f" These are weights of {kind.__name__}: choose it as the decoder."
        raise UserError(
            f"Expected weights of {type(decoder).__name__} as it is configured, but {source} does not fit, and nothing "
            f"was loaded: {counted}.{hint}"
        )
    # The released cross-modal memory is one module under two names: other values under each are a damaged file.
    names: dict[int, str] = {}
    for name, view in views.items():
        first = names.setdefault(view.data_ptr(), name)
        if first != name and not state[first].equal(state[name]):
            raise UserError(
                f"Expected {first} and {name} to be the same, but in {source} they differ: get it once more."
            )
