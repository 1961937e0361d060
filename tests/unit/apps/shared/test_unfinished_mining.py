"""The folder of an interrupted mining."""

import pytest

from hardneg_plugin.apps.shared.unfinished_mining import unfinished_mining
from hardneg_plugin.errors import UserError

MADE_FROM = {"backend": "ivf", "k": 5, "reports": "4f"}


def test_stays_after_an_error_and_is_gone_after_the_end(tmp_path):
    table = tmp_path / "t.parquet"

    def killed(folder):
        (folder / "neighbours-00000.safetensors").write_text("whole")
        (folder / ".neighbours-00001.safetensors.5e").write_text("hal")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), unfinished_mining(table, MADE_FROM) as folder:
        killed(folder)
    with unfinished_mining(table, MADE_FROM) as folder:
        assert sorted(path.name for path in folder.iterdir()) == [
            "lock",
            "made_from.json",
            "neighbours-00000.safetensors",
        ]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({"k": 6}, "but it was begun with k=5. Delete the folder to mine from the start, or set another output"),
        ({"reports": "5a"}, "but the studies were others"),
        ({"backend": "hnsw", "reports": "5a"}, "but it was begun with backend=ivf and the studies were others"),
        ({"embedder.run": "outputs/mine"}, "but it was begun with embedder.run=None"),
    ],
)
def test_parts_of_another_mining_are_refused_and_left(tmp_path, now, told):
    table = tmp_path / "t.parquet"
    with pytest.raises(KeyboardInterrupt), unfinished_mining(table, MADE_FROM):
        raise KeyboardInterrupt
    with (
        pytest.raises(UserError, match=rf"t\.parquet\.parts: expected an interrupted mining .*{told}"),
        unfinished_mining(table, {**MADE_FROM, **now}),
    ):
        pass
    assert (tmp_path / "t.parquet.parts" / "made_from.json").exists()


def test_a_folder_of_something_else_and_one_in_use_are_refused(tmp_path):
    table = tmp_path / "t.parquet"
    (tmp_path / "t.parquet.parts").mkdir()
    (tmp_path / "t.parquet.parts" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not a folder of hardneg-mine"), unfinished_mining(table, MADE_FROM):
        pass
    other = tmp_path / "u.parquet"
    with (
        unfinished_mining(other, MADE_FROM),
        pytest.raises(UserError, match="another hardneg-mine is at work"),
        unfinished_mining(other, MADE_FROM),
    ):
        pass


def test_a_full_disk_is_told_with_what_to_do(tmp_path):
    with (
        pytest.raises(UserError, match=r"No space left.*Run the same command to go on once it can be"),
        unfinished_mining(tmp_path / "t.parquet", MADE_FROM),
    ):
        raise OSError(28, "No space left on device")
