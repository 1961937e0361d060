"""How a command shows warnings."""

import warnings

import pytest

from hardneg_plugin.apps.shared.hydra_command import hush_libraries


@pytest.mark.parametrize(("category", "where"), [(UserWarning, ""), (FutureWarning, f"{__file__}:3: FutureWarning: ")])
def test_a_warning_is_a_line_without_code(capsys, category, where):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        hush_libraries()
        warnings.warn_explicit("the model writes the same for all", category, __file__, 3)
        warnings.warn_explicit("batches (2) is smaller than the logging interval", UserWarning, __file__, 3)
    assert capsys.readouterr().err == f"Warning: {where}the model writes the same for all\n"
