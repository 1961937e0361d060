"""Shards elsewhere: in fsspec's memory, in a folder by its URL, and behind a server."""

import http.server
import itertools
import pickle
import re
import threading
from functools import partial
from multiprocessing import get_context
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from hardneg_plugin.data.datamodule import StudyDataModule
from hardneg_plugin.data.downloads.study import OriginalStudy
from hardneg_plugin.data.loader import TrainingLoader
from hardneg_plugin.data.prepare.build import PrepareSettings, build
from hardneg_plugin.data.prepared import PreparedStudies
from hardneg_plugin.data.remote_store import RemoteStore
from hardneg_plugin.data.tokenizer import WordTokenizer
from hardneg_plugin.errors import UserError

TRAIN, SIZE = 13, 24


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A prepared folder of four shards, whose images are in fsspec's memory too."""
    home = tmp_path_factory.mktemp("data")
    source = []
    for number in range(TRAIN + 2):
        noise = np.random.default_rng(number).integers(0, 256, (30, 26 + number % 3), dtype=np.uint8)
        Image.fromarray(noise).save(home / f"{number}.png")
        split = "train" if number < TRAIN else ("val", "test")[number - TRAIN]
        paths = (home / f"{number}.png",) * (1 + number % 2)
        source.append(OriginalStudy(f"s{number}", paths, f"Report {number}.", split=split))
    build(source, home / "prepared", PrepareSettings(size=SIZE), chunk=4)
    memory = fsspec.filesystem("memory")
    for file in (home / "prepared" / "images").iterdir():
        memory.pipe_file(f"/bucket/images/{file.name}", file.read_bytes())
    return home


def local(home, images=None):
    return PreparedStudies(home / "prepared", resize=SIZE, crop=20, images=images)


def urls(home):
    return ["memory://bucket/images/", f"file://{home / 'prepared' / 'images'}"]


def test_studies_are_those_of_the_local_folder(home):
    expected = local(home)
    for url in urls(home):
        found = pickle.loads(pickle.dumps(local(home, url)))
        for split in ("train", "val", "test"):
            for index, seed in itertools.product(range(len(expected.split(split))), (None, 7)):
                key = index if seed is None else (index, seed)
                one, other = found.split(split)[key], expected.split(split)[key]
                assert torch.equal(one.pop("images"), other.pop("images"))
                assert one == other
        found.split("train").check()


def batches(source, rank, num_workers=0, handed_out=0):
    """What a rank of two sees of epoch 3, the batches that it has been handed out before left out."""
    data = StudyDataModule(
        source,
        partial(WordTokenizer.from_reports, min_count=1),
        batch_size=2,
        max_length=8,
        num_workers=num_workers,
        seed=5,
    )
    data.setup("fit")
    whole = data.train_dataloader()
    keys: Any = whole.sampler
    keys.set_epoch(3)
    own = _Every(keys, rank)
    loader = TrainingLoader(
        whole.dataset, batch_size=2, sampler=own, num_workers=num_workers, collate_fn=whole.collate_fn
    )
    if handed_out:
        loader.load_state_dict({"epoch": 3, "batches": handed_out})
    return [(batch["ids"], batch["images"]) for batch in loader]


class _Every:
    """Every second key, from the rank's on, as Lightning's distributed wrapper hands them out."""

    def __init__(self, keys, rank):
        self.keys, self.rank, self.epoch = keys, rank, keys.epoch

    def __len__(self):
        return len(range(self.rank, len(self.keys), 2))

    def __iter__(self):
        return itertools.islice(iter(self.keys), self.rank, None, 2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_order_ranks_workers_and_resume_are_those_of_the_local_folder(home, num_workers):
    seen = []
    for rank in (0, 1):
        expected = batches(local(home), rank)
        for handed_out in (0, 2):
            found = batches(local(home, urls(home)[0]), rank, num_workers, handed_out)
            for (ids, images), (other_ids, other_images) in zip(found, expected[handed_out:], strict=True):
                assert ids == other_ids
                assert torch.equal(images, other_images)
        seen += [study for ids, _ in expected for study in ids]
    assert sorted(seen) == sorted(f"s{number}" for number in range(TRAIN))


def test_a_rank_asks_for_the_bytes_of_its_studies_and_no_more(home, monkeypatch):
    asked = []
    cat_file = MemoryFileSystem.cat_file

    def counted(self, path, start=None, end=None, **options):
        asked.append((path, start, end))
        return cat_file(self, path, start, end, **options)

    monkeypatch.setattr(MemoryFileSystem, "cat_file", counted)
    source = local(home, urls(home)[0])
    assert not asked  # sizes come by a listing
    split = source.split("train")
    places = {study: split.place(index) for index, study in enumerate(split.ids)}
    read = [study for ids, _ in batches(source, rank=1) for study in ids]
    expected = [
        (f"/bucket/images/{shard:05d}.bin", at.offset, at.offset + at.size) for shard, at in map(places.get, read)
    ]
    assert asked == expected
    assert len(set(asked)) == TRAIN // 2


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A server that answers requests for ranges."""

    def do_GET(self):
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span is None:
            super().do_GET()
            return
        content = open(self.translate_path(self.path), "rb").read()[int(span[1]) : int(span[2]) + 1]  # noqa: SIM115
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_forked_workers_read_from_a_server_whose_file_system_the_parent_has_used(home):
    """A file system with a thread of its own, which a fork does not copy."""
    pytest.importorskip("aiohttp")
    handler = partial(Ranges, directory=home / "prepared" / "images")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        split = local(home, f"http://127.0.0.1:{server.server_port}").split("train")
        expected = local(home).split("train")
        assert torch.equal(split[0]["images"], expected[0]["images"])
        loader = torch.utils.data.DataLoader(
            split, batch_size=None, num_workers=2, multiprocessing_context=get_context("fork"), timeout=60
        )
        for found, other in zip(loader, expected, strict=True):
            assert torch.equal(found["images"], other["images"])
        server.shutdown()


def test_what_is_wrong_is_said_with_the_place(home):
    memory = fsspec.filesystem("memory")
    with pytest.raises(UserError, match=r"images: expected a URL, such as s3://.*, but got '/data'"):
        local(home, "/data")
    with pytest.raises(
        UserError, match=r"images: expected a folder of shards at memory://none, but it cannot be listed"
    ):
        local(home, "memory://none")
    with pytest.raises(UserError, match=r"expected a URL that fsspec can open, but nosuch://x is none .*s3fs"):
        local(home, "nosuch://x")
    for file in memory.ls("/bucket/images", detail=False):
        memory.pipe_file(file.replace("bucket", "broken"), memory.cat_file(file))
    source = local(home, "memory://broken/images")
    whole = memory.cat_file("/broken/images/00001.bin")
    memory.pipe_file("/broken/images/00001.bin", bytes(len(whole)))
    with pytest.raises(
        UserError, match=r"Study 's4': the images at bytes 0 to \d+ of memory://broken/images/00001\.bin are not"
    ):
        source.split("train")[4]
    memory.rm("/broken/images/00001.bin")
    with pytest.raises(
        UserError, match=r"Study 's4': memory://broken/images/00001\.bin cannot be read .* from its last"
    ):
        source.split("train")[4]
    with pytest.raises(UserError, match=r"memory://broken/images/00001\.bin cannot be found\. Copy the folder"):
        local(home, "memory://broken/images")
    memory.pipe_file("/broken/images/00001.bin", whole[:-1])
    with pytest.raises(UserError, match=r"expected memory://broken/images/00001\.bin to end with its images after"):
        local(home, "memory://broken/images")


def test_an_impossible_place_is_refused(home):
    store = RemoteStore("memory://bucket/images")
    _, at = local(home).split("train").place(0)
    with pytest.raises(UserError, match="Study 's': expected its images at bytes"):
        store.views("s", 0, at._replace(offset=10**9))
