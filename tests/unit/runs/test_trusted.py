"""What the config of a run may name: our own choices, and nothing that could run code of someone else."""

import re
import sys
from pathlib import Path

import pytest
from hydra.utils import get_object
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hardneg_plugin.config import conf_dir
from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.folder import RunFolder
from hardneg_plugin.runs.overrides import check_overrides
from hardneg_plugin.runs.trusted import check_trusted, trusted_targets


def targets(node):
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


def test_everything_our_own_configs_name_is_trusted():
    named = {
        target
        for path in conf_dir().rglob("*.yaml")
        for target in targets(OmegaConf.to_container(OmegaConf.load(path), resolve=False))
    }
    assert {"hardneg_plugin.models.report_generator.ReportGenerator", "torch.optim.AdamW"} <= named
    assert named <= trusted_targets()


def test_what_the_configs_of_earlier_versions_named_is_still_trusted():
    assert "pytorch_lightning.callbacks.ModelCheckpoint" in trusted_targets()


def test_a_trusted_name_is_of_the_package_it_says():
    assert len(trusted_targets()) > 50
    for name in sorted(trusted_targets()):
        found = get_object(name)
        assert found.__module__.split(".")[0] == name.split(".")[0], name
        assert callable(found), name


UNTRUSTED = [
    "os.system",
    "posix.system",
    "subprocess.run",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "importlib.import_module",
    "functools.partial",
    "operator.methodcaller",
    "pickle.loads",
    "torch.load",
    "torch.hub.load",
    "torch.compile",
    "torch.utils.cpp_extension.load_inline",
    "numpy.load",
    "hydra.utils.get_class",
    "hydra.utils.get_method",
    "hydra.utils.call",
    "hydra.utils.instantiate",
    "hydra._internal.utils._locate",
    "pytorch_lightning.callbacks.LambdaCallback",
    "pytorch_lightning.trainer.trainer.os.system",
    "torch.optim.lr_scheduler.LambdaLR",
    "torch.optim.AdamW.__class__",
    "torch.optim.AdamW.__init__.__globals__",
    "hardneg_plugin.models.report_generator",
    "hardneg_plugin.models.report_generator.pl.Trainer",
    "hardneg_plugin.models.report_generator.ReportGenerator.from_run",
    "hardneg_plugin.apps.shared.hydra_command.os.system",
    "hardneg_plugin.apps.shared.launch.launch",
    "hardneg_plugin.files.write_json",
    "hardneg_plugin.files.read_json",
    "hardneg_plugin.functional.hardening.Arc.__class__",
    " os.system",
    "hardneg_plugin.models.report_generator.ReportGenerator ",
    "HARDNEG_PLUGIN.generator.ReportGenerator",
    "${oc.env:HOME}",
    "",
    None,
    7,
    ["os.system"],
    {"_target_": "os.system"},
]
PLACES = {
    "the model": lambda node: {"model": node},
    "deep inside": lambda node: {"model": {"visual": {"options": {"a": {"b": node}}}}},
    "in a list": lambda node: {"trainer": {"plugins": [1, [node]]}},
    "a partial": lambda node: {"optimizer": {**node, "_partial_": True}},
    "among arguments": lambda node: {
        "lr": {"_target_": "torch.optim.AdamW", "_args_": [node], "_recursive_": False},
    },
    "where nothing is built": lambda node: {"weights": {"x": node}},
}


def refusal(config):
    try:
        check_trusted(config, "config.yaml")
    except UserError as refused:
        return str(refused)
    return "taken"


@pytest.mark.parametrize("place", PLACES)
def test_an_untrusted_target_is_refused_wherever_it_stands(place):
    for target in UNTRUSTED:
        config = PLACES[place]({"_target_": target, "command": "x"})
        said = refusal(OmegaConf.create(config, flags={"allow_objects": True}))
        assert re.search(r"_target_ is .*trust=true", said), (target, said)
        assert "\n" not in said, target
        assert refusal(config) != "taken", target


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abc. /"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
)


@settings(deadline=None)  # a machine at work elsewhere is slow
@given(plain, st.lists(st.sampled_from(["key", 0]), max_size=6))
def test_plain_values_are_trusted_until_a_target_is_hidden_among_them(values, path):
    check_trusted(values, "config.yaml")
    hidden = {"_target_": "os.system"}
    for step in path:
        hidden = [values, hidden] if step == 0 else {"key": hidden, "other": values}
    with pytest.raises(UserError, match=r"os\.system"):
        check_trusted(hidden, "config.yaml")


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"root": "${oc.env:HOME}"}},
        {"data": ["${now:%Y}"]},
        {"${oc.env:HOME}": 1},
        {"a": "${oc.create:'{_target_: os.system}'}"},
        {"model": "${visual}", "visual": {}},
        {"model": {"visual": {"options": {"checkpoint_path": "weights.npz"}}}},
    ],
    ids=str,
)
def test_nothing_is_looked_up_or_read_along(values):
    with pytest.raises(UserError, match="trust=true"):
        check_trusted(OmegaConf.create(values), "config.yaml")


@pytest.mark.parametrize("group", ["clinical", "embedder", "source"])
def test_what_other_commands_build_has_no_place_in_a_run(group):
    """RadGraph and RaTEScore hand folders to packages that unpickle what is in them."""
    files = [
        OmegaConf.to_container(OmegaConf.load(path), resolve=False) for path in (conf_dir() / group).glob("*.yaml")
    ]
    named = {name for content in files for name in targets(content)}
    assert named
    for name in named:
        with pytest.raises(UserError, match="which no run of the project names"):
            check_trusted({"metrics": {"caption": {"_target_": name}}}, "config.yaml")
    trained = OmegaConf.to_container(OmegaConf.load(conf_dir() / "train.yaml"), resolve=False)
    check_trusted(trained["metrics"], "config.yaml")


CODE_OF_MODELS = [
    {"pretrained_cfg_overlay": {"file": "weights.pth"}},
    {"pretrained_cfg": {"url": "http://elsewhere/weights.pth", "custom_load": True}},
    {"pretrained_cfg": "someone_in1k"},
    {"checkpoint_path": "weights.pth"},
    {"cache_dir": "/elsewhere"},
    {"auto_map": {"AutoModelForCausalLM": "someone/model--code.Model"}},
    {"trust_remote_code": True},
    {"trust_remote_code": "yes"},
    {"custom_generate": "someone/code"},
    {"use_kernels": True},
    {"megatron_config": {}},
    {"megatron_core": "someones_module"},
    {"_attn_implementation": "someone/kernel"},
    {"attn_implementation": "kernels-community/flash-attn2"},
    {"_attn_implementation_internal": "someone/kernel:function"},
    {"_attn_implementation": {"": "sdpa", "text_config": "someone/kernel"}},
    {"_attn_implementation": "paged|someone/kernel"},
    {"_attn_implementation": ["sdpa"]},
    {"_experts_implementation": "someone/kernel"},
]


@pytest.mark.parametrize("setting", CODE_OF_MODELS, ids=str)
def test_a_model_brings_no_code_of_its_own(setting):
    for place in PLACES.values():
        with pytest.raises(UserError, match=rf"^config\.yaml: .*{next(iter(setting))}.* is .*trust=true"):
            check_trusted(place({"_target_": "torch.optim.AdamW", "options": {"x": [0, setting]}}), "config.yaml")


@pytest.mark.parametrize(
    "url", ["s3://someone/images", "reference::https://elsewhere/spec.json", "file:///etc", "dir::s3://a"]
)
def test_a_run_names_no_place_to_read_images_from(url):
    data = {"datamodule": {"source": {"root": "prepared", "images": url}}}
    with pytest.raises(
        UserError, match=r"^config\.yaml: data\.datamodule\.source\.images is .* with your credentials, .*trust=true"
    ):
        check_trusted({"data": data}, "config.yaml")
    for folder in (None, "images", "/data/images"):  # of prepared studies, or beside an annotation file
        data["datamodule"]["source"]["images"] = folder
        check_trusted({"data": data}, "config.yaml")


def test_what_models_of_ones_own_have_is_taken():
    check_trusted(
        {
            "config": {
                "model_type": "gpt2",
                "_attn_implementation": "sdpa",
                "auto_map": None,
                "trust_remote_code": False,
            },
            "text_config": {"_attn_implementation": {"": "eager", "text_config": "flash_attention_2", "vision": None}},
            "visual": {"pretrained": True, "weights": "weights.safetensors", "options": {"pretrained": 1}},
        },
        "config.yaml",
    )


def test_timm_is_new_enough_to_read_weights_as_tensors_only():
    lines = (Path(__file__).parents[3] / "pyproject.toml").read_text().splitlines()
    (line,) = (line.strip() for line in lines if line.strip().startswith('"timm'))
    assert re.fullmatch(r'"timm>=1\.0\.26",  # .+', line)


FILES: dict[str, str | bytes] = {
    "a tag of Python's": "model: !!python/object/apply:pathlib.Path.touch [made]\n",
    "a tag of a new object": "model: !!python/object/new:pathlib.Path [made]\n",
    "no YAML": "model: [\n",
    "bytes": b"\xff\xfe\x00m",
    "a list": "- 1\n",
    "nothing": "",
    "no model": "data: {}\ndecoding: {}\n",
    "a model that is text": "data: {}\ndecoding: {}\nmodel: os.system\n",
}


@pytest.mark.parametrize("case", FILES)
def test_a_config_that_is_none_is_one_line_even_if_trusted(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = FILES[case]
    (tmp_path / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    for trust in (False, True):
        with pytest.raises(UserError, match=r"config\.yaml"):
            RunFolder(tmp_path).read_config(trust=trust)
    assert not (tmp_path / "made").exists()


def test_only_true_is_trust(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {}\ndecoding: {}\nmodel: {_target_: mine.Model}\n")
    for trust in ("no", "false", 1, None):
        with pytest.raises(UserError, match=r"mine\.Model"):
            RunFolder(tmp_path).read_config(trust=trust)
    assert RunFolder(tmp_path).read_config(trust=True).model._target_ == "mine.Model"
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("--multirun", "option"),
        ("--config-dir=/tmp/x", "option"),
        ("-cd", "option"),
        ("hydra.searchpath=[file:///tmp/x]", "Hydra's"),
        ("hydra/launcher=submitit_local", "Hydra's"),
        ("+hydra.callbacks.x._target_=os.system", "Hydra's"),
        ("++hydra.job.env_set.PATH=/tmp", "Hydra's"),
        ("+hydra={callbacks: {x: {_target_: os.system}}}", "Hydra's"),
        ("hydra.run.dir=/tmp", "Hydra's"),
        ("+experiment@hydra.callbacks=x", "Hydra's"),
        ("experiment=../../../../tmp/evil", "from outside the project"),
        ("+experiment=/tmp/evil", "from outside the project"),
        ("experiment='../evil'", "from outside the project"),
        ("experiment=[r2gen_iu_xray,'/tmp/evil']", "from outside the project"),
        ("resume=/tmp/other", "your own command line"),
        ("trust=true", "your own command line"),
        ("overwrite=true", "your own command line"),
        ("++trust=true", "your own command line"),
        ("data.root=${oc.env:HOME}", "looks up"),
        ("+logger.x={uri: 'http://x/${oc.env:TOKEN}'}", "looks up"),
        ("seed=1,2", "several"),
        ("seed=range(3)", "several"),
        ("seed", "no override"),
        ("= =", "no override"),
        ("", "no override"),
    ],
)
def test_overrides_that_do_more_than_choose_are_refused(override, reason):
    with pytest.raises(UserError, match="trust=true") as refused:
        check_overrides(["seed=3", override], "overrides.yaml")
    assert reason in str(refused.value)
    assert "overrides.yaml" in str(refused.value)


def test_overrides_that_people_give_are_taken():
    check_overrides(
        [
            "seed=3",
            "hardening=ascent",
            "experiment=[r2gen_iu_xray,ithn_released]",
            "data=annotations",
            "data.root='/data/my studies/iu,x'",
            "data.root=${other.root}",
            "+visual.options.in_chans=3",
            "visual.options.channels=[8,8,16,16]",
            "~callbacks.early_stopping",
            "metrics.caption=null",
            "optimizer.lr=1e-4",
            "trainer=ddp",
            "hydra_like.key=1",
        ],
        "overrides.yaml",
    )


def test_overrides_that_refer_to_one_another_do_not_double_a_value_over_and_over():
    doubling = [f"+data.a{level}=${{data.a{level - 1}}}${{data.a{level - 1}}}" for level in range(1, 30)]
    by_keys = [f"+data.a{level}.{key}=${{data.a{level - 1}}}" for level in range(1, 30) for key in "bc"]
    for overrides in (doubling, by_keys):
        with pytest.raises(UserError, match="more than 8 values refer to others"):
            check_overrides(["+data.a0=x", *overrides], "overrides.yaml")
    check_overrides(["+data.a0=x", "+data.a1=${data.a0}"], "overrides.yaml")
