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


@pytest.mark.parametrize(
    "place", ["checkpoints", "logs/csv", "predictions/test.jsonl", "deep/er/x", "checkpoints/best.ckpt"]
)
@pytest.mark.parametrize("target", ["..", "../../elsewhere", "/etc/passwd", "/nowhere/at/all", "../run2"])
def test_a_link_that_leads_out_of_a_run_is_refused(place, target, tmp_path):
    make_runs(tmp_path, "run", "run2")
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "run" / target)
    with pytest.raises(UserError, match=r"symbolic link .*trust=true") as refused:
        RunFolder(tmp_path / "run").check_links()
    assert str(link) in str(refused.value)
    with pytest.raises(UserError, match="symbolic link"):
        RunFolder(tmp_path / "run").read_config()


def test_links_within_a_run_and_a_link_to_it_are_taken(tmp_path):
    make_runs(tmp_path, "run")
    (tmp_path / "run" / "wandb").mkdir()
    (tmp_path / "run" / "wandb" / "latest-run").symlink_to("../config.yaml")
    (tmp_path / "run" / "again").symlink_to(".")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    RunFolder(tmp_path / "run").check_links()
    RunFolder(tmp_path / "link").check_links()
