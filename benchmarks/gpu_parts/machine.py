"""The card, its drivers and packages, and its own rates."""

import importlib.metadata
import os
import platform

import torch

from gpu_parts.card import copy_rate, exact, matmul_rate
from gpu_parts.part import Rows, Setting

PACKAGES = (
    "torch", "torchvision", "pytorch-lightning", "transformers", "timm", "torchmetrics", "tokenizers", "numpy", "pillow",
    "pyarrow", "scikit-learn", "hydra-core", "omegaconf", "antlr4-python3-runtime", "pycocoevalcap", "pydicom", "filelock",
    "tensorboard", "rich", "tqdm", "jinja2", "matplotlib", "accelerate", "peft", "safetensors", "triton",
)  # fmt: skip


def run(setting: Setting, rows: Rows) -> None:
    """Facts, and the rates by which other parts are judged."""
    exact()
    with rows.row("card") as row:
        if setting.is_cuda:
            properties = torch.cuda.get_device_properties(0)
            row |= {
                "card": properties.name,
                "count": torch.cuda.device_count(),
                "gib": round(properties.total_memory / 2**30, 1),
                "capability": f"{properties.major}.{properties.minor}",
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version(),
            }
        else:
            row |= {"card": f"cpu-{platform.machine()}"}
        row |= {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    with rows.row("rates") as row:
        row["bf16_flops"] = matmul_rate(setting, torch.bfloat16)
        row["float32_flops"] = matmul_rate(setting, torch.float32)
        row["copy_bytes"] = copy_rate(setting)
    versions = {name: version(name) for name in PACKAGES}
    rows.add({"": "packages", "versions": [f"{name} {value}" for name, value in versions.items() if value]})
    rows.add({"": "missing", "versions": [name for name, value in versions.items() if not value]})


def version(name: str) -> str | None:
    """Of a package; None without it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
