"""R2Gen and R2GenCMN under released weights, against recorded numbers of the released code (float32, CPU)."""

import json
import math
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from hardneg_plugin.backbones.decoding import Decoding
from hardneg_plugin.backbones.layers import SampleNorm, standardised
from hardneg_plugin.backbones.official import load_official, released_state
from hardneg_plugin.backbones.released_names import decoder_names

FOLDER = Path(__file__).parent


class Recorded(NamedTuple):
    architecture: str
    options: dict
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    loss: float
    gradient_norms: dict[str, float]

    def decoder(self):
        return load_official(self.architecture, self.state, self.options)

    def log_probs(self, decoder) -> Tensor:
        return decoder.log_probs(self.inputs["att_feats"], self.inputs["seq"])

    def loss_of(self, log_probs: Tensor) -> Tensor:
        targets, mask = self.inputs["seq"][:, 1:], self.inputs["mask"][:, 1:]
        return -(log_probs.gather(2, targets[..., None])[..., 0] * mask).sum() / mask.sum()


def below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


@pytest.fixture(scope="module", params=["r2gen", "r2gencmn"])
def recorded(request) -> Recorded:
    with safe_open(FOLDER / f"{request.param}.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        numbers = file.metadata()
    return Recorded(
        request.param,
        json.loads(numbers["config"]),
        below(tensors, "state/"),
        below(tensors, "in/"),
        below(tensors, "out/"),
        float(numbers["loss"]),
        json.loads(numbers["grad_norms"]),
    )


@torch.no_grad()
def test_log_probabilities_inside_and_outside_the_reports(recorded):
    log_probs = recorded.log_probs(recorded.decoder())
    torch.testing.assert_close(log_probs, recorded.outputs["logprobs"], rtol=0, atol=1e-5)


def test_loss_and_the_gradient_of_every_parameter(recorded):
    decoder = recorded.decoder()
    loss = recorded.loss_of(recorded.log_probs(decoder))
    assert loss.item() == pytest.approx(recorded.loss, abs=1e-5)

    loss.backward()
    gradients = {name: parameter.grad for name, parameter in decoder.named_parameters()}
    norms = {name.released: gradients[name.ours][name.part].norm().item() for name in decoder_names(decoder)}
    # The released optimizer sees the module that has two names once, by the first of them.
    norms = {name: norm for name, norm in norms.items() if not name.startswith("model.cmn.")}
    assert norms.keys() == recorded.gradient_norms.keys()
    for name, norm in norms.items():
        if name.endswith("linears.1.bias"):
            assert norm < 1e-7, name  # a key's bias shifts all scores alike: what is left is rounding
        else:
            assert norm == pytest.approx(recorded.gradient_norms[name], rel=1e-4), name


@pytest.mark.parametrize("max_length", [20, 6])
def test_tokens_of_beam_search_and_greedy_decoding(recorded, max_length):
    decoder, patches = recorded.decoder(), recorded.inputs["att_feats"]
    suffix = "" if max_length == recorded.options["max_seq_length"] else f"_length{max_length}"
    beam = decoder.generate(patches, beam_size=recorded.options["beam_size"], max_length=max_length)
    assert beam.equal(recorded.outputs[f"beam{suffix}"])
    greedy = decoder.generate(patches, beam_size=1, max_length=max_length)
    assert greedy.equal(recorded.outputs[f"greedy{suffix}"])


def test_tokens_and_scores_where_no_word_is_sure(recorded):
    """Five beams over flat probabilities; each of the five scores is the sum over the words that were taken, and the end."""
    decoder, patches = recorded.decoder(), recorded.inputs["att_feats"]
    with torch.no_grad():
        decoder.output.weight.mul_(0.35)
    decoded = decoder.decode(patches, Decoding(beam_size=5, max_length=9, num_return=5))
    assert decoded.tokens[:, 0].equal(recorded.outputs["beam5_flat_length9"])
    for tokens, sums in zip(decoded.tokens.unbind(1), decoded.log_probs.unbind(1), strict=True):
        log_probs = decoder.log_probs(patches, nn.functional.pad(tokens, (1, 0)))
        is_taken = nn.functional.pad(tokens[:, :-1] > 0, (1, 0), value=True)  # the words and the end after them
        taken = log_probs.gather(2, tokens[..., None])[..., 0] * is_taken
        torch.testing.assert_close(sums, taken.sum(1), rtol=0, atol=1e-4)


@torch.no_grad()
def test_the_order_of_names_and_where_they_stand_change_nothing(recorded):
    expected = recorded.decoder().state_dict()
    reversed_state = dict(reversed(recorded.state.items()))
    full = {f"module.encoder_decoder.{name}": tensor for name, tensor in recorded.state.items()}
    full["module.visual_extractor.model.0.weight"] = torch.zeros(1)
    full["module.encoder_decoder.model.tgt_embed.1.pe"] = torch.zeros(1)
    for state in (reversed_state, full):
        found = load_official(recorded.architecture, state, recorded.options)
        assert not found.training
        for name, tensor in found.state_dict().items():
            assert tensor.equal(expected[name]), name


def test_the_recorded_state_comes_out_again(recorded):
    exported = below(released_state(recorded.decoder()), "encoder_decoder.")
    assert {name for name in exported if not name.endswith(".pe")} == recorded.state.keys()
    for name, tensor in recorded.state.items():
        assert exported[name].equal(tensor), name


def released_norm(row: list[float], gain: list[float], shift: list[float]) -> list[float]:
    """The formula in Python's floats: gain (x - mean) / (std + 1e-6) + shift, the deviation over n - 1."""
    mean = math.fsum(row) / len(row)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in row) / (len(row) - 1))
    return [g * (x - mean) / (std + 1e-6) + s for x, g, s in zip(row, gain, shift, strict=True)]


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-5, 1e-6, 1e-8, 0.0])
@torch.no_grad()
def test_norm_of_rows_that_hardly_vary(spread):
    torch.manual_seed(0)
    norm = SampleNorm(32)
    norm.gain.uniform_(0.5, 1.5)
    norm.shift.normal_()
    rows = spread * torch.randn(8, 32)
    expected = torch.tensor([released_norm(row, norm.gain.tolist(), norm.shift.tolist()) for row in rows.tolist()])
    torch.testing.assert_close(norm(rows), expected, rtol=1e-5, atol=1e-6)
    if spread in (1e-6, 1e-5):  # where LayerNorm, with its 1e-5 on the variance, would be far off
        assert (standardised(rows) - nn.functional.layer_norm(rows, (32,))).abs().max() > 0.1


@torch.no_grad()
def test_norm_of_a_constant_row_is_the_shift():
    norm = SampleNorm(16)
    norm.shift.normal_()
    torch.testing.assert_close(norm(torch.full((2, 16), 0.5)), norm.shift.expand(2, -1), rtol=0, atol=0)


SMALL = {"d_model": 32, "d_ff": 48, "d_vf": 24, "num_heads": 4, "rm_num_heads": 4, "cmm_size": 400, "vocab_size": 60}


@pytest.mark.parametrize("architecture", ["r2gen", "r2gencmn"])
def test_dropout_of_the_fresh_model(architecture):
    decoder = load_official(architecture, None, SMALL)
    assert decoder.project[2].p == 0.5
    rates = {}
    for name, module in decoder.named_modules():
        rate = module.p if isinstance(module, nn.Dropout) else getattr(module, "dropout", None)
        if isinstance(rate, float) and name != "project.2":
            rates[name] = rate
    assert set(rates.values()) == {0.1}
    everywhere = ["embedding_dropout", "memory.attention" if architecture == "r2gen" else "memory"]
    for layer in range(3):
        everywhere += [f"encoder.{layer}.{part}" for part in ("self_attention", "dropout", "feedforward.2")]
        everywhere += [f"decoder.{layer}.{part}" for part in ("self_attention", "image_attention", "dropout")]
        everywhere += [f"decoder.{layer}.feedforward.2"]
    assert rates.keys() == set(everywhere)


@pytest.mark.parametrize("architecture", ["r2gen", "r2gencmn"])
def test_first_values_of_the_fresh_model(architecture):
    """By released names, so each of the matrices that are fused here counts alone."""
    torch.manual_seed(0)
    state = below(released_state(load_official(architecture, None, SMALL)), "encoder_decoder.")
    for name, tensor in state.items():
        is_default = name.startswith(("att_embed", "logit"))
        if name.endswith(".pe"):
            continue
        if name == "memory_matrix":
            assert tensor.std().item() == pytest.approx(1 / 32, rel=0.05)
            assert tensor.mean().abs() < 0.1 / 32
            assert tensor.abs().max() > 3 / 32  # a normal has tails
        elif name.endswith(("norm.gamma", "norm.a_2")):
            assert tensor.eq(1.0).all(), name
        elif name.endswith(("norm.beta", "norm.b_2")):
            assert tensor.eq(0.0).all(), name
        elif ".norm.mlp_" in name and name.endswith(".bias"):
            assert tensor.eq(0.1).all(), name
        else:
            weight = state[f"{name.rpartition('.')[0]}.weight"]
            is_xavier = tensor.dim() > 1 and not is_default
            bound = math.sqrt(6 / sum(tensor.shape)) if is_xavier else weight.shape[1] ** -0.5
            assert (0.9 if tensor.dim() > 1 else 0.7) * bound < tensor.abs().max() <= bound, name
            if tensor.dim() > 1:
                assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06), name
