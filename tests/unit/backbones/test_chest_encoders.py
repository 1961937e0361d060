"""Vision encoders of transformers and TorchXRayVision: their patches, and the range of values that each gets to see."""

import json

import pytest
import torch
from torch import nn

from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.backbones.visual_features import ViewEncoder
from hardneg_plugin.backbones.visual_transformers import TransformersVisualExtractor
from hardneg_plugin.errors import UserError

TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIGS = {
    "dinov2": {**TINY, "image_size": 28, "patch_size": 14},
    "dinov2_with_registers": {**TINY, "image_size": 28, "patch_size": 14, "num_register_tokens": 3},
    "vit": {**TINY, "intermediate_size": 8, "image_size": 28, "patch_size": 7, "num_channels": 1},
    "clip_vision_model": {**TINY, "intermediate_size": 8, "image_size": 28, "patch_size": 7},
    "swin": {
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "image_size": 56,
        "patch_size": 7,
        "window_size": 4,
    },
    "convnext": {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]},
}
THIN = {"growth_rate": 4, "block_config": (1, 1, 1, 1), "num_init_features": 8}
SIDES = {"dinov2": 14, "dinov2_with_registers": 14, "vit": 7, "clip_vision_model": 7, "swin": 14, "convnext": 32}


def make(kind, **arguments):
    torch.manual_seed(0)
    return TransformersVisualExtractor(config={"model_type": kind, **CONFIGS[kind]}, **arguments)


def pictures(height=56, width=56):
    return torch.randint(256, (2, 2, 1, height, width), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("kind", CONFIGS)
def test_patches_are_those_of_the_image_row_by_row(kind):
    extractor = make(kind).eval()
    size = 64 if kind == "convnext" else 56
    features = extractor(pictures(size, size))
    side = size // SIDES[kind]
    assert features.grid == (side, side)
    assert features.patches.shape == (2, 2 * side * side, extractor.width)
    trained = [parameter for parameter in extractor.parameters() if parameter.requires_grad]
    features.patches.square().sum().backward()
    assert [parameter for parameter in trained if parameter.grad is None] == []
    # the last patch follows the last pixels, and not the first ones
    changed = pictures(size, size)
    changed[0, 0, 0, -SIDES[kind] :, -SIDES[kind] :] = 255 - changed[0, 0, 0, -SIDES[kind] :, -SIDES[kind] :]
    moved = (extractor(changed).patches - features.patches)[0, : side * side].detach().abs().sum(-1)
    assert moved.argmax() == side * side - 1
    assert not (extractor(changed).patches - features.patches)[1].any()


@pytest.mark.parametrize("kind", ["dinov2", "vit"])
def test_images_need_not_be_square_or_of_the_size_of_the_training(kind):
    side = SIDES[kind]
    assert make(kind)(pictures(4 * side, 3 * side)).grid == (4, 3)
    with pytest.raises(
        ValueError, match=f"multiples of {side}, the patches of the visual extractor, but got {4 * side + 1} x"
    ):
        make(kind)(pictures(4 * side + 1, 3 * side))


def seen_by(extractor):
    """What the network gets of a black and a white pixel."""
    got = []
    feature_map = extractor.feature_map
    extractor.feature_map = lambda images: got.append(images) or feature_map(images)
    images = torch.zeros(1, 2, 1, 56, 56, dtype=torch.uint8)
    images[0, 1] = 255
    extractor.eval()(images)
    (values,) = got
    return [values[view].amin((1, 2)).tolist() for view in (0, 1)]


def test_values_are_normalised_as_the_image_processor_of_the_model_has_it(tmp_path):
    make("dinov2").network.save_pretrained(tmp_path)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "image_mean": [0.25, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.5],
    }
    assert seen_by(TransformersVisualExtractor(name_or_path=str(tmp_path))) == [[-1, -1, -1], [1, 1, 1]]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    extractor = TransformersVisualExtractor(name_or_path=str(tmp_path))
    assert seen_by(extractor) == [[-1, -2, -1], [3, 2, 1]]
    torch.testing.assert_close(extractor.network.state_dict(), make("dinov2").network.state_dict())
    assert seen_by(TransformersVisualExtractor(name_or_path=str(tmp_path), mean=[0.5], std=[1.0])) == [[-0.5], [0.5]]


def test_a_frozen_encoder_learns_nothing_and_draws_no_dropout():
    extractor = make("dinov2", frozen=True).train()
    assert [parameter for parameter in extractor.parameters() if parameter.requires_grad] == []
    assert not extractor.network.training
    assert not extractor(pictures()).patches.requires_grad
    frozen = VisualExtractor("resnet10t", options={"channels": (4, 8, 8, 12), "stem_width": 8}, frozen=True).train()
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    frozen(pictures())
    torch.testing.assert_close(frozen.state_dict(), before)  # running means of the norms, too


def test_what_is_no_vision_encoder_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected a vision encoder, but GPT2Model gives no patches of an image"):
        TransformersVisualExtractor(config={"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8})
    with pytest.raises(UserError, match="Expected a Hugging Face model under"):
        TransformersVisualExtractor(name_or_path=str(tmp_path))
    with pytest.raises(UserError, match="config: Dinov2Config has no heads"):
        TransformersVisualExtractor(config={"model_type": "dinov2", "heads": 3})


def test_mean_and_deviation_are_numbers_of_the_channels():
    options = {"channels": (4, 8, 8, 12), "stem_width": 8}
    extractor = VisualExtractor("resnet10t", options=options, mean=[0.5], std=[0.25])
    assert seen_by(extractor) == [[-2], [2]]
    for mean, std, told in (
        ([0.5, 0.5], [1.0], "visual.mean: expected one number, or three"),
        ([0.5], [0.0], "numbers > 0"),
    ):
        with pytest.raises(UserError, match=told):
            VisualExtractor("resnet10t", options=options, mean=mean, std=std)
    with pytest.raises(NotImplementedError):
        ViewEncoder(nn.Identity(), 1, mean=[0.5], std=[0.5])(pictures())


class TestXRayVision:
    """The DenseNet of TorchXRayVision."""

    @pytest.fixture(autouse=True)
    def installed(self):
        self.models = pytest.importorskip("torchxrayvision", reason="torchxrayvision is not installed here").models

    def make(self, **arguments):
        from hardneg_plugin.backbones.visual_xray import XRayVisionExtractor

        torch.manual_seed(0)
        return XRayVisionExtractor(options=THIN, **arguments)

    def test_it_sees_values_from_minus_1024_to_1024(self):
        extractor = self.make()
        assert seen_by(extractor) == [[-1024], [1024]]
        features = extractor(pictures(64, 64))
        assert features.grid == (2, 2)
        assert features.patches.shape == (2, 8, extractor.width)
        theirs = self.models.DenseNet(**THIN).eval()
        theirs.features.load_state_dict(extractor.network.state_dict())
        image = pictures(64, 64)[:1, :1]
        want = theirs.features((image[0].float() / 255 * 2 - 1) * 1024).relu().mean((2, 3))
        torch.testing.assert_close(extractor.eval()(image).pooled, want)

    def test_weights_are_a_state_dict_that_runs_no_code(self, tmp_path):
        torch.manual_seed(1)
        theirs = self.models.DenseNet(**THIN)
        torch.save(theirs.state_dict(), tmp_path / "state.pth")
        torch.testing.assert_close(
            self.make(weights=str(tmp_path / "state.pth")).network.state_dict(), theirs.features.state_dict()
        )
        torch.save(theirs, tmp_path / "pickled.pt")
        with pytest.raises(UserError, match="cannot be read without running code from it"):
            self.make(weights=str(tmp_path / "pickled.pt"))
        torch.save({"head.weight": torch.ones(1)}, tmp_path / "other.pth")
        with pytest.raises(UserError, match="other tensors are not in it"):
            self.make(weights=str(tmp_path / "other.pth"))

    def test_its_weights_are_no_weights_of_timm(self, tmp_path):
        torch.save({**self.models.DenseNet(**THIN).state_dict(), "op_threshs": torch.ones(18)}, tmp_path / "w.pth")
        options = {"in_chans": 1, "growth_rate": 4, "block_config": (1, 1, 1, 1)}
        with pytest.raises(UserError, match="are of TorchXRayVision, which expects images from -1024 to 1024"):
            VisualExtractor("densenet121", weights=str(tmp_path / "w.pth"), options=options)
