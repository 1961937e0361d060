"""The package as it is installed: what importing it costs, and that its configs come along."""

import importlib.metadata
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import hardneg_plugin

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def test_the_plug_in_imports_nothing_of_the_trainer_and_training_no_pycocoevalcap():
    heavy = "hydra,omegaconf,torchvision,transformers,timm,pycocoevalcap,PIL,tokenizers"
    code = (
        # pytorch-lightning itself looks for some of these; what it imports is not ours to avoid
        "import sys, torch, pytorch_lightning; before = set(sys.modules); import hardneg_plugin; after = set(sys.modules)\n"
        f"print([name for name in '{heavy}'.split(',') if name in after - before])\n"
        "assert 'pycocoevalcap' not in sys.modules; sys.modules['pycocoevalcap'] = None\n"
        "import hardneg_plugin.models.report_generator, hardneg_plugin.apps.train, hardneg_plugin.apps.evaluate"
    )
    assert run(sys.executable, "-c", code).strip() == "[]"


def test_the_version_and_every_public_name_are_there():
    assert hardneg_plugin.__version__ == importlib.metadata.version("hardneg-plugin")
    assert [name for name in hardneg_plugin.__all__ if getattr(hardneg_plugin, name, None) is None] == []
    assert set(hardneg_plugin.__all__) <= set(dir(hardneg_plugin))
    with pytest.raises(AttributeError, match="'hardneg_plugin' has no attribute 'Mixin'"):
        _ = hardneg_plugin.Mixin


def test_types_of_public_names_reach_the_users_of_the_package(tmp_path):
    """`mypy --strict` on five lines around a module: what they use is typed, and a wrong argument is found."""
    script = tmp_path / "mine.py"
    script.write_text(
        "from hardneg_plugin import HardNegativeObjective, Queue, plug_in\n"
        "objective = HardNegativeObjective(image_width=64, report_width=32, width=16, negatives=Queue(size=1024))\n"
        "reveal_type(objective.weights)\n"
        "HardNegativeObjective(image_width='64')\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent", str(script)]
    told = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "MYPYPATH": str(ROOT / "src")}
    )
    assert "Revealed type is" in told.stdout, told.stdout + told.stderr
    assert "weighted_terms.Weights" in told.stdout.splitlines()[0]
    assert 'incompatible type "str"' in told.stdout
    assert "Found 1 error in 1 file" in told.stdout


def test_the_papers_to_cite_are_those_of_the_methods():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == hardneg_plugin.__version__
    assert {"title", "authors", "type", "notes"} <= set.intersection(*map(set, cited["references"]))
    known = (ROOT / "docs" / "METHOD.md").read_text() + (ROOT / "docs" / "DECODERS.md").read_text()
    for paper in cited["references"]:
        method = re.search(r"(?:objective|backbone)=(\w+)", paper["notes"])[1]
        assert any((ROOT / "conf").glob(f"*/{method}.yaml")), method
        assert paper["authors"][0]["family-names"] in known or paper["notes"].partition(",")[0] in known


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    hatchling = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed here")
    folder = tmp_path_factory.mktemp("wheel")
    (path,) = hatchling.WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    return Path(path)


def test_the_wheel_holds_code_configs_and_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"hardneg_plugin/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")}
    code = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert configs | code <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "hardneg_plugin/py.typed" in names


def test_the_command_composes_its_config_from_the_wheel_alone(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.argv = ['hardneg-train', '--cfg', 'job']; from hardneg_plugin.config import conf_dir; "
        "print(conf_dir()); from hardneg_plugin.apps.train import main; main()"
    )
    environment = {"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"}
    where, printed = run(sys.executable, "-c", code, cwd=tmp_path, env=environment).split("\n", 1)
    assert Path(where) == tmp_path / "site" / "hardneg_plugin" / "conf"
    assert "_target_: hardneg_plugin.functional.hardening.Arc" in printed
