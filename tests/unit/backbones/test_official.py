import os
import pickle
import re

import numpy
import pytest
import torch
import torchvision
from torch import Tensor, nn

from hardneg_plugin.backbones import official
from hardneg_plugin.backbones.official import (
    extractor_names,
    load_official,
    load_released,
    read_released,
    released_state,
    save_released,
)
from hardneg_plugin.backbones.r2gen import R2Gen
from hardneg_plugin.backbones.r2gencmn import R2GenCMN
from hardneg_plugin.backbones.released_names import decoder_names
from hardneg_plugin.backbones.transformer import TransformerDecoder
from hardneg_plugin.backbones.visual import VisualExtractor
from hardneg_plugin.errors import UserError

ARCHITECTURES = ["r2gen", "r2gencmn"]
OPTIONS = {
    "d_model": 8,
    "d_ff": 12,
    "d_vf": 10,
    "num_heads": 2,
    "num_layers": 2,
    "rm_num_slots": 3,
    "rm_num_heads": 2,
    "rm_d_model": 8,
    "cmm_size": 6,
    "cmm_dim": 8,
    "topk": 3,
    "vocab_size": 9,
}
THIN = {"in_chans": 3, "channels": (4, 8, 8, 10)}


def make(architecture: str, seed: int = 0, **options) -> R2Gen | R2GenCMN:
    """A decoder in which every parameter, vectors too, has values of its own."""
    torch.manual_seed(seed)
    decoder = load_official(architecture, None, {**OPTIONS, **options})
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_()
    return decoder


def make_extractor(seed: int = 0, **options) -> VisualExtractor:
    torch.manual_seed(seed)
    extractor = VisualExtractor("resnet18", options={**THIN, **options})
    shake_statistics(extractor)
    return extractor.eval()


def shake_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.num_batches_tracked.fill_(7)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].equal(tensor), name


# Names


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_cover_every_value_once(architecture: str) -> None:
    decoder = make(architecture)
    names = decoder_names(decoder)
    assert len({name.released for name in names}) == len(names)
    seen = {name: torch.zeros_like(tensor) for name, tensor in decoder.state_dict().items()}
    for name in names:
        if not name.released.startswith("model.cmn."):  # the second name of one module
            seen[name.ours][name.part] += 1
    for name, count in seen.items():
        assert count.eq(1).all(), name
    assert sum(name.released.startswith("model.cmn.") for name in names) == (8 if architecture == "r2gencmn" else 0)


def test_names_of_the_fused_norms() -> None:
    """Norm 4 is the second of the second layer; order: its gain, then its shift."""
    decoder = make("r2gen")
    with torch.no_grad():
        decoder.norms.affine.view(6, 2, 8)[4, 1] = 3.0
        decoder.norms.second_weight[2 * 4] = 5.0
    state = released_state(decoder)
    prefix = "encoder_decoder.model.decoder.layers.1.sublayer.1.norm"
    assert state[f"{prefix}.beta"].eq(3).all()
    assert state[f"{prefix}.mlp_gamma.2.weight"].eq(5).all()
    assert state[f"{prefix}.mlp_gamma.0.weight"].equal(decoder.norms.first.weight[64:72])
    assert sum(tensor.eq(3).all().item() for tensor in state.values()) == 1


def test_names_of_resnet101_are_torchvisions() -> None:
    extractor = VisualExtractor("resnet101", options={"in_chans": 3})
    with torch.device("meta"):
        children = torchvision.models.resnet101().children()
    expected = {
        f"model.{name}": tensor.shape for name, tensor in nn.Sequential(*list(children)[:-2]).state_dict().items()
    }
    state = extractor.state_dict()
    assert {name.released: state[name.ours].shape for name in extractor_names(extractor)} == expected


# There and back


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_was_exported_loads_as_it_was(architecture: str) -> None:
    decoder, extractor = make(architecture), make_extractor()
    state = released_state(decoder, extractor)
    other, other_extractor = make(architecture, 1), make_extractor(1)
    assert not other.project[0].weight.equal(decoder.project[0].weight)
    load_released(state, other, other_extractor)
    assert_same(other.state_dict(), decoder.state_dict())
    assert_same(other_extractor.state_dict(), extractor.state_dict())
    assert_same(released_state(other, other_extractor), state)
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in other.parameters())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_holds_it_all(architecture: str, tmp_path) -> None:
    decoder, extractor = make(architecture), make_extractor().to(memory_format=torch.channels_last)
    path = tmp_path / "new" / "released.pth"
    save_released(path, decoder, extractor)
    assert_same(read_released(path), released_state(decoder, extractor))
    assert all(tensor.is_contiguous() for tensor in read_released(path).values())
    other, other_extractor = make(architecture, 1), make_extractor(1)
    load_released(read_released(path), other, other_extractor, source=str(path))
    assert_same(other.state_dict(), decoder.state_dict())
    assert_same(other_extractor.state_dict(), extractor.state_dict())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_export_has_all_that_strict_loading_asks_for(architecture: str) -> None:
    decoder = make(architecture)
    state = released_state(decoder)
    tables = {name for name in state if name.endswith(".pe")}
    tokens, patches = "encoder_decoder.model.tgt_embed.1.pe", "encoder_decoder.model.src_embed.0.pe"
    assert tables == ({tokens, patches} if architecture == "r2gencmn" else {tokens})
    table = state[tokens]
    assert table.shape == (1, 5000, 8)
    assert table.dtype == torch.float32
    # Sine and cosine in turn, slower from pair to pair: 10000 ** (2 / 8) is 10.
    angles = torch.tensor([700.0, 70.0, 7.0, 0.7], dtype=torch.float64)
    expected = torch.stack([angles.sin(), angles.cos()], dim=1).flatten().float()
    torch.testing.assert_close(table[0, 700], expected, atol=1e-4, rtol=0)
    twins = [name for name in state if name.startswith("encoder_decoder.cmn.")]
    assert len(twins) == (8 if architecture == "r2gencmn" else 0)
    for name in twins:
        assert state[name].equal(state[name.replace(".cmn.", ".model.cmn.")])


def test_an_export_is_a_copy() -> None:
    decoder, extractor = make("r2gencmn"), make_extractor()
    state = released_state(decoder, extractor)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    for tensor in state.values():
        tensor.zero_()
    assert_same(decoder.state_dict(), before)


@torch.no_grad()
def test_torchvisions_resnet_gives_the_same_features() -> None:
    torch.manual_seed(0)
    oracle = torchvision.models.resnet18().eval()
    shake_statistics(oracle)
    network = nn.Sequential(*list(oracle.children())[:-2])
    decoder = make("r2gen", d_vf=512)
    state = released_state(decoder)
    state |= {f"visual_extractor.model.{name}": tensor for name, tensor in network.state_dict().items()}
    extractor = VisualExtractor("resnet18", options={"in_chans": 3}).eval()
    load_released(state, decoder, extractor)

    images = torch.randint(256, (2, 1, 1, 64, 96)).byte()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = network((images[:, 0].expand(-1, 3, -1, -1) / 255 - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(extractor(images).patches, expected.flatten(2).mT, atol=1e-5, rtol=1e-5)
    assert extractor.network.bn1.num_batches_tracked == 7


# Where names stand


def test_names_may_stand_below_or_in_full_or_parallel() -> None:
    decoder = make("r2gencmn")
    full = released_state(decoder, make_extractor())
    bare = {name.removeprefix("encoder_decoder."): tensor for name, tensor in released_state(decoder).items()}
    parallel = {f"module.{name}": tensor for name, tensor in full.items()}
    without_tables = {name: tensor for name, tensor in full.items() if not name.endswith(".pe")}
    for state in (full, bare, parallel, without_tables, dict(reversed(full.items()))):
        assert_same(load_official("r2gencmn", state, OPTIONS).state_dict(), decoder.state_dict())
    extractor = make_extractor(1)
    load_released(parallel, make("r2gencmn", 1), extractor)
    assert_same(extractor.state_dict(), make_extractor().state_dict())


def test_half_precision_is_widened() -> None:
    decoder = make("r2gen")
    halved = {name: tensor.half() for name, tensor in released_state(decoder).items()}
    found = load_official("r2gen", halved, OPTIONS).state_dict()
    assert_same(found, {name: tensor.half().float() for name, tensor in decoder.state_dict().items()})


# Options


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_absent_options_are_the_released_ones(architecture: str) -> None:
    decoder = load_official(architecture, None, {"vocab_size": 20, "max_seq_length": 60, "beam_size": 3, "use_bn": 0})
    assert not decoder.training
    assert decoder.vocab_size == 20
    assert decoder.width == 512
    assert decoder.project[0].weight.shape == (512, 2048)
    assert len(decoder.encoder) == len(decoder.decoder) == 3
    assert decoder.encoder[0].feedforward[0].out_features == 512
    assert decoder.encoder[0].self_attention.heads == 8
    if isinstance(decoder, R2Gen):
        assert decoder.memory.slots == 3
        assert decoder.memory.attention.heads == 8
    else:
        assert decoder.memory.matrix.shape == (2048, 512)
        assert decoder.memory.topk == 32


def test_every_option_has_its_say() -> None:
    options = {
        "d_model": 12,
        "d_ff": 14,
        "d_vf": 7,
        "num_heads": 3,
        "num_layers": 1,
        "dropout": 0.2,
        "drop_prob_lm": 0.3,
    }
    for architecture in ARCHITECTURES:
        decoder = load_official(
            architecture,
            None,
            {**options, "rm_num_slots": 2, "rm_num_heads": 4, "cmm_size": 5, "topk": 4, "vocab_size": 6},
        )
        assert decoder.project[0].weight.shape == (12, 7)
        assert decoder.project[2].p == 0.3
        assert decoder.embedding_dropout.p == 0.2
        assert decoder.embedding.weight.shape == (7, 12)
        assert len(decoder.decoder) == 1
        assert decoder.decoder[0].feedforward[0].out_features == 14
        assert decoder.decoder[0].self_attention.heads == 3
        if isinstance(decoder, R2Gen):
            assert (decoder.memory.slots, decoder.memory.attention.heads) == (2, 4)
        else:
            assert decoder.memory.matrix.shape == (5, 12)
            assert (decoder.memory.topk, decoder.memory.heads) == (4, 3)


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("r2gen2", {}, "`architecture` to be r2gen or r2gencmn, but got `r2gen2`"),
        ("r2gen", {"rm_d_model": 16}, "`rm_d_model` and `d_model` of r2gen to be equal, but got 16 and 8"),
        ("r2gencmn", {"cmm_dim": 16}, "`cmm_dim` and `d_model` of r2gencmn to be equal, but got 16 and 8"),
        ("r2gen", {"vocab_size": None}, "`vocab_size` of r2gen to be a positive integer, but got None"),
        ("r2gencmn", {"topk": 0}, "`topk` of r2gencmn to be a positive integer, but got 0"),
        ("r2gencmn", {"topk": 7}, "`topk` in \\[1, 6\\]"),
        ("r2gen", {"num_heads": 3}, "multiple of `heads`"),
        ("r2gen", {"drop_prob_lm": 1.5}, r"`drop_prob_lm` of r2gen to be in \[0, 1\), but got 1.5"),
    ],
)
def test_options_out_of_range_are_refused(architecture: str, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_official(architecture, None, {**OPTIONS, **changes})


def test_the_size_of_the_vocabulary_is_required() -> None:
    with pytest.raises(UserError, match="`vocab_size` of r2gen to be a positive integer, but got None"):
        load_official("r2gen", None, {})


# What does not fit


def test_nothing_is_loaded_if_anything_does_not_fit() -> None:
    state = released_state(make("r2gen"), make_extractor())
    del state["encoder_decoder.logit.bias"], state["visual_extractor.model.1.bias"]
    state["encoder_decoder.model.rm.V.weight"] = torch.zeros(1)
    state["encoder_decoder.att_embed.0.weight"] = torch.zeros(8, 11)
    decoder, extractor = make("r2gen", 1), make_extractor(1)
    before = released_state(decoder, extractor)
    with pytest.raises(UserError, match="nothing was loaded") as caught:
        load_released(state, decoder, extractor, source="weights.pth")
    message = str(caught.value)
    assert "weights of R2Gen as configured, but weights.pth does not fit" in message
    assert "2 missing: encoder_decoder.logit.bias, visual_extractor.model.1.bias" in message
    assert "1 unexpected: encoder_decoder.model.rm.V.weight" in message
    assert "1 of another shape: encoder_decoder.att_embed.0.weight is (8, 11) instead of (8, 10)" in message
    assert "\n" not in message
    assert_same(released_state(decoder, extractor), before)


def test_long_lists_are_cut() -> None:
    state = released_state(make("r2gen"))
    for index, name in enumerate(list(state)[:9]):
        state[f"encoder_decoder.odd.{index}"] = state.pop(name)
    with pytest.raises(UserError, match=r"9 missing: ([^,;]+, ){8}\.\.\.; 9 unexpected: .*odd\.6, .*odd\.7, \.\.\."):
        load_official("r2gen", state, OPTIONS)


@pytest.mark.parametrize(("architecture", "other"), [("r2gen", "r2gencmn"), ("r2gencmn", "r2gen")])
def test_the_other_architecture_is_said_plainly(architecture: str, other: str) -> None:
    state = released_state(make(other))
    kind = type(make(other)).__name__
    with pytest.raises(UserError, match=rf" missing: .* unexpected: .* These are weights of {kind}: choose it"):
        load_official(architecture, state, OPTIONS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_another_vocabulary_is_said_plainly(architecture: str) -> None:
    state = released_state(make(architecture, vocab_size=12))
    with pytest.raises(
        UserError, match=r"3 of another shape: .*The file has 12 tokens, but this data has 9: the vocabulary"
    ):
        load_official(architecture, state, OPTIONS)


def test_a_file_without_extractor_does_not_fit_one() -> None:
    with pytest.raises(UserError, match=r"\d+ missing: visual_extractor\.model\.0\.weight, "):
        load_released(released_state(make("r2gen")), make("r2gen"), make_extractor())


def test_two_names_of_one_module_must_agree() -> None:
    state = released_state(make("r2gencmn"))
    state["encoder_decoder.model.cmn.linears.2.bias"][3] += 1.0
    with pytest.raises(UserError, match=r"r\.cmn\.linears\.2\.bias and encoder_decoder\.model\.cmn.* to be equal"):
        load_official("r2gencmn", state, OPTIONS)


def test_other_decoders_have_no_released_weights() -> None:
    with pytest.raises(UserError, match=r"R2Gen or R2GenCMN, .* but got TransformerDecoder"):
        released_state(TransformerDecoder(9, 10, width=8, heads=2))


@pytest.mark.parametrize(
    ("name", "arguments", "found"),
    [
        ("resnet18", {"options": {**THIN, "in_chans": 1}}, r"1 channel\(s\): set its `options` to \{in_chans: 3\}"),
        ("resnet18", {"options": THIN, "out_index": -2}, "one without layer4"),
        ("resnet18", {"options": {**THIN, "output_stride": 16}}, "one of stride 16 instead of 32"),
        ("resnetblur18", {"options": THIN}, "one with BlurPool2d"),
        ("resnet18d", {"options": {**THIN, "stem_width": 4}}, "one with AvgPool2d"),
        (
            "resnet18",
            {"options": {**THIN, "stem_type": "deep", "stem_width": 4}},
            "one that begins with several convolutions",
        ),
        ("regnetx_002", {"options": {"in_chans": 3}}, "one without conv1"),
        ("vit_tiny_patch16_224", {"options": {"in_chans": 3, "depth": 1}}, "one without conv1"),
    ],
)
def test_other_extractors_have_no_released_weights(name: str, arguments: dict, found: str) -> None:
    extractor = VisualExtractor(name, **arguments)
    with pytest.raises(UserError, match=f"torchvision ResNet .* but got {found}"):
        extractor_names(extractor)


def test_another_normalisation_is_refused() -> None:
    extractor = make_extractor()
    extractor.mean.fill_(127.5)
    with pytest.raises(UserError, match=r"normalised by mean \[0\.5, 0\.5, 0\.5\]"):
        extractor_names(extractor)


# Files


@pytest.mark.parametrize("is_zip", [True, False])
def test_files_of_the_released_trainers(is_zip: bool, tmp_path) -> None:
    """With all that stands beside the weights; torch 1.5, of that time, did not write zip files."""
    decoder = make("r2gen")
    parameters = list(decoder.parameters())
    optimizer = torch.optim.Adam([{"params": parameters[:3], "lr": 5e-5}, {"params": parameters[3:]}], amsgrad=True)
    sum(parameter.sum() for parameter in parameters).backward()
    optimizer.step()
    state = released_state(decoder)
    content = {
        "epoch": 31,
        "state_dict": state,
        "optimizer": optimizer.state_dict(),
        "monitor_best": numpy.float64(0.1734),
    }
    path = tmp_path / "model_best.pth"
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    allowed = set(torch.serialization.get_safe_globals())
    assert_same(read_released(path), state)
    assert set(torch.serialization.get_safe_globals()) == allowed  # elsewhere nothing more is read than before


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_scalars_of_either_numpy(module: bytes, tmp_path) -> None:
    path = tmp_path / "model_best.pth"
    content = {"state_dict": {"logit.bias": torch.ones(2)}, "monitor_best": numpy.float64(0.5)}
    torch.save(content, path, _use_new_zipfile_serialization=False)  # a plain pickle, which can be changed by hand
    pickled, count = re.subn(rb"numpy\.(_core|core)\.multiarray", module, path.read_bytes())
    assert count == 1
    path.write_bytes(pickled)
    assert read_released(path)["logit.bias"].equal(torch.ones(2))


def test_a_bare_state_dict_is_enough(tmp_path) -> None:
    state = released_state(make("r2gencmn"))
    torch.save(state, tmp_path / "bare.pth")
    assert_same(read_released(tmp_path / "bare.pth"), state)


class Harmful:
    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("place", ["state_dict", "monitor_best"])
def test_code_in_a_file_is_not_run(is_zip: bool, place: str, tmp_path) -> None:
    path, trace = tmp_path / "harmful.pth", tmp_path / "trace"
    content = {"state_dict": {"logit.bias": torch.ones(2)}, place: Harmful(os.mkdir, str(trace))}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(UserError, match=r"harmful\.pth, but it holds `\w+\.mkdir`, .* save only its weights") as caught:
        read_released(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # it would have run


def test_other_objects_are_refused(tmp_path) -> None:
    torch.save({"state_dict": {}, "args": Harmful(numpy.ones, 2)}, tmp_path / "array.pth")
    with pytest.raises(UserError, match=r"it holds `numpy\.ones`"):
        read_released(tmp_path / "array.pth")


@pytest.mark.parametrize(
    "content", [b"", b"hello there", b"PK\x03\x04 no archive", pickle.dumps({"a": 1}, protocol=2)[:9]]
)
def test_what_is_no_file_of_weights_is_refused(content: bytes, tmp_path) -> None:
    path = tmp_path / "odd.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.pth is damaged or something else"):
        read_released(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_cut_short_is_refused(is_zip: bool, tmp_path) -> None:
    path = tmp_path / "short.pth"
    torch.save(released_state(make("r2gen")), path, _use_new_zipfile_serialization=is_zip)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=r"short\.pth is damaged or something else: download it again"):
        read_released(path)


def test_a_file_that_is_not_there_is_refused(tmp_path) -> None:
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(UserError, match=f"but {path} is not a file"):
            read_released(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"epoch": 1, "model": {}}, "the keys epoch, model"),
        ({"state_dict": {}, "epoch": 1}, "the keys state_dict, epoch"),
        ({"state_dict": {"logit.bias": 3}}, "the keys state_dict"),
        ({}, "the keys "),
        ([torch.ones(2)], "list"),
        (torch.ones(2), "Tensor"),
    ],
)
def test_plain_files_of_something_else_are_refused(content: object, found: str, tmp_path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(UserError, match=rf"released checkpoint in .*other\.pth .*but it holds {found}"):
        read_released(tmp_path / "other.pth")


def test_a_half_written_file_replaces_nothing(tmp_path, monkeypatch) -> None:
    path = tmp_path / "released.pth"
    save_released(path, make("r2gen"))
    before = path.read_bytes()

    def fail(content: object, file) -> None:
        file.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(official.torch, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_released(path, make("r2gen", 1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_replaces_the_one_before_and_all_may_read_it(tmp_path) -> None:
    path = tmp_path / "released.pth"
    save_released(path, make("r2gen"))
    save_released(path, make("r2gen", 1))
    assert_same(read_released(str(path)), released_state(make("r2gen", 1)))
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
