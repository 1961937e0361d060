"""Settings of models by which transformers, timm or peft would run code that comes with a model, or fetch it."""

from collections.abc import Iterator
from typing import Any

ATTENTION = frozenset(
    ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
)
"""Implementations of transformers itself; any other name may be that of a repository whose kernel is downloaded and run."""
EXPERTS = frozenset(("eager", "batched_mm", "grouped_mm"))
CODE = {
    "allow_all_kernels": "would let kernels from anywhere run",
    "auto_map": "names code that comes with a model",
    "auto_mapping": "names a module to import",
    "download": "has weights downloaded that are unpickled",
    "custom_generate": "names code that comes with a model",
    "kernel_config": "names kernels to download",
    "megatron_config": "has a module imported",
    "megatron_core": "names a module to import",
    "trust_remote_code": "lets code that comes with a model run",
    "use_kernels": "has kernels downloaded",
}
"""By the name of a setting, what any value but null and false does."""
FILES = {
    "cache_dir": "says where downloads are written",
    "checkpoint_path": "would be read in a way that can run code",  # by timm up to 1.0.15, which unpickles it
}


def objection(name: str, value: Any) -> str | None:
    """What a setting of a model would do that no file of someone else may; None: nothing.

    Args:
        name: of the setting, without the keys above it.
        value: of the setting.

    >>> objection("_attn_implementation", "someone/kernel")
    'is no attention implementation of transformers, but may be a kernel to download'
    >>> objection("_attn_implementation", "sdpa")
    """
    if value is None or value is False:
        return None
    if name.startswith("pretrained_cfg"):
        return "says where weights are read from"
    if name in CODE or name in FILES:
        return CODE.get(name) or FILES[name]
    for kind, known in (("attn", ATTENTION), ("experts", EXPERTS)):
        if f"{kind}_implementation" in name and not set(_texts(value)) <= known:
            what = "attention" if kind == "attn" else "experts"
            return f"is no {what} implementation of transformers, but may be a kernel to download"
    return None


def without_code(config: Any) -> Any:
    """A config of transformers that was read from a folder or the hub, without names of code; the config itself is changed.

    Raises:
        ValueError: it asks for a kernel to be downloaded.
    """
    for part in _configs(config):
        part.__dict__.pop("auto_map", None)
        for name in ("_attn_implementation", "_experts_implementation"):
            value = getattr(part, name, None)
            if (reason := objection(name, value)) is not None:
                raise ValueError(f"{name} of its config is {value!r}, which {reason}")
    return config


def _configs(config: Any) -> Iterator[Any]:
    """A config and those of its parts."""
    yield config
    for value in vars(config).values():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield from _configs(value)


def _texts(value: Any) -> Iterator[Any]:
    """The values of nested mappings, null left out; what is no text as its repr."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif value is not None:
        yield value if isinstance(value, str) else repr(value)
