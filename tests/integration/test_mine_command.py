"""hardneg-mine from data to a table that training takes, and what is wrong in one line."""

import errno
import io
import json
import shlex

import pyarrow.parquet as pq
import pytest

from hardneg_plugin.apps import mine
from hardneg_plugin.data.phantom import PhantomStudies
from hardneg_plugin.neighbours.table import read_metadata, read_neighbours


@pytest.fixture
def phantom(tiny):
    return ["data=phantom", *(argument for argument in tiny if argument.startswith("data.datamodule.source."))]


def test_a_mined_table_trains_and_a_run_mines_another(cli, tiny, phantom, tmp_path, read_json):
    table = tmp_path / "tables é" / "neighbours (1).parquet"
    result = cli("hardneg-mine", *phantom, "k=3", "ceiling=0.9", f"output={table}")
    assert result.code == 0, result.err
    assert all(words in result.out for words in ("same text", "same label set", "cosine above 0.9", "hardest pairs"))
    mined = read_neighbours(table)
    studies = PhantomStudies(train=24, val=6, test=6, size=32).split("train")
    assert list(mined) == studies.ids
    assert any(mined.values())
    of = dict(zip(studies.ids, zip(studies.reports, studies.labels, strict=True), strict=True))
    for study, names in mined.items():
        assert len(names) <= 3
        for name in names:
            assert of[name][0] != of[study][0]
            assert of[name][1] != of[study][1]
    scores = pq.read_table(table)["scores"].to_pylist()
    assert all(row == sorted(row, reverse=True) and max(row, default=0) <= 0.9 + 1e-6 for row in scores)
    metadata = read_metadata(table)
    assert (metadata["studies"], metadata["settings"]["k"], metadata["settings"]["labels"]) == (24, 3, "exclude")
    siblings = sum(studies.labels.count(labels) > 1 for labels in studies.labels)
    assert metadata["excluded"]["label set"]["studies"] == siblings > 0
    assert metadata["excluded"]["patient"] == {"studies": 0, "pairs": 0}

    run = tmp_path / "run"
    paired = ["negatives=paired", f"data.paired.table={table}"]
    command, *pasted = shlex.split(result.out.splitlines()[-1].removeprefix("Train with it: "))
    assert command == "hardneg-train"
    assert {"negatives=bank", "data=phantom", "data.datamodule.source.train=24"} < set(pasted)
    for name, source in (("bank", pasted), ("paired", paired)):
        result = cli("hardneg-train", *tiny, *source, f"hydra.run.dir={run / name}")
        assert result.code == 0, result.err
        assert "R@1" in read_json(run / name / "metrics.json")["test"]

    other = tmp_path / "by_run.parquet"
    arguments = [
        *phantom,
        "embedder=run",
        f"embedder.run={run / 'paired'}",
        f"output={other}",
        "backend=torch",
    ]
    result = cli("hardneg-mine", *arguments)
    assert result.code == 0, result.err
    assert list(read_neighbours(other)) == studies.ids
    first = other.read_bytes()
    assert cli("hardneg-mine", *arguments, "chunk=5").code == 0
    assert pq.read_table(other).equals(pq.read_table(io.BytesIO(first)))
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_approximate_search_goes_on_and_makes_the_same_table(cli, phantom, tmp_path, monkeypatch):
    """So few studies are all compared; the parts of an interrupted mining are kept, and refused by other settings."""
    pytest.importorskip("faiss")
    table, exact = tmp_path / "ivf.parquet", tmp_path / "torch.parquet"
    arguments = [*phantom, "k=3", f"output={table}", "backend=ivf"]
    with monkeypatch.context() as patch:
        patch.setattr(mine, "write_neighbours", full_disk)
        assert "Run the same command to go on" in cli("hardneg-mine", *arguments).err
    parts = table.with_name("ivf.parquet.parts")
    assert (parts / "neighbours-00000.safetensors").exists()
    other = cli("hardneg-mine", *arguments, "effort=2")
    assert (other.code, "it was begun with effort=1.0. Delete the folder" in other.err) == (2, True)
    result = cli("hardneg-mine", *arguments)
    assert result.code == 0, result.err
    assert "cosine above 0.95, at least" in result.out
    assert not parts.exists()
    assert cli("hardneg-mine", *phantom, "k=3", f"output={exact}").code == 0
    assert pq.read_table(table).equals(pq.read_table(exact))


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def annotated(tmp_path):
    """Four training studies of three patients, without images."""
    reports = {
        "a": "Small left effusion.",
        "b": "Small right effusion.",
        "c": "small LEFT effusion",
        "d": "Large effusion.",
    }
    train = [
        {"id": name, "report": report, "image_path": [f"{name}.png"], "patient": "pq"[name == "d"], "labels": [name]}
        for name, report in reports.items()
    ]
    train[1]["patient"] = "r"
    content = {"train": train, "val": train[:1], "test": train[:1]}
    for name in ("val", "test"):
        content[name] = [{**train[0], "id": name}]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "annotation.json").write_text(json.dumps(content))
    return folder


def test_the_released_annotation_is_written_and_read_again(cli, annotated, tmp_path, read_json):
    released, table = tmp_path / "ithn.json", tmp_path / "t.parquet"
    result = cli(
        "hardneg-mine", "data=annotations", f"data.root={annotated}", f"output={table}", f"ithn_annotation={released}"
    )
    assert result.code == 0, result.err
    mined = read_neighbours(table)
    assert {study: set(names) for study, names in mined.items()} == {
        "a": {*"bd"},
        "b": {*"acd"},
        "c": {*"bd"},
        "d": {*"abc"},
    }
    assert read_neighbours(released) == {study: names[:1] for study, names in mined.items()}
    content, original = read_json(released), read_json(annotated / "annotation.json")
    by_id = {entry["id"]: entry for entry in original["train"]}
    for entry in content["train"]:
        nearest = by_id[mined[entry["id"]][0]]
        assert (entry.pop("neg_report"), entry.pop("neg_image_path")) == (nearest["report"], nearest["image_path"])
    assert content == original


@pytest.mark.parametrize(
    ("arguments", "mentioned"),
    [
        (["output=t.parquet"], ["data"]),
        (["data=annotations", "output=t.parquet"], ["data.root must be given"]),
        (["PHANTOM"], ["output must be given"]),
        (["PHANTOM", "output=t.json"], ["output", ".parquet", "t.json"]),
        (["PHANTOM", "output=folder.parquet"], ["output", "it is a folder"]),
        (["PHANTOM", "output=file/t.parquet"], ["output", "file"]),
        (["PHANTOM", "output=t.parquet", "k=0"], ["k:", "got 0"]),
        (["PHANTOM", "output=t.parquet", "ceiling=2"], ["ceiling", "got 2"]),
        (["PHANTOM", "output=t.parquet", "ceiling=-0.99"], ["nothing to mine"]),
        (["PHANTOM", "output=t.parquet", "labels=some"], ["labels", "exclude or ignore", "'some'"]),
        (["PHANTOM", "output=t.parquet", "backend=annoy"], ["backend", "torch", "hnsw"]),
        (["PHANTOM", "output=t.parquet", "chunk=0"], ["chunk"]),
        (["PHANTOM", "output=t.parquet", "backend=ivf", "effort=0"], ["effort", "a number > 0"]),
        (["PHANTOM", "output=t.parquet", "ithn_annotation=a.json"], ["ithn_annotation", "data=annotations"]),
        (["PHANTOM", "output=t.parquet", "data.datamodule.source.train=1"], ["at least two training studies"]),
        (["PHANTOM", "output=t.parquet", "embedder=run", "embedder.run=none"], ["none", "config.yaml"]),
        (["PHANTOM", "output=t.parquet", "embedder=sentence_transformers"], ["embedder.name_or_path must be given"]),
        (["PHANTOM", "output=t.parquet", "embedder=bert"], ["embedder=bert", "tfidf"]),
        (
            ["data=annotations", "data.root=DATA", "output=t.parquet", "ithn_annotation=DATA/annotation.json"],
            ["ithn_annotation: expected a new file"],
        ),
    ],
    ids=str,
)
def test_one_line_says_what_is_wrong(cli, phantom, annotated, tmp_path, arguments, mentioned):
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").write_text("")
    before = (annotated / "annotation.json").read_bytes()
    settings = [argument.replace("DATA", str(annotated)) for argument in arguments if argument != "PHANTOM"]
    result = cli("hardneg-mine", *(phantom if "PHANTOM" in arguments else []), *settings)
    assert result.code == 2, result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("hardneg-mine: error:")]
    assert all(words in line for words in mentioned), line
    assert (annotated / "annotation.json").read_bytes() == before


def test_equal_reports_are_counted(cli, tmp_path):
    """Three, two and one studies of one text each, and what is said of them."""
    root, table = tmp_path / "data", tmp_path / "t.parquet"
    texts = ["Small effusion.", "small EFFUSION", "Small  effusion.", "Clear lungs.", "Clear lungs.", "Large heart."]
    studies = [{"id": str(i), "report": text, "image_path": [f"{i}.png"]} for i, text in enumerate(texts)]
    root.mkdir()
    content = {"train": studies, "val": studies[:1], "test": studies[:1]}
    for name in ("val", "test"):
        content[name] = [{**studies[0], "id": name}]
    (root / "annotation.json").write_text(json.dumps(content))
    result = cli("hardneg-mine", "data=annotations", f"data.root={root}", f"output={table}", "k=2")
    assert result.code == 0, result.err
    assert read_metadata(table)["excluded"]["text"] == {"studies": 5, "pairs": 4}
    assert "83.3%" in result.out


def test_iu_xray(cli, real_data, tmp_path):
    table = tmp_path / "t.parquet"
    result = cli("hardneg-mine", "data=annotations", f"data.root={real_data('iu_xray_reports')}", f"output={table}")
    assert result.code == 0, result.err
    assert read_metadata(table)["excluded"]["text"] == {"studies": 448, "pairs": 1867}
    assert "21.7%" in result.out
    assert all(len(names) == 5 for names in read_neighbours(table).values())
