from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from hardneg_plugin.backbones.released_names import resnet_names
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.errors import UserError

THIN = {"channels": (4, 8, 8, 12)}
MODELS: dict[str, Any] = {
    "resnet10t": {"options": {"channels": (4, 8, 8, 12), "stem_width": 8}},
    "resnet18": {"options": THIN},
    "resnet18 at stride 16": {"out_index": -2, "options": THIN},
    "regnetx_002": {},
    "convnext_atto": {"options": {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16)}},
    "efficientnet_b0": {},
    "efficientnet_b0 at stride 16": {"out_index": -2},
    "mobilenetv3_small_050": {},
    "densenet121 at stride 16": {"out_index": -2, "options": {"block_config": (1, 1, 1, 1)}},
    "vit_tiny_patch16_224": {"options": {"depth": 3}},
    "vit_tiny_patch16_224 one layer earlier": {"out_index": -2, "options": {"depth": 3}},
    "swin_tiny_patch4_window7_224": {"options": {"img_size": 64, "depths": (1, 1, 1, 1), "embed_dim": 12}},
}


def make(case: str, **arguments) -> VisualExtractor:
    torch.manual_seed(0)
    return VisualExtractor(case.partition(" ")[0], **{**MODELS[case], **arguments})


def pictures(studies: int = 2, views: int = 2, size: int = 64) -> Tensor:
    return torch.randint(256, (studies, views, 1, size, size), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("case", MODELS)
def test_any_model_gives_patches_and_has_no_dead_parameter(case: str) -> None:
    extractor = make(case)
    patches, patch_mask, pooled, grid, entities, projected = extractor(pictures())
    assert entities is None
    assert projected is None
    side = 4 if "stride 16" in case or "vit" in case else 2
    assert patches.shape == (2, 2 * side * side, extractor.width)
    assert patch_mask.shape == (2, 2 * side * side)
    assert patch_mask.all()
    assert grid == (side, side)
    torch.testing.assert_close(pooled, patches.mean(1))
    patches.square().sum().backward()
    assert [name for name, parameter in extractor.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("case", ["resnet18", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
@torch.no_grad()
def test_patches_are_the_map_row_by_row_and_view_by_view(case: str) -> None:
    extractor = make(case).eval()
    images = pictures(1, 3)
    (feature_map,) = extractor.network((images[0].float() - extractor.mean) / extractor.std)
    if "swin" in case:
        feature_map = feature_map.movedim(-1, 1)
    patches = extractor(images).patches[0]
    height, width = feature_map.shape[-2:]
    for view in range(3):
        for row in range(height):
            for column in range(width):
                patch = patches[(view * height + row) * width + column]
                torch.testing.assert_close(patch, feature_map[view, :, row, column])


@pytest.mark.parametrize("case", ["resnet18", "regnetx_002"])
@torch.no_grad()
def test_an_image_that_is_not_square_has_a_grid_of_its_own(case: str) -> None:
    extractor = make(case).eval()
    images = pictures(1, 2, size=96)[..., :64, :]  # 64 rows of 96 pixels
    features = extractor(images)
    assert features.grid == (2, 3)
    (feature_map,) = extractor.network((images[0].float() - extractor.mean) / extractor.std)
    maps = features.patches[0].unflatten(0, (2, *features.grid))
    torch.testing.assert_close(maps.movedim(-1, 1), feature_map)


@pytest.mark.parametrize("in_chans", [1, 3])
@torch.no_grad()
def test_pixels_are_scaled_and_normalised(in_chans: int) -> None:
    extractor = make("resnet18", options={**THIN, "in_chans": in_chans}).eval()
    seen = []
    extractor.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = pictures(1, 2)
    from_bytes, from_floats = extractor(images), extractor(images.float())
    assert from_bytes.patches.equal(from_floats.patches)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    if in_chans == 1:
        mean, std = mean.mean(), std.mean()
    expected = (images[0] / 255 - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)
    torch.testing.assert_close(seen[0], expected)
    assert not {"mean", "std"} & set(extractor.state_dict())


def test_missing_views_are_not_run() -> None:
    extractor, alone = make("resnet18"), make("resnet18")
    images, view_mask = pictures(3, 2), torch.tensor([[True, False], [True, True], [False, True]])
    patches, patch_mask, pooled, *_ = extractor(images, view_mask)
    existing = alone(images[view_mask][:, None])
    assert patches.unflatten(1, (2, 4))[view_mask].equal(existing.patches)
    assert (patches.unflatten(1, (2, 4))[~view_mask] == 0).all()
    assert patch_mask.equal(torch.tensor([[1, 1, 1, 1, 0, 0, 0, 0], [1] * 8, [0, 0, 0, 0, 1, 1, 1, 1]]).bool())
    for study in range(3):
        torch.testing.assert_close(pooled[study], patches[study, patch_mask[study]].mean(0))
    # Batch statistics, too, are those of the four views alone.
    for (name, buffer), (_, expected) in zip(extractor.named_buffers(), alone.named_buffers(), strict=True):
        assert buffer.equal(expected), name


def test_a_study_without_views_is_zero_and_a_batch_without_is_refused() -> None:
    extractor = make("resnet18")
    patches, patch_mask, pooled, *_ = extractor(pictures(), torch.tensor([[False, False], [True, True]]))
    assert (patches[0] == 0).all()
    assert not patch_mask[0].any()
    assert (pooled[0] == 0).all()
    with pytest.raises(ValueError, match="at least one view"):
        extractor(pictures(), torch.zeros(2, 2, dtype=torch.bool))


def test_wrong_shapes_are_refused() -> None:
    extractor = make("resnet18")
    with pytest.raises(ValueError, match=r"\(B, V, 1, H, W\), but got \(2, 1, 64, 64\)"):
        extractor(pictures()[:, 0])
    with pytest.raises(ValueError, match=r"`view_mask` \(2, 2\), but got \(2, 3\)"):
        extractor(pictures(), torch.ones(2, 3, dtype=torch.bool))


@torch.no_grad()
def test_channels_last_and_bfloat16_change_little() -> None:
    extractor = make("resnet18").eval()
    expected = extractor(pictures())
    extractor.to(memory_format=torch.channels_last)
    torch.testing.assert_close(extractor(pictures()).patches, expected.patches, atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        found = extractor(pictures(), torch.tensor([[True, False], [True, True]]))
    assert found.patches.dtype == torch.bfloat16
    torch.testing.assert_close(found.pooled[1].float(), expected.pooled[1], atol=0.05, rtol=0.05)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@torch.no_grad()
def test_local_weights_are_loaded_and_the_head_ignored(tmp_path, suffix: str) -> None:
    torch.manual_seed(1)
    whole = timm.create_model("resnet18", num_classes=14, **THIN).eval()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": whole.state_dict()}, path)
    else:
        safetensors.torch.save_file(whole.state_dict(), path)
    extractor = make("resnet18", weights=str(path)).eval()
    images = pictures(1, 2)
    gray = (images[0].float() / 255).expand(-1, 3, -1, -1)
    expected = whole.forward_features((gray - extractor.mean / 255) / (extractor.std / 255))
    torch.testing.assert_close(extractor(images).pooled[0], expected.mean((0, 2, 3)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", [case for case in MODELS if "swin" not in case])
def test_every_weight_comes_from_the_file(tmp_path, case: str) -> None:
    whole = timm.create_model(case.partition(" ")[0], num_classes=14, **MODELS[case].get("options", {}))
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    extractor = make(case, weights=str(tmp_path / "weights.pth"))
    expected = {name.replace(".", "_"): value for name, value in whole.state_dict().items()}
    for name, value in extractor.network.state_dict().items():
        assert value.equal(expected[name.removeprefix("model.").replace(".", "_")]), name


def test_weights_that_do_not_fit_are_named(tmp_path) -> None:
    state = timm.create_model("resnet18", **THIN).state_dict()
    path = tmp_path / "weights.pth"

    def message() -> str:
        with pytest.raises(UserError) as caught:
            make("resnet18", weights=str(path))
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is not a file" in message()
    path.write_bytes(b"not weights")
    assert "Expected tensors by name" in message()
    torch.save({"state_dict": state, "callback": print}, path)  # a pickled function: not loaded
    assert "Expected tensors by name" in message()
    torch.save({name: value for name, value in state.items() if "layer3" not in name}, path)
    assert "are missing" in message()
    assert "layer3.0.conv1.weight" in message()
    torch.save({**state, "layer1.0.conv1.weight": torch.zeros(3, 3, 3, 3)}, path)
    assert "layer1.0.conv1.weight" in message()
    torch.save({f"encoder.{name}": value for name, value in state.items()}, path)
    assert "conv1.weight" in message()


def test_pretrained_without_a_network_says_what_to_do(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"Could not get .* of `resnet18`; .* `weights=<file>`") as caught:
        VisualExtractor("resnet18", pretrained=True)
    assert "\n" not in str(caught.value)


def test_a_file_of_weights_takes_the_place_of_a_download(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    torch.manual_seed(0)
    extractor = VisualExtractor("resnet18", options={"in_chans": 3})
    state = {f"visual_extractor.{name.released}": value for name, value in released_names_and_values(extractor)}
    torch.save({"state_dict": state | {"encoder_decoder.logit.bias": torch.zeros(3)}}, tmp_path / "released.pth")
    torch.save(extractor.network.state_dict(), tmp_path / "timm.pth")
    for file in ("released.pth", "timm.pth"):
        loaded = VisualExtractor("resnet18", pretrained=True, weights=str(tmp_path / file))
        for name, value in extractor.network.state_dict().items():
            assert loaded.network.state_dict()[name].equal(value), name

    del state["visual_extractor.model.1.bias"]
    torch.save(state, tmp_path / "lacking.pth")
    with pytest.raises(UserError, match=r"lacking.pth does not fit `resnet18`: .*bn1.bias"):
        VisualExtractor("resnet18", weights=str(tmp_path / "lacking.pth"))
    with pytest.raises(UserError, match=r"does not fit `resnet34`"):
        VisualExtractor("resnet34", weights=str(tmp_path / "released.pth"))
    with pytest.raises(UserError, match=r"Expected the visual extractor to be a torchvision ResNet"):
        VisualExtractor("resnet10t", weights=str(tmp_path / "released.pth"))


def released_names_and_values(extractor: VisualExtractor):
    state = extractor.network.state_dict()
    for name in resnet_names(extractor.network, extractor.mean, extractor.std):
        yield name, state[name.ours]


def test_names_and_options_that_timm_does_not_know() -> None:
    with pytest.raises(UserError, match=r"got `resnet118`\. Nearest: .*resnet18"):
        VisualExtractor("resnet118")
    with pytest.raises(UserError, match=r"cannot build `resnet18`.*chanels"):
        VisualExtractor("resnet18", options={"chanels": (1, 2, 3, 4)})
    with pytest.raises(UserError, match="`out_index` 9"):
        VisualExtractor("resnet18", out_index=9)
    with pytest.raises(UserError, match=r"resnet18\.nonsense"):
        VisualExtractor("resnet18.nonsense", pretrained=True)
