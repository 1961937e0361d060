"""Whatever an annotation file holds, it is read, or told in one line."""

import copy
import json

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from hardneg_plugin.data.annotations import AnnotatedStudies
from hardneg_plugin.data.studies import SPLITS
from hardneg_plugin.errors import UserError

WHOLE = {
    split: [
        {"id": f"{split} {i}", "report": "Clear.", "image_path": ["a.png", "b/c.png"], "patient": i, "labels": ["x"]}
        for i in range(2)
    ]
    for split in SPLITS
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = st.lists(
    st.sampled_from(["a.png", "b/c.png", "../a.png", "/etc/hostname", "a\0.png", "", "missing.png", "b"]), max_size=3
)
KEYS = st.sampled_from(["id", "report", "image_path", "patient", "subject_id", "labels", "split"])
CHANGES = st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(0, 1), KEYS, VALUES | PATHS), max_size=3)
FILES = st.dictionaries(st.sampled_from([*SPLITS, "none", "    ", "valid"]), st.lists(VALUES, max_size=2) | VALUES)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    home = tmp_path_factory.mktemp("fuzz")
    (home / "images" / "b").mkdir(parents=True)
    for name in ("a.png", "b/c.png"):
        Image.new("L", (40, 30), 90).save(home / "images" / name)
    return home


def read(root, content):
    """Reports by split, or None where the file is refused."""
    (root / "annotation.json").write_bytes(content)
    message = None
    try:
        source = AnnotatedStudies(root, check="stat")
    except UserError as error:
        message = str(error)
    if message is not None:
        assert "\n" not in message
        return None
    return {split: [sample["report"] for sample in map(source.split(split).__getitem__, (0, 1))] for split in SPLITS}


slow = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@slow
@given(changes=CHANGES)
@example([])
@example([("val", 1, "labels", ["b", "a"]), ("test", 0, "id", 7)])
def test_entries_with_anything_in_a_field(root, changes):
    content = copy.deepcopy(WHOLE)
    for split, index, key, value in changes:
        content[split][index][key] = value
    reports = read(root, json.dumps(content).encode())
    event("refused" if reports is None else "read")
    if reports is None:
        assert changes
    else:
        assert reports == {split: [entry["report"] for entry in content[split]] for split in SPLITS}


@slow
@given(content=FILES | VALUES)
def test_lists_of_anything(root, content):
    assert read(root, json.dumps(content).encode()) is None


@slow
@given(content=st.binary(max_size=60))
@example(b"[" * 100_000)
@example(b'{"train": ' + b"9" * 5_000 + b"}")
def test_any_bytes(root, content):
    assert read(root, content) is None
