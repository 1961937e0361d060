import os

import pytest

from hardneg_plugin.data.downloads.folders import files_below, path_within
from hardneg_plugin.errors import UserError


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "home"
    for name in ["b/2.png", "b/10.png", "a.png", ".hidden.png", "b/._2.png", ".git/config"]:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(name)
    (tmp_path / "outside.png").write_text("secret")
    return home


def test_all_files_by_name_but_hidden_ones(folder):
    (folder / "linked.png").symlink_to("b/2.png")
    (folder / "again").symlink_to("b")  # what is there is met under b
    (folder / "round").symlink_to(".")
    expected = ["a.png", "b/10.png", "b/2.png", "linked.png"]
    assert list(files_below(folder)) == [(name, folder / name) for name in expected]


@pytest.mark.parametrize("target", ["../outside.png", "..", "/etc", "gone.png"])
def test_links_that_leave_or_lead_nowhere(folder, target):
    (folder / "b" / "link.png").symlink_to(target if target == "/etc" else f"../{target}")
    with pytest.raises(UserError, match=r"link\.png"):
        list(files_below(folder))


def test_pipes_and_missing_folders(folder):
    os.mkfifo(folder / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png is neither"):
        list(files_below(folder))
    with pytest.raises(UserError, match="No such file"):
        list(files_below(folder / "gone"))
    with pytest.raises(UserError, match="Not a directory"):
        list(files_below(folder / "a.png"))


def test_a_path_within(folder, tmp_path):
    assert path_within(folder, "b/2.png") == folder / "b/2.png"
    assert path_within(folder, "gone/3.png") == folder / "gone/3.png"
    (folder / "linked.png").symlink_to("b/2.png")
    assert path_within(folder, "linked.png") == folder / "linked.png"
    (tmp_path / "alias").symlink_to(folder)
    assert path_within(tmp_path / "alias", "a.png") == tmp_path / "alias" / "a.png"


@pytest.mark.parametrize("name", ["", ".", "..", "../outside.png", "b/../../outside.png", "/etc/passwd", "a\0.png",
                                  "C:\\x.png", "..\\outside.png", "\\\\host\\share\\x.png"])  # fmt: skip
def test_a_path_that_leaves(folder, name):
    with pytest.raises(UserError, match="Expected paths inside"):
        path_within(folder, name)


def test_a_path_that_leaves_by_a_link(folder):
    (folder / "out").symlink_to("..")
    with pytest.raises(UserError, match="outside"):
        path_within(folder, "out/outside.png")
    (folder.parent / "home2").mkdir()  # begins with the same letters
    (folder / "next").symlink_to("../home2")
    with pytest.raises(UserError, match="outside"):
        path_within(folder, "next")
