"""The package as it is installed: what importing it costs, and that its configs come along."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

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
