"""Encoders of other packages train for an epoch by overrides alone, and see the values that they were made for."""

import json

import pytest
import torch
from transformers import Dinov2Config, SwinConfig

from hardneg_plugin.models.report_generator import ReportGenerator

CONFIGS = {
    "dinov2": Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, patch_size=16, image_size=32),
    "swin": SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[2, 2], image_size=32, patch_size=4, window_size=4),
}
THIN = [f"+visual.options.{option}" for option in ("growth_rate=4", "block_config=[1,1,1,1]", "num_init_features=8")]
IMAGENET = {
    "image_processor_type": "ViTImageProcessor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
BLACK_AND_WHITE = {"dinov2": (-2.118, 2.640), "swin": (-2.118, 2.640), "densenet": (-1024.0, 1024.0)}
"""The least and the greatest value that a network gets to see: ImageNet's mean and deviation, or TorchXRayVision's range."""


@pytest.mark.slow
@pytest.mark.parametrize("name", BLACK_AND_WHITE)
def test_an_epoch_by_overrides_alone(cli, tiny, tmp_path, name):
    if name == "densenet":
        pytest.importorskip("torchxrayvision")
        overrides = ["visual=torchxrayvision", *THIN]
    else:
        CONFIGS[name].save_pretrained(tmp_path / "encoder")
        (tmp_path / "encoder" / "preprocessor_config.json").write_text(json.dumps(IMAGENET))
        overrides = ["visual=transformers", f"visual.name_or_path={tmp_path}/encoder", "visual.pretrained=false"]
    settings = [setting for setting in tiny if not setting.startswith("visual.")]
    result = cli("hardneg-train", *settings, *overrides, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/run")
    assert result.code == 0, result.err
    assert "best.ckpt, epoch 1 of 1" in result.out
    model = ReportGenerator.from_run(tmp_path / "run")
    seen = []
    # the first convolution is what sees the image
    network = next(module for module in model.visual.modules() if isinstance(module, torch.nn.Conv2d))
    network.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    extremes = torch.tensor([0, 255], dtype=torch.uint8).repeat(32 * 16).view(1, 1, 1, 32, 32)
    model.visual(extremes)
    least, greatest = BLACK_AND_WHITE[name]
    assert seen[0].min().item() == pytest.approx(least, abs=1e-3)
    assert seen[0].max().item() == pytest.approx(greatest, abs=1e-3)
