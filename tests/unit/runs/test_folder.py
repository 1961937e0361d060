"""What is said about a folder that is no run."""

import pytest

from hardneg_plugin.errors import UserError
from hardneg_plugin.runs.folder import RunFolder


def make_runs(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.yaml").write_text("seed: 1\n")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["runs/host/seed_1", "runs/arc (2)/seed_1"], ["runs/arc (2)/seed_1, ", "runs/host/seed_1."]),
        (["first"], ["/first."]),
        ([f"runs/host/seed_{n}" for n in range(5)], ["seed_2 and 2 more."]),
        ([], ["no config.yaml."]),
    ],
)
def test_a_folder_of_runs_names_them(tmp_path, names, told):
    folder = tmp_path / "läufe é"
    folder.mkdir()
    make_runs(folder, *names)
    with pytest.raises(UserError) as raised:
        RunFolder.existing(folder)
    assert all(text in str(raised.value) for text in told)


def test_a_misspelt_run_names_the_right_one(tmp_path):
    make_runs(tmp_path, "first")
    with pytest.raises(UserError, match=r"did you mean .*first\?"):
        RunFolder.existing(tmp_path / "frist")
