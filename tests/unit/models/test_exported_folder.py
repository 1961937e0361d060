"""A generator written as a folder and read back, from someone else too; and the hub, for which stand-ins are here."""

import json
import shutil
import sys
from functools import partial
from inspect import signature
from types import SimpleNamespace

import huggingface_hub
import pytest
import safetensors.torch
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers

from hardneg_plugin.backbones.causal_lm import CausalLMDecoder
from hardneg_plugin.data.tokenizer import HuggingFaceTokenizer, WordTokenizer
from hardneg_plugin.errors import UserError
from hardneg_plugin.models import exported_folder
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.models.saved_generator import Origin

WORDS = WordTokenizer.from_reports(["heart size is normal .", "small left effusion ."], min_count=1)
SETTINGS = {
    "visual": {
        "_target_": "hardneg_plugin.backbones.visual.VisualExtractor",
        "name": "resnet10t",
        "options": {"channels": [8, 8, 8, 8], "stem_width": 8},
    },
    "backbone": {
        "_target_": "hardneg_plugin.backbones.transformer.TransformerDecoder",
        "_partial_": True,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "max_patches": None,
    },
}
IMAGE = (torch.arange(40 * 50).view(40, 50) % 256).to(torch.uint8)


def build(settings=SETTINGS, tokenizer=WORDS, seed=0):
    torch.manual_seed(seed)
    make = instantiate(OmegaConf.create({**settings, "_target_": exported_folder.HOST}), _partial_=True)
    model = make(tokenizer=tokenizer, optimizer=torch.optim.AdamW).eval()
    model.image_size = 32
    weights = {name: value.clone() for name, value in exported_folder.weights_of(model).items()}
    model._origin = Origin(lambda: settings, lambda name, *given: f"card of {name}: {given}", lambda: weights)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "exported")
    return tmp_path / "exported"


def read(folder):
    return ReportGenerator.from_pretrained(folder, device="cpu")


def change(file, **values):
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, **values}))


def test_what_is_read_is_what_was_written(model, folder):
    again = read(folder)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.tokenizer == model.tokenizer
    assert again.generate(IMAGE, attention=True)[0].text == model.generate(IMAGE)[0].text
    assert (folder / "README.md").read_text() == "card of exported: (None, True)"
    assert again.decoding == model.decoding
    assert isinstance(again.configure_optimizers, type(model.configure_optimizers))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["exported"]


def test_a_tokenizer_of_hugging_face_is_the_file_that_its_library_reads(tmp_path):
    backend = Tokenizer(models.WordLevel({"no": 0, "effusion": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    build(tokenizer=HuggingFaceTokenizer(backend)).save_pretrained(tmp_path / "x")
    assert Tokenizer.from_file(str(tmp_path / "x" / "tokenizer.json")).encode("effusion no").ids == [1, 0]
    assert read(tmp_path / "x").tokenizer.encode("no effusion") == [0, 1, 2, 0]


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    settings = {
        **SETTINGS,
        "backbone": {
            "_target_": "hardneg_plugin.backbones.huggingface.HuggingFaceDecoder",
            "_partial_": True,
            "_convert_": "all",
            "config": {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2},
        },
    }
    model = build(settings)
    settings["backbone"] |= model.decoder.complete_settings
    model.save_pretrained(tmp_path / "x")
    weights = safetensors.torch.load_file(tmp_path / "x" / "model.safetensors")
    assert sum(value.shape == (WORDS.vocab_size + 1, 8) for value in weights.values()) == 1
    again = read(tmp_path / "x").decoder.model
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight, model.decoder.model.get_input_embeddings().weight)


def test_frozen_weights_of_a_language_model_are_in_the_folder(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(exported_folder.Path(__file__).parents[1] / "backbones"))
    from tiny_language_models import save

    language = save(tmp_path / "llama", rows=WORDS.vocab_size + 2)
    backbone = {"_target_": f"{CausalLMDecoder.__module__}.CausalLMDecoder", "_partial_": True, "_convert_": "all"}
    settings = {**SETTINGS, "backbone": {**backbone, "name_or_path": str(language), "adapt": "frozen"}}
    model = build(settings)
    assert not any(name.startswith("decoder.model.model.layers") for name in model.state_dict())
    settings["backbone"] |= model.decoder.complete_settings
    model.save_pretrained(tmp_path / "x")
    shutil.rmtree(language)
    again = read(tmp_path / "x")
    assert again.generate(IMAGE)[0].text == model.generate(IMAGE)[0].text
    frozen = dict(model.decoder.model.named_parameters())
    for name, value in again.decoder.model.named_parameters():
        assert torch.equal(value, frozen[name]), name
        assert not value.requires_grad
    half = CausalLMDecoder(6, 5, config={"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2})
    half.model.bfloat16()
    with pytest.raises(UserError, match=r"backbone.dtype=float32"):
        _ = half.complete_settings


def test_normalisation_is_that_of_the_folder(model, folder):
    file = folder / "preprocessor_config.json"
    content = json.loads(file.read_text())
    extractor = model.visual
    pixels = IMAGE.float() * content["do_normalize"]
    by_hand = (pixels - content["image_mean"][0]) / content["image_std"][0]
    assert torch.equal(((pixels - extractor.mean) / extractor.std)[0], by_hand)
    change(file, image_mean=[7.0], image_std=[3.0], size={"height": 24, "width": 24})
    again = read(folder)  # as from another timm, whose numbers are others
    assert (again.visual.mean.item(), again.visual.std.item(), again.image_size) == (7.0, 3.0, 24)
    for wrong in (
        {"size": {"height": 24, "width": 30}},
        {"size": 24},
        {"image_mean": [1.0, 2.0, 3.0]},
        {"image_std": None},
    ):
        shutil.copy(file, folder / "kept")
        change(file, **wrong)
        with pytest.raises(UserError, match=r"preprocessor_config\.json"):
            read(folder)
        shutil.copy(folder / "kept", file)


def test_a_model_that_was_trained_further_has_no_scores(model, folder, tmp_path):
    again = read(folder)
    again.save_pretrained(tmp_path / "same", name="other")
    assert (tmp_path / "same" / "README.md").read_text() == "card of exported: (None, True)"
    with torch.no_grad():
        next(again.decoder.parameters()).mul_(1.001)
    again.save_pretrained(tmp_path / "changed", name="other")
    text = (tmp_path / "changed" / "README.md").read_text()
    assert "# other" in text
    assert "weights were changed after the scores" in text
    assert "card of" not in text
    changed = build()
    with torch.no_grad():
        next(changed.visual.parameters()).add_(1.0)
    changed.save_pretrained(tmp_path / "of_a_run")
    assert (tmp_path / "of_a_run" / "README.md").read_text() == "card of of_a_run: (None, False)"


@pytest.mark.parametrize(
    ("part", "value", "mentioned"),
    [
        ("visual", {"_target_": "stranger.act"}, "visual._target_ is stranger.act"),
        ("visual", {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "."}, "visual._target_"),
        ("backbone", {"_target_": "hardneg_plugin.data.prepared.PreparedStudies", "root": "/"}, "backbone._target_"),
        ("backbone", {**SETTINGS["backbone"], "width": {"_target_": "stranger.act"}}, "backbone.width._target_"),
        ("backbone", {**SETTINGS["backbone"], "width": "${oc.env:HOME}"}, "backbone.width"),
        ("backbone", {**SETTINGS["backbone"], "name_or_path": "someone/model"}, "backbone.name_or_path"),
        ("backbone", {**SETTINGS["backbone"], "config": {"auto_map": {"x": "y"}}}, "auto_map"),
        ("visual", {**SETTINGS["visual"], "weights": "/etc/passwd"}, "visual.weights"),
        ("visual", {**SETTINGS["visual"], "pretrained": True}, "visual.pretrained"),
        ("visual", {**SETTINGS["visual"], "name": "hf-hub:someone/net"}, "visual.name"),
        ("visual", {**SETTINGS["visual"], "options": {"pretrained_cfg": {"file": "x"}}}, "pretrained_cfg"),
        ("grounding", {"_target_": "os.system", "command": "true"}, "grounding._target_"),
        ("backbone", {**SETTINGS["backbone"], "heads": 7}, "config.json"),
        ("backbone", {**SETTINGS["backbone"], "depth": 7}, "depth"),
        ("decoding", {"beam_size": 0}, "beam_size"),
        ("decoding", None, "config.json"),
        ("tokenizer", "pickle", "pickle"),
        ("format_version", 2, "version 1"),
        ("library_name", "transformers", "another library"),
    ],
)
def test_a_folder_of_a_stranger_runs_nothing_and_reads_nothing_else(
    folder, tmp_path, monkeypatch, part, value, mentioned
):
    (tmp_path / "stranger.py").write_text("raise AssertionError('run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    change(folder / "config.json", **{part: value})
    with pytest.raises(UserError) as refused:
        read(folder)
    assert mentioned in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "trust=true" not in str(refused.value)  # which is for runs
    assert "stranger" not in sys.modules
    assert {path.name for path in tmp_path.iterdir()} == {"exported", "stranger.py"}


def test_a_damaged_folder_says_what_is_wrong_in_one_line(folder, tmp_path):
    weights = folder / "model.safetensors"
    before = weights.read_bytes()

    def refused(expected):
        with pytest.raises(UserError, match=expected) as error:
            read(folder)
        assert "\n" not in str(error.value)

    weights.write_bytes(before[:500])
    refused(r"model\.safetensors does not fit .* or is damaged")
    weights.unlink()
    refused("there is no such file")
    tensors = safetensors.torch.load(before)
    name = "visual.network.conv1.0.weight"
    safetensors.torch.save_file({key: value for key, value in tensors.items() if key != name}, weights)
    refused(f"Missing key.*{name}")
    safetensors.torch.save_file({**tensors, "more": torch.ones(1)}, weights)
    refused("Unexpected key.*more")
    safetensors.torch.save_file({**tensors, name: torch.ones(1, 2, 3)}, weights)
    refused("size mismatch")
    weights.write_bytes(before)
    assert read(folder).generate(IMAGE)
    (folder / "vocabulary.json").write_text('{"vocabulary": 7}')
    refused(r"Expected a tokenizer in .*vocabulary\.json")
    (folder / "config.json").write_text("{")
    refused("Expected JSON")
    (folder / "config.json").unlink()
    refused("hardneg-export RUN format=hub")
    (folder / "config.yaml").touch()
    refused("It is the folder of a run: take from_run")
    with pytest.raises(UserError, match=r"there is no /no/such/folder"):
        read("/no/such/folder")


def test_a_folder_is_written_whole_or_not_at_all(model, folder, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(UserError, match="No space left on device"):
            model.save_pretrained(tmp_path / "new")
        with pytest.raises(UserError, match="No space left on device"):
            model.save_pretrained(folder, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]
    assert read(folder).generate(IMAGE)
    with pytest.raises(UserError, match=r"exists already; overwrite=true replaces it"):
        model.save_pretrained(folder)
    model.save_pretrained(folder, overwrite=True, name="new")
    assert "card of new" in (folder / "README.md").read_text()
    (tmp_path / "empty").mkdir()
    model.save_pretrained(tmp_path / "empty")
    assert read(tmp_path / "empty").generate(IMAGE)


def test_a_model_that_cannot_be_rebuilt_is_refused(tmp_path):
    model = ReportGenerator(
        visual=instantiate(OmegaConf.create(SETTINGS["visual"])),
        backbone=partial(instantiate(OmegaConf.create(SETTINGS["backbone"]))),
        tokenizer=WORDS,
        optimizer=torch.optim.AdamW,
    )
    with pytest.raises(UserError, match="built in Python"):
        model.save_pretrained(tmp_path / "x")
    foreign = build()
    foreign._origin = Origin(
        lambda: {**SETTINGS, "visual": {"_target_": "theirs.Net"}}, lambda *given: "", foreign._origin.weights
    )
    with pytest.raises(UserError, match=r"visual\._target_ is theirs\.Net"):
        foreign.save_pretrained(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


class Hub:
    """A stand-in for the hub: repositories are folders, and calls are those that the real functions take."""

    def __init__(self, place):
        self.place, self.made, self.uploads = place, [], []

    def snapshot_download(self, *arguments, **options):
        given = signature(REAL["snapshot_download"]).bind(*arguments, **options).arguments
        self.asked = given
        if not (self.place / given["repo_id"]).is_dir():
            raise OSError("404 Client Error.\n\nRepository Not Found")
        return str(self.place / given["repo_id"])

    def HfApi(self, **options):
        signature(REAL["HfApi"]).bind(**options)
        self.api = options
        return self

    def create_repo(self, *arguments, **options):
        given = signature(REAL["HfApi"].create_repo).bind(None, *arguments, **options).arguments
        self.made.append(given)
        return SimpleNamespace(repo_id=given["repo_id"])

    def upload_folder(self, **options):
        signature(REAL["HfApi"].upload_folder).bind(None, **options)
        self.uploads.append(options)
        shutil.copytree(options["folder_path"], self.place / options["repo_id"])
        return SimpleNamespace(commit_url=f"https://hub/{options['repo_id']}/commit/1")


REAL = {name: getattr(huggingface_hub, name) for name in ("snapshot_download", "HfApi")}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    stand_in = Hub(tmp_path / "hub")
    for name in REAL:
        monkeypatch.setattr(huggingface_hub, name, getattr(stand_in, name))
    return stand_in


def test_a_model_goes_to_the_hub_and_comes_back(model, hub):
    address = model.push_to_hub("someone/cxr", private=True, token="secret", license="mit", commit_message="first")
    assert address == "https://hub/someone/cxr/commit/1"
    assert hub.made == [{"self": None, "repo_id": "someone/cxr", "private": True, "exist_ok": True}]
    assert hub.api["token"] == "secret"
    assert hub.uploads[0]["commit_message"] == "first"
    files = {path.name for path in (hub.place / "someone" / "cxr").iterdir()}
    assert files == set(exported_folder.FILES) - {"tokenizer.json"}
    assert (hub.place / "someone/cxr/README.md").read_text() == "card of someone/cxr: ('mit', True)"
    again = ReportGenerator.from_pretrained("someone/cxr", revision="v1", device="cpu", local_files_only=True)
    assert again.generate(IMAGE)[0].text == model.generate(IMAGE)[0].text
    assert hub.asked["revision"] == "v1"
    assert hub.asked["local_files_only"] is True
    assert set(hub.asked["allow_patterns"]) == set(exported_folder.FILES)  # nothing else is downloaded


def test_a_hub_that_refuses_is_one_line(model, hub, monkeypatch):
    with pytest.raises(
        UserError, match=r"there is no folder someone/none, and no such .*\(404 Client Error\)"
    ) as error:
        ReportGenerator.from_pretrained("someone/none")
    assert "\n" not in str(error.value)

    def refuse(*arguments, **options):
        raise ConnectionError("offline")

    monkeypatch.setattr(hub, "create_repo", refuse)
    with pytest.raises(UserError, match=r"someone/cxr could not be written on the hub: offline\."):
        model.push_to_hub("someone/cxr")
    assert hub.uploads == []


def test_the_licence_of_a_card_can_be_changed():
    from hardneg_plugin.runs.model_card import card_under_licence, card_without_scores

    card = card_under_licence(card_without_scores("x", None), "mit")
    assert card == card_without_scores("x", "mit")
