"""The config that rebuilds a generator without the weights that its training started from."""

from types import SimpleNamespace

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hardneg_plugin.backbones.visual_transformers import TransformersVisualExtractor
from hardneg_plugin.runs.checkpoint import without_starting_weights
from hardneg_plugin.runs.inference_model import InferenceModel

BACKBONES = "hardneg_plugin.backbones"
XRAY = f"{BACKBONES}.visual_xray.XRayVisionExtractor"


@pytest.mark.parametrize(
    ("visual", "expected"),
    [
        (
            {
                "_target_": f"{BACKBONES}.visual.VisualExtractor",
                "name": "resnet18",
                "pretrained": True,
                "weights": None,
            },
            {"name": "resnet18", "pretrained": False, "weights": None, "options": {"in_chans": 3}},
        ),
        ({"_target_": XRAY, "download": None, "weights": "gone.pt"}, {"download": None, "weights": None}),
        ({"_target_": XRAY, "download": "all", "weights": None}, {"download": None, "weights": None}),
    ],
)
def test_each_extractor_loses_the_weights_it_started_from_and_gets_no_other_argument(visual, expected):
    config = OmegaConf.create({"visual": visual, "backbone": {"checkpoint": "gone.pth"}})
    rebuilt = without_starting_weights(config, {})
    assert rebuilt.visual == {"_target_": visual["_target_"], **expected}
    assert rebuilt.backbone == {"checkpoint": None}


def test_an_encoder_of_transformers_is_rebuilt_without_its_folder(tmp_path):
    values = {
        "model_type": "dinov2",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
    }
    TransformersVisualExtractor(config=values).network.save_pretrained(tmp_path)
    target = {"_target_": f"{BACKBONES}.visual_transformers.TransformersVisualExtractor", "_convert_": "all"}
    visual = {**target, "name_or_path": str(tmp_path), "pretrained": True, "config": None}
    model = SimpleNamespace(
        visual=instantiate(OmegaConf.create(visual)), decoder=SimpleNamespace(complete_settings={"width": 8})
    )
    config = OmegaConf.create({"model": {"visual": visual, "backbone": {"width": 4}}})
    settings = InferenceModel(model, 28, None, config, tmp_path).settings()
    assert settings["visual"]["name_or_path"] is None
    assert settings["backbone"] == {"width": 8}
    rebuilt = instantiate(OmegaConf.create(settings["visual"]))
    rebuilt.load_state_dict(model.visual.state_dict())  # names and shapes are the same
