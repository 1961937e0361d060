"""Code that comes with a model is never run and never asked for, whatever the files of the model say."""

import json
import re
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import transformers

from hardneg_plugin.backbones.causal_lm import CausalLMDecoder
from hardneg_plugin.backbones.huggingface import HuggingFaceDecoder
from hardneg_plugin.backbones.huggingface_models import config_of
from hardneg_plugin.backbones.model_code import ATTENTION, EXPERTS, objection
from hardneg_plugin.data.tokenizer import HuggingFaceTokenizer
from hardneg_plugin.errors import UserError

SOURCE = Path(__file__).parents[3] / "src" / "hardneg_plugin"
GPT2 = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 8, "eos_token_id": 1}
MARK = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A GPT-2 that comes with code under every name by which transformers knows code, and a terminal at which nobody answers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**GPT2)).save_pretrained(tmp_path)
    add(tmp_path, auto_map=dict.fromkeys(("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"), "code.Model"))
    (tmp_path / "code.py").write_text(f"{MARK}class Model: ...\n")
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").write_text(MARK)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["code.Model", None]}}))

    def asked(*_):
        raise AssertionError("a person was asked whether to run code")

    monkeypatch.setattr("builtins.input", asked)
    yield tmp_path
    assert not list(tmp_path.rglob("ran"))


def add(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("kind", [HuggingFaceDecoder, CausalLMDecoder])
def test_code_of_a_folder_is_passed_over(kind, pretrained, folder):
    decoder = kind(7, 4, name_or_path=str(folder), pretrained=pretrained)
    assert type(decoder.model) is transformers.GPT2LMHeadModel
    assert "auto_map" not in json.dumps(decoder.settings)
    decoder.eval().log_probs(torch.rand(1, 2, 4), torch.tensor([[0, 3, 0]]))
    with suppress(UserError):
        HuggingFaceTokenizer.from_reports([], str(folder))


@pytest.mark.parametrize("kind", [HuggingFaceDecoder, CausalLMDecoder])
@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation"])
def test_a_kernel_that_a_folder_names_is_not_downloaded(kind, name, folder, monkeypatch):
    fetched = []
    monkeypatch.setitem(sys.modules, "kernels", None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *names, **_: fetched.append(names))
    add(folder, **{name: "someone/kernel"})
    with pytest.raises(UserError, match=r"_attn_implementation of its config is 'someone/kernel'"):
        kind(7, 4, name_or_path=str(folder))
    assert not fetched


def test_a_kernel_of_a_part_of_a_model_is_found(tmp_path):
    values = {"model_type": "llava", "_attn_implementation": {"": "sdpa", "text_config": "someone/kernel"}}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="someone/kernel"):
        config_of(str(tmp_path))


def test_known_implementations_are_those_of_transformers():
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    known = {"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()}
    assert {name for name in ATTENTION if name in known} >= {"eager", "sdpa", "flex_attention", "flash_attention_2"}
    assert all(objection("attn_implementation", name) is None for name in ATTENTION)
    assert all(objection("_experts_implementation", name) is None for name in EXPERTS)


def test_every_call_that_can_run_code_says_that_it_may_not():
    """Calls of transformers by name; those of concrete classes take the argument, too."""
    calls = 0
    for path in SOURCE.rglob("*.py"):
        text = re.sub(
            r'"""(.|\n)*?"""|#.*|"[^"\n]*"', "", path.read_text()
        )  # without docstrings, comments and messages
        for found in re.finditer(
            r"(?<!ReportGenerator)\.(from_pretrained|from_config)\b|\.generate\(\s*\*\*|\bSentenceTransformer\(", text
        ):
            statement = text[found.start() :].split("\n    try", 1)[0][:400]
            calls += 1
            assert "trust_remote_code=False" in statement or "**PLAIN" in statement, (path, statement)
    assert calls >= 8
