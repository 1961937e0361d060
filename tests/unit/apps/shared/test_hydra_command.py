"""How a command shows warnings, and which process takes the run folder."""

import sys
import warnings

import pytest

from hardneg_plugin.apps.shared.hydra_command import RANKS, hush_libraries, leads


@pytest.mark.parametrize(("category", "where"), [(UserWarning, ""), (FutureWarning, f"{__file__}:3: FutureWarning: ")])
def test_a_warning_is_a_line_without_code(capsys, category, where):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        hush_libraries()
        warnings.warn_explicit("the model writes the same for all", category, __file__, 3)
        warnings.warn_explicit("batches (2) is smaller than the logging interval", UserWarning, __file__, 3)
    assert capsys.readouterr().err == f"Warning: {where}the model writes the same for all\n"


@pytest.mark.parametrize(
    ("environment", "leading"),
    [
        ({}, True),
        ({"NODE_RANK": "0"}, True),
        ({"NODE_RANK": "1"}, False),  # it starts ranks of a job that the first node decides on
        ({"RANK": "0", "NODE_RANK": "1"}, True),  # torchrun may give rank 0 to any node
        ({"RANK": "1", "NODE_RANK": "0"}, False),
        ({"SLURM_PROCID": "0"}, True),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_one_process_of_a_job_takes_the_folder(monkeypatch, environment, leading):
    monkeypatch.setitem(sys.modules, "lightning_fabric.utilities.rank_zero", None)
    for name in (*RANKS, "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert leads() is leading
