import io
import multiprocessing
import os
import pickle
import zlib

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hardneg_plugin.data.store import ImageStore, StoredViews, shard_name, write_shard
from hardneg_plugin.errors import UserError


def view(seed, height, width):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (1, height, width), dtype=np.uint8))


STUDIES = [[view(0, 3, 5), view(1, 4, 2)], [view(2, 7, 1)], [view(3, 2, 2)]]


@pytest.fixture
def stored(tmp_path):
    with open(tmp_path / "00002.bin", "wb") as file:
        return write_shard(file, STUDIES)


def test_a_shard_is_the_bytes_of_the_views_one_after_another(tmp_path, stored):
    parts = [b"".join(bytes(each.flatten().tolist()) for each in views) for views in STUDIES]
    assert (tmp_path / shard_name(2)).read_bytes() == b"".join(parts)
    assert [each.offset for each in stored] == [0, 23, 30]
    assert [each.size for each in stored] == [23, 7, 4]
    assert [each.checksum for each in stored] == [zlib.crc32(part) for part in parts]
    assert stored[0][1:3] == ((3, 4), (5, 2))


def test_what_was_written_is_read(tmp_path, stored):
    store = ImageStore(tmp_path)
    for place, views in zip(stored, STUDIES, strict=True):
        read = store.views("s", 2, place)
        assert len(read) == len(views)
        assert all(torch.equal(one, other) for one, other in zip(read, views, strict=True))
        store.check("s", 2, place)


def test_a_view_that_is_a_slice_of_another_is_written_as_it_looks(tmp_path):
    image = view(0, 8, 9)
    with open(tmp_path / "00000.bin", "wb") as file:
        (place,) = write_shard(file, [[image[:, 2:5, 3:7]]])
    assert torch.equal(ImageStore(tmp_path).views("s", 0, place)[0], image[:, 2:5, 3:7])


@pytest.mark.parametrize(
    "bad", [torch.zeros(1, 2, 2), torch.zeros(2, 2, dtype=torch.uint8), view(0, 2, 2).expand(3, 2, 2)]
)
def test_other_types_and_shapes_are_refused(bad):
    with pytest.raises(ValueError, match="Expected views"):
        write_shard(io.BytesIO(), [[bad]])


def test_views_are_not_copied_and_nothing_reaches_the_file(tmp_path, stored):
    store = ImageStore(tmp_path)
    before = (tmp_path / "00002.bin").read_bytes()
    first, again = (store.views("s", 2, stored[1])[0] for _ in range(2))
    assert first.data_ptr() == again.data_ptr()
    first.zero_()
    assert (tmp_path / "00002.bin").read_bytes() == before


def test_no_file_stays_open(tmp_path):
    store = ImageStore(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for shard in range(20):
        (tmp_path / shard_name(shard)).write_bytes(b"x")
        store.views("s", shard, StoredViews(0, (1,), (1,), 0))
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "place",
    [
        StoredViews(30, (2,), (3,), 0),
        StoredViews(-1, (1,), (1,), 0),
        StoredViews(34, (1,), (1,), 0),
        StoredViews(2**62, (1,), (1,), 0),
        StoredViews(0, (2**31 - 1,), (2**31 - 1,), 0),
        StoredViews(0, (-1,), (-1,), 0),
        StoredViews(0, (2, -1), (2, 2), 0),
        StoredViews(0, (0,), (3,), 0),
    ],
)
def test_nothing_outside_the_file_is_read(tmp_path, stored, place):
    with pytest.raises(UserError, match=r"Study 's7'.*00002\.bin.*34"):
        ImageStore(tmp_path).views("s7", 2, place)


def test_shards_that_are_missing_empty_or_no_file(tmp_path):
    (tmp_path / "00001.bin").touch()
    (tmp_path / "00002.bin").mkdir()
    for shard, words in enumerate(["cannot be found", "truncated", "to be a file"]):
        with pytest.raises(UserError, match=f"Study 's7'.*{words}"):
            ImageStore(tmp_path).views("s7", shard, StoredViews(0, (1,), (1,), 0))


def test_a_changed_byte_is_found_by_the_checksum(tmp_path, stored):
    content = bytearray((tmp_path / "00002.bin").read_bytes())
    content[25] ^= 1
    (tmp_path / "00002.bin").write_bytes(content)
    store = ImageStore(tmp_path)
    store.check("s0", 2, stored[0])
    with pytest.raises(UserError, match=r"Study 's1'.*00002\.bin"):
        store.check("s1", 2, stored[1])


class Items:
    def __init__(self, store, places):
        self.store, self.places = store, places

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        return self.store.views("s", 2, self.places[index])[0].clone()


def test_a_store_in_use_is_pickled_as_a_name(tmp_path):
    with open(tmp_path / "00000.bin", "wb") as file:
        (place,) = write_shard(file, [[view(0, 300, 300)]])
    store = ImageStore(tmp_path)
    store.views("s", 0, place)
    pickled = pickle.dumps(store)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled).views("s", 0, place)[0], view(0, 300, 300))


def test_forked_workers_read_too(tmp_path, stored):
    store = ImageStore(tmp_path)
    store.views("s", 2, stored[0])  # mapped before, and after the fork read by all of them
    loader = DataLoader(
        Items(store, stored),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=multiprocessing.get_context("fork"),
    )
    assert all(torch.equal(read, views[0]) for read, views in zip(loader, STUDIES, strict=True))
