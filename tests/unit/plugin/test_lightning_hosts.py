"""Which Lightning a host is of, and that the plug-in needs no other one."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning
from torch import nn

import hardneg_plugin
from hardneg_plugin.errors import UserError
from hardneg_plugin.plugin.lightning_hosts import lightning_module_of, overrides

lightning = pytest.importorskip("lightning.pytorch")


@pytest.mark.parametrize("package", [pytorch_lightning, lightning])
def test_a_host_is_of_the_package_that_its_class_comes_from(package):
    host_class = type("Host", (package.LightningModule,), {"setup": lambda self, stage: None})
    host = host_class()
    assert (
        lightning_module_of(host_class)
        is lightning_module_of(type("Other", (host_class,), {}))
        is package.LightningModule
    )
    assert overrides(host, "setup")
    assert not overrides(host, "configure_model")
    host.configure_model = lambda: None
    assert overrides(host, "configure_model")


def test_other_classes_are_of_neither():
    assert lightning_module_of(nn.Module) is None
    assert lightning_module_of(int) is None
    with pytest.raises(
        UserError, match=r"LightningModule of pytorch_lightning or lightning\.pytorch, but got torch.*Linear"
    ):
        hardneg_plugin.plug_in(nn.Linear(2, 2), images="a", reports="b")


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_a_package_that_nobody_has_imported_has_no_hosts(package, monkeypatch):
    monkeypatch.delitem(sys.modules, package)
    assert lightning_module_of(nn.Module) is None
    other = lightning if package == "pytorch_lightning" else pytorch_lightning
    assert lightning_module_of(type("Host", (other.LightningModule,), {})) is other.LightningModule


TRAINS = """
import sys, warnings
sys.modules[{other!r}] = None  # as if it were not installed
import hardneg_plugin
assert not [name for name in sys.modules if name.split(".")[0] in ("lightning", "pytorch_lightning", "lightning_fabric")
    and sys.modules[name] is not None]
sys.path.append({folder!r})
import {hosts} as hosts
losses = []
class Keep(hosts.pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        losses.append(outputs["loss"].item())
hosts.pl.seed_everything(3, verbose=False)
model = hardneg_plugin.plug_in(hosts.Captioner(), **hosts.PLACES)
hosts.trainer({out!r}, callbacks=[Keep()]).fit(model, hosts.loader())
print(losses)
"""


@pytest.mark.slow
def test_each_trains_where_the_other_is_not_installed_and_alike(tmp_path):
    printed = []
    for hosts, other in (("plugged_hosts", "lightning"), ("lightning_hosts", "pytorch_lightning")):
        code = TRAINS.format(hosts=hosts, other=other, folder=str(Path(__file__).parent), out=str(tmp_path))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        printed.append(ast.literal_eval(done.stdout.strip().splitlines()[-1]))
    assert printed[0] == printed[1]
    assert len(printed[0]) == 8


def test_the_plug_in_imports_no_lightning():
    source = Path(hardneg_plugin.__file__).parent
    for folder in ("functional", "objectives", "grounding", "knowledge", "neighbours", "plugin"):
        for path in (source / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {name.split(".")[0] for name in names} & {"lightning", "pytorch_lightning"}, path
