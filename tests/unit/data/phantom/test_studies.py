import pickle
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.data.phantom.findings import canonical
from hardneg_plugin.errors import UserError

SMALL = {"train": 12, "val": 5, "test": 6, "size": 48}


def digest(source):
    everything = sha256()
    for name in ("train", "val", "test"):
        split = source.split(name)
        for index in range(len(split)):
            sample = split[index]
            everything.update(sample["images"].numpy().tobytes())
            everything.update(repr((sample["id"], sample["report"], sample["labels"], sample["patient"])).encode())
    return everything.hexdigest()


def test_sample():
    split = PhantomStudies(**SMALL).split("val")
    sample = split[3]
    assert sample["images"].shape == (2, 1, 48, 48)
    assert sample["images"].dtype == torch.uint8
    assert sample["id"] == sample["patient"] == split.ids[3] == "phantom-val-000003"
    assert sample["report"] == split.reports[3]
    assert sample["labels"] == canonical(PhantomStudies.read_findings(sample["report"]))
    assert split[-1]["id"] == split.ids[4]
    with pytest.raises(IndexError):
        split[5]


def test_labels_are_what_the_report_says():
    split = PhantomStudies(train=300).split("train")
    assert [canonical(PhantomStudies.read_findings(report)) for report in split.reports] == [
        canonical(findings) for findings in split.findings
    ]
    assert sum(not findings for findings in split.findings) == pytest.approx(120, abs=30)


@pytest.mark.slow
def test_two_instances_and_another_process_give_the_same_bytes():
    program = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('t', sys.argv[1]);"
        "t = importlib.util.module_from_spec(spec); spec.loader.exec_module(t);"
        "print(t.digest(t.PhantomStudies(**t.SMALL)))"
    )
    run = subprocess.run([sys.executable, "-c", program, __file__], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(PhantomStudies(**SMALL)) == digest(PhantomStudies(**SMALL, cache=False))
    assert digest(PhantomStudies(**SMALL)) != digest(PhantomStudies(**SMALL, seed=1))


def test_a_split_does_not_depend_on_the_length_of_another():
    short, long = PhantomStudies(**SMALL), PhantomStudies(**{**SMALL, "train": 20, "val": 9})
    assert short.split("test").reports == long.split("test").reports
    assert short.split("val").reports == long.split("val").reports[:5]
    assert short.split("train").reports == long.split("train").reports[:12]
    assert torch.equal(short.split("test")[2]["images"], long.split("test")[2]["images"])


def test_splits_are_disjoint():
    source = PhantomStudies(train=40, val=40, test=40, size=32)
    ids = [identifier for name in ("train", "val", "test") for identifier in source.split(name).ids]
    images = {source.split(name)[i]["images"].numpy().tobytes() for name in ("train", "val", "test") for i in range(40)}
    assert len(set(ids)) == len(images) == 120


def test_a_split_is_one_object():
    source = PhantomStudies(**SMALL)
    assert source.split("train") is source.split("train")
    assert source.split("train") is not source.split("val")


def test_empty_split():
    assert len(PhantomStudies(train=1, val=0, test=0, size=32).split("val")) == 0


# --- cache -----------------------------------------------------------------------------------------------------------


def drawn(monkeypatch):
    from hardneg_plugin.data.phantom import studies

    calls = []
    monkeypatch.setattr(studies, "render", lambda *args, real=studies.render: (calls.append(args), real(*args))[1])
    return calls


@pytest.mark.parametrize(("cache", "times"), [(True, 1), (False, 3)])
def test_each_study_is_drawn_once(monkeypatch, cache, times):
    calls = drawn(monkeypatch)
    split = PhantomStudies(**SMALL, cache=cache).split("train")
    first = split[4]["images"]
    expected = first.clone()
    first.zero_()  # a reader that writes on its sample does not write on the cache
    for _ in range(2):
        assert torch.equal(split[4]["images"], expected)
    assert len(calls) == times


def test_forked_workers_fill_one_cache(monkeypatch):
    split = PhantomStudies(**SMALL).split("train")
    loader = DataLoader(split, batch_size=3, num_workers=2, multiprocessing_context="fork", collate_fn=list)
    from_workers = [sample["images"] for batch in loader for sample in batch]
    calls = drawn(monkeypatch)
    assert all(torch.equal(split[index]["images"], images) for index, images in enumerate(from_workers))
    assert calls == []


def test_a_split_can_be_pickled():
    split = PhantomStudies(**SMALL).split("train")
    expected = split[1]["images"]
    assert torch.equal(pickle.loads(pickle.dumps(split))[1]["images"], expected)


# --- augmentation ----------------------------------------------------------------------------------------------------


def test_augmentation_is_drawn_from_its_seed_alone():
    split = PhantomStudies(train=3, size=96).split("train")
    plain, moved = split[0]["images"], split[0, 17]["images"]
    assert moved.shape == plain.shape
    assert moved.dtype == torch.uint8
    assert torch.equal(moved, split[0, 17]["images"])
    assert not torch.equal(moved, split[0, 18]["images"])
    assert not torch.equal(moved, plain)
    assert torch.equal(plain, split[0]["images"])
    assert split[0, 17]["report"] == split[0]["report"]


def test_augmentation_moves_little_and_never_flips():
    split = PhantomStudies(train=4, size=96).split("train")
    for index in range(4):
        plain = split[index]["images"][0, 0].numpy().astype(float)
        for seed in range(6):
            moved = split[index, seed]["images"][0, 0].numpy().astype(float)
            shifts = [np.roll(plain, (dy, dx), (0, 1)) for dy in range(-3, 4) for dx in range(-3, 4)]
            best, flipped = (
                max(np.corrcoef(moved[4:-4, 4:-4].ravel(), s[4:-4, 4:-4].ravel())[0, 1] for s in these)
                for these in (shifts, [shift[:, ::-1] for shift in shifts])
            )
            assert best > 0.999 > 0.995 > flipped
            assert moved.mean() / plain.mean() == pytest.approx(1, abs=0.15)


# --- marks and errors ------------------------------------------------------------------------------------------------


def test_marks_of_a_study():
    split = PhantomStudies(train=20, size=64, normal_share=0.0).split("train")
    for index in range(20):
        frontal = [mark.finding for mark in split.marks(index) if mark.view == "frontal"]
        assert frontal == sorted(split.findings[index])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 31}, "`size` >= 32, but got 31"),
        ({"train": -1}, "`train` >= 0, but got -1"),
        ({"test": -2}, "`test`"),
        ({"val": -2}, "`val`"),
        ({"seed": -1}, "`seed`"),
        ({"normal_share": 1.01}, "in \\[0, 1\\], but got 1.01"),
        ({"normal_share": -0.1}, r"in \[0, 1\]"),
        ({"normal_share": float("nan")}, r"in \[0, 1\]"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message) as error:
        PhantomStudies(**arguments)
    assert "\n" not in str(error.value)


def test_unknown_split():
    with pytest.raises(UserError, match="train, val, test, but got 'dev'"):
        PhantomStudies(**SMALL).split("dev")
