"""The build of a prepared folder: what is in it, what is left out, and that nothing is lost or half-written."""

import errno
import fcntl
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy
from hardneg_plugin.data.images import read_grayscale
from hardneg_plugin.data.prepare import build as building
from hardneg_plugin.data.prepare import chunks, work_folder
from hardneg_plugin.data.prepare.build import PrepareSettings, build
from hardneg_plugin.data.prepared import PreparedStudies
from hardneg_plugin.errors import UserError

SIZE = 16
SPLITS = ("train", "val", "test")


class MadeUp:
    """Studies as given, read from the list every time."""

    def __init__(self, entries):
        self.entries = entries

    def __len__(self):
        return len(self.entries)

    def __iter__(self):
        return iter(self.entries)


def image(folder, name, seed=0, size=(24, 20)):
    path = folder / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(path)
    return path


def study(folder, i, **given):
    values = {
        "images": tuple(image(folder, f"{i}_{view}.png", 10 * i + view, (24 + i, 20)) for view in range(1 + i % 2)),
        "findings": f"Findings {i}.",
        "impression": f"Impression {i}.",
        "split": SPLITS[i % 3],
    }
    return OriginalStudy(**{"id": f"s{i}", **values, **given})


def prepared(source, output, *, chunk=4, **options):
    settings = {key: options.pop(key) for key in ("section", "size", "seed", "splits") if key in options}
    entries = source if hasattr(source, "entries") else MadeUp(source)
    return build(entries, output, PrepareSettings(**{"size": SIZE, **settings}), chunk=chunk, **options)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(output):
    return pq.read_table(output / "studies.parquet").to_pylist()


def error(*arguments, **options):
    with pytest.raises(UserError) as caught:
        prepared(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def ten(tmp_path):
    return MadeUp([study(tmp_path / "images", i) for i in range(10)])


@pytest.fixture
def output(tmp_path):
    return tmp_path / "prepared"


def test_a_row_per_study_and_the_images_as_resized(ten, output):
    summary, is_new = prepared(ten, output)
    assert is_new
    assert sorted(files(output)) == [
        *("dropped.jsonl", "images/00000.bin", "images/00001.bin", "images/00002.bin"),
        *("prepared.json", "studies.parquet"),
    ]
    assert not output.with_name("prepared.part").exists()
    stored = rows(output)
    assert [row["id"] for row in stored] == [f"s{i}" for i in range(10)]
    for i, (row, original) in enumerate(zip(stored, ten.entries, strict=True)):
        assert (row["split"], row["report"]) == (SPLITS[i % 3], f"Findings {i}.")
        assert (row["findings"], row["impression"], row["patient"], row["labels"]) == (
            *(f"Findings {i}.", f"Impression {i}."),
            *(None, None),
        )
        assert row["views"] == [path.name for path in original.images]
        assert row["shard"] == i // 4
        shard = (output / "images" / f"{row['shard']:05d}.bin").read_bytes()
        start = row["offset"]
        for path, height, width in zip(original.images, row["heights"], row["widths"], strict=True):
            resized = F.resize(read_grayscale(path, shorter_side=SIZE), [SIZE], antialias=True)
            assert resized.shape == (1, height, width)
            assert shard[start : start + height * width] == resized.numpy().tobytes()
            start += height * width
    description = json.loads((output / "prepared.json").read_text())
    assert description["version"] == 1
    assert description["summary"] == summary
    assert description["settings"] == {
        "source": None,
        "section": "findings",
        "size": SIZE,
        "seed": 0,
        "splits": {"train": 0.7, "val": 0.1, "test": 0.2},
    }
    assert summary["read"] == 10
    assert summary["kept"] == {
        "train": {"studies": 4, "views": 6},
        "val": {"studies": 3, "views": 5},
        "test": {"studies": 3, "views": 4},
    }
    assert summary["bytes"] == sum(len(content) for name, content in files(output).items() if "images" in name)
    assert summary["split"] == {"of the source": 10, "by the seed": 0}
    assert PreparedStudies(output, resize=SIZE, crop=12, check="checksums").split("val")[0]["id"] == "s1"


def test_what_is_left_out_is_counted_by_reason(ten, output, tmp_path):
    broken, good = tmp_path / "broken.png", image(tmp_path, "good.png")
    broken.write_bytes(good.read_bytes()[:90])
    missing = tmp_path / "missing.png"
    extra = [
        DroppedEntry("r1", "no image", "r1.xml"),
        study(tmp_path, 0),  # a repeated id
        study(tmp_path, 20, findings=" "),
        study(tmp_path, 21, images=(broken, good, missing)),
        study(tmp_path, 22, images=(broken,)),
        study(tmp_path, 23, images=()),
        study(tmp_path, 24, findings="half a \ud800 pair"),
        OriginalStudy(" ", (good,), findings="a"),
        DroppedEntry("r2", "no image"),
    ]
    summary, _ = prepared(ten.entries + extra, output)
    assert summary["read"] == 19
    assert summary["dropped"] == {
        "no image": 3,
        "repeated id": 1,
        "no findings": 1,
        "unreadable image": 3,
        "no readable image": 1,
        "text is not Unicode": 1,
        "no id": 1,
    }
    lines = [json.loads(line) for line in (output / "dropped.jsonl").read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in lines] == [
        *[("r1", "no image"), ("s0", "repeated id"), ("s20", "no findings"), ("s23", "no image")],
        *[("s24", "text is not Unicode"), (" ", "no id"), ("r2", "no image")],
        *[("s21", "unreadable image"), ("s21", "unreadable image")],
        *[("s22", "unreadable image"), ("s22", "no readable image")],
    ]
    assert str(broken) in lines[7]["detail"]
    assert str(missing) in lines[8]["detail"]
    kept = {row["id"]: row for row in rows(output)}
    assert set(kept) == {f"s{i}" for i in (*range(10), 21)}
    assert kept["s21"]["views"] == ["good.png"]
    assert len(PreparedStudies(output, resize=SIZE, crop=12).split("train")) == 5


def test_sections(tmp_path):
    entries = [study(tmp_path, i, report=f"All of {i}.") for i in range(3)]
    entries += [study(tmp_path, 3, findings=""), study(tmp_path, 4, impression="")]
    expected = {
        "findings": ["Findings 0.", None, "Findings 4."],
        "impression": ["Impression 0.", "Impression 3.", None],
        "both": ["Findings 0. Impression 0.", "Impression 3.", "Findings 4."],
        "report": ["All of 0.", None, None],
    }
    for section, texts in expected.items():
        output = tmp_path / section
        summary, _ = prepared(entries, output, section=section)
        reports = {row["id"]: row["report"] for row in rows(output)}
        assert [reports.get(name) for name in ("s0", "s3", "s4")] == texts
        assert summary["dropped"] == ({f"no {section}": texts.count(None)} if None in texts else {})
        assert json.loads((output / "prepared.json").read_text())["settings"]["section"] == section


def test_the_seed_splits_by_patient_what_the_source_does_not(tmp_path, output):
    entries = [study(tmp_path, i % 3, id=f"s{i}", split=None, patient=f"p{i // 2}") for i in range(90)]
    entries.append(study(tmp_path, 90, patient="p0", split="test"))
    entries.append(study(tmp_path, 91, patient="p0", split="train"))
    summary, _ = prepared(entries, output, chunk=16, seed=3)
    splits = {row["id"]: row["split"] for row in rows(output)}
    assert all(splits[f"s{i}"] == splits[f"s{i - i % 2}"] for i in range(90))
    assert set(splits.values()) == set(SPLITS)
    assert (splits["s90"], splits["s91"]) == ("test", "train")  # as the source has it
    assert summary["split"] == {"of the source": 2, "by the seed": 90}
    assert summary["by_the_seed_without_a_patient"] == 0
    assert summary["in_another_split_than_their_patient"] == sum(
        splits[name] != splits["s0"] for name in ("s90", "s91")
    )
    turned = tmp_path / "turned"
    prepared(entries[::-1], turned, chunk=16, seed=3)
    assert {row["id"]: row["split"] for row in rows(turned)} == splits
    other = tmp_path / "other"
    prepared(entries, other, chunk=16, seed=4)
    assert {row["id"]: row["split"] for row in rows(other)} != splits


def test_a_split_without_studies_names_the_setting(tmp_path, output):
    entries = [study(tmp_path, i, split=None) for i in range(8)]
    shares = {"train": 0.5, "val": 0.0, "test": 0.5}
    assert "val has none of the 8" in error(entries, output, splits=shares)
    assert "splits.val above 0.0" in error(entries, output, splits=shares)
    assert "split of the source" in error([study(tmp_path, 0), study(tmp_path, 1)], output)
    assert not output.exists()


def test_nothing_that_can_be_used(tmp_path, output):
    assert "the source is empty" in error([], output)
    assert "2 no impression" in error(
        [study(tmp_path, i, impression="") for i in range(2)], output, section="impression"
    )
    assert not list(tmp_path.glob("prepared*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"section": "abstract"}, "section: expected one of findings"),
        ({"size": 0}, "size"),
        ({"size": 2.5}, "size"),
        ({"seed": -1}, "seed"),
        ({"splits": {"train": 1}}, "splits"),
        ({"workers": -1}, "workers"),
        ({"workers": "two"}, "workers"),
        ({"overwrite": "yes"}, "overwrite"),
    ],
)
def test_settings_out_of_range(ten, output, tmp_path, options, words):
    assert words in error(ten, output, **options)
    assert not list(tmp_path.glob("prepared*"))


def test_a_finished_folder_is_left_alone_or_replaced(ten, output, tmp_path):
    first, _ = prepared(ten, output)
    before = files(output)
    again, is_new = prepared(ten, output)
    assert (again, is_new) == (first, False)
    assert files(output) == before
    message = error(ten, output, section="both", size=8)
    assert "(section, size differ)" in message
    assert "overwrite=true" in message
    assert files(output) == before
    _, is_new = prepared(ten, output, size=8, overwrite=True)
    assert is_new
    assert rows(output)[0]["heights"] == [9]
    assert [path.name for path in tmp_path.glob("prepared*")] == ["prepared"]


def test_the_old_folder_stays_until_the_new_one_is_whole(ten, output):
    prepared(ten, output)
    before = files(output)
    assert "none of the 1" in error(ten.entries[:1], output, overwrite=True)
    assert files(output) == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("what", ["file", "folder", "prepared.json", "studies.parquet", "part", "dangling link"])
def test_what_is_not_ours_is_left_as_it_is(ten, output, tmp_path, what, overwrite):
    theirs = {
        "file": output,
        "folder": output / "thesis.tex",
        "prepared.json": output / "prepared.json",  # without the other, it is not ours
        "studies.parquet": output / "studies.parquet",
        "part": tmp_path / "prepared.part" / "thesis.tex",
    }
    if what == "dangling link":
        output.symlink_to(tmp_path / "gone" / "away")
        (tmp_path / "gone").write_text("a file")
        assert "cannot be written" in error(ten, output, overwrite=overwrite)
        return
    theirs[what].parent.mkdir(exist_ok=True)
    theirs[what].write_text("mine")
    assert "it is left as it is" in error(ten, output, overwrite=overwrite)
    assert theirs[what].read_text() == "mine"


def test_an_empty_folder_is_a_place_to_be_and_parents_are_made(ten, tmp_path):
    (tmp_path / "empty").mkdir()
    assert prepared(ten, tmp_path / "empty")[1]
    assert prepared(ten, tmp_path / "a" / "b")[1]
    assert files(tmp_path / "empty") == files(tmp_path / "a" / "b")


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing(ten, output, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    entries = [*ten.entries, study(tmp_path, 11, images=(broken,)), DroppedEntry("x", "no image"), study(tmp_path, 12)]
    prepared(entries, output, chunk=2)
    prepared(entries, tmp_path / "parallel", chunk=2, workers=2)
    assert files(output) == files(tmp_path / "parallel")


def killed_at(event, function):
    """Call a function in a forked process that is killed at a change to the file system; gives whether it came so far."""
    child = os.fork()
    if not child:
        seen = 0

        def count(name, arguments):
            nonlocal seen
            writes = name == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if writes or name in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"):
                seen += 1
                if seen == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        try:
            torch.set_num_threads(1)
            sys.addaudithook(count)
            function()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.mark.slow
def test_killed_at_any_moment_the_next_goes_on(ten, output, tmp_path):
    few = ten.entries[:5]
    prepared(few, tmp_path / "unbroken")
    expected = files(tmp_path / "unbroken")
    event = 1
    while killed_at(event, lambda: prepared(few, output)):
        if output.exists():
            assert files(output) == expected
        prepared(few, output)
        assert files(output) == expected
        assert not output.with_name("prepared.part").exists()
        os.rename(output, tmp_path / f"done{event}")
        event += 1
    assert event > 20


@pytest.mark.slow
def test_killed_while_replacing_there_is_always_the_old_or_the_new(ten, output, tmp_path):
    few = ten.entries[:3]
    prepared(few, tmp_path / "new", size=8)
    prepared(few, tmp_path / "old")
    old, new = files(tmp_path / "old"), files(tmp_path / "new")
    shutil.copytree(tmp_path / "old", output)
    event = 1
    while killed_at(event, lambda: prepared(few, output, size=8, overwrite=True)):
        with work_folder.at_work_on(output):
            assert files(output) in (old, new)
        prepared(few, output, size=8, overwrite=True)
        assert files(output) == new
        shutil.rmtree(output)
        shutil.copytree(tmp_path / "old", output)
        event += 1
    assert event > 20


@pytest.fixture
def read(monkeypatch):
    """The images that are read."""
    names = []

    def reading(path, **options):
        names.append(path.name)
        return read_grayscale(path, **options)

    monkeypatch.setattr(chunks, "read_grayscale", reading)
    return names


@pytest.fixture
def halfway(ten, output):
    """A work folder with two of three chunks done."""

    class Broken(MadeUp):
        def __iter__(self):
            yield from self.entries[:9]
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        prepared(Broken(ten.entries), output)
    return output.with_name("prepared.part")


def names(entries):
    return [path.name for entry in entries for path in entry.images]


def test_chunks_that_are_done_are_kept(ten, output, halfway, read):
    prepared(ten, output)
    assert read == names(ten.entries[8:])


def test_other_splits_and_texts_need_no_image_again(ten, output, halfway, read):
    prepared(ten, output, section="both", seed=4)
    assert read == names(ten.entries[8:])
    assert rows(output)[0]["report"] == "Findings 0. Impression 0."


@pytest.mark.parametrize("change", ["size", "image", "studies", "shard", "record"])
def test_chunks_of_other_settings_or_studies_are_redone(ten, output, halfway, read, tmp_path, change):
    entries, size = list(ten.entries), SIZE
    redone = names(entries[4:])
    if change == "size":
        size, redone = 8, names(entries)
    elif change == "image":
        path = entries[5].images[0]
        os.utime(path, ns=(1, 1))
    elif change == "studies":
        del entries[5]
        redone = names(entries[4:])
    elif change == "shard":
        os.truncate(halfway / "folder" / "images" / "00001.bin", 700)
    else:
        (halfway / "records" / "00001.json").write_text('{"fingerprint": "x"}')
    prepared(entries, output, size=size)
    assert read == redone
    prepared(entries, tmp_path / "unbroken", size=size)
    assert files(output) == files(tmp_path / "unbroken")


def test_shards_of_a_longer_list_do_not_stay(ten, output, halfway, tmp_path):
    prepared(ten.entries[:4], output)
    prepared(ten.entries[:4], tmp_path / "unbroken")
    assert files(output) == files(tmp_path / "unbroken")


def test_two_commands_on_one_folder(ten, output):
    class Inner(MadeUp):
        def __iter__(self):
            assert "another hardneg-prepare is at work" in error(ten, output)
            return super().__iter__()

    assert prepared(Inner(ten.entries), output)[1]
    assert len(rows(output)) == 10


def test_a_lock_of_another_process_counts(ten, output):
    part = output.with_name("prepared.part")
    part.mkdir()
    with open(part / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another hardneg-prepare is at work" in error(ten, output)
    assert prepared(ten, output)[1]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_at_any_file_is_one_line_and_can_be_gone_on_from(ten, output, tmp_path, monkeypatch, call):
    prepared(ten, tmp_path / "unbroken")
    real = getattr(os, call)
    failing = 1
    while True:
        calls = 0

        def full(*arguments, at=failing):
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(chunks.os, call, full)
            if failing > 1:
                os.rename(output, tmp_path / f"done{call}{failing}")
            try:
                prepared(ten, output)
                break
            except UserError as caught:
                message = str(caught)
        assert "No space left on device" in message
        assert not output.exists()
        assert not list(output.with_name("prepared.part").rglob(".*"))
        prepared(ten, output)
        assert files(output) == files(tmp_path / "unbroken")
        failing += 1
    assert failing > 6


@pytest.mark.parametrize("limit", [100, 3000])
def test_files_that_may_not_grow(ten, output, limit):
    """A limit of the system on the size of files, as a disk that is full in the midst of one."""
    code = None
    child = os.fork()
    if not child:
        try:
            import resource

            torch.set_num_threads(1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                prepared(ten, output)
            except UserError as caught:
                os._exit(7 if "File too large" in str(caught) and not output.exists() else 8)
        finally:
            os._exit(9)
    _, status = os.waitpid(child, 0)
    code = os.WEXITSTATUS(status)
    assert code == 7
    assert not output.exists()
    prepared(ten, output)
    assert len(rows(output)) == 10


def test_a_folder_that_cannot_be_written(ten, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be written (Not a directory)" in error(ten, tmp_path / "file" / "prepared")


def test_the_bar_shows_where_somebody_looks(ten, output, tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal, pipe = Terminal(), io.StringIO()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    prepared([*ten.entries, DroppedEntry("x", "no image")], output)
    assert "11/11" in terminal.getvalue()
    monkeypatch.setattr(sys, "stdout", pipe)
    prepared(ten, tmp_path / "again")
    assert pipe.getvalue() == ""


def test_file_names_that_are_no_unicode(ten, output, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png"))
    image(tmp_path, "plain.png").rename(path)
    prepared([*ten.entries, study(tmp_path, 11, images=(path,))], output)
    assert rows(output)[-1]["views"] == ["caf?.png"]


def test_memory_does_not_grow_with_the_data(output, tmp_path, monkeypatch):
    """Texts of what is done are let go: only those of a chunk are held."""
    import weakref

    path, alive, most = image(tmp_path, "0.png"), weakref.WeakSet(), 0

    class Study(OriginalStudy):
        pass

    class Endless(MadeUp):
        def __iter__(self):
            nonlocal most
            for i in range(60):
                entry = Study(f"s{i}", (path,), findings="a", split=SPLITS[i % 3])
                alive.add(entry)
                most = max(most, len(alive))
                yield entry

    prepared(Endless([0] * 60), output, chunk=4)
    assert len(rows(output)) == 60
    assert most <= 10
    assert building.CHUNK == 256
