"""hardneg-train negatives=paired from a table to scores, and what is wrong with a table in one line."""

import json

import pytest

TRAIN = [f"phantom-train-{i:06d}" for i in range(24)]


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "neighbours.json"
    file.write_text(json.dumps({name: [TRAIN[i - 1], TRAIN[i - 2], TRAIN[i - 3]] for i, name in enumerate(TRAIN)}))
    return file


def test_trains_with_paired_studies_and_is_scored_again_without_the_table(cli, tiny, tmp_path, read_json, table):
    run = tmp_path / "run"
    settings = [*tiny, "negatives=paired", "negatives.k=2", f"data.paired.table={table}", "data.paired.pool=3"]
    result = cli("hardneg-train", *settings, "schedule.warmup=0", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    metrics = read_json(run / "metrics.json")
    assert {"BLEU-4", "R@1"} <= metrics["test"].keys()
    log = (run / "logs" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(log[0].split(","), line.split(","), strict=True)) for line in log[1:]]
    assert len({row["train/negative_similarity"] for row in rows if row["train/negative_similarity"]}) == 3
    table.unlink()  # only training reads it
    again = cli("hardneg-evaluate", f"run={run}")
    assert again.code == 0, again.err
    (folder,) = run.glob("evaluation_*")
    assert read_json(folder / "metrics.json")["test"] == pytest.approx(metrics["test"])


@pytest.mark.parametrize(
    ("settings", "mentioned"),
    [
        ([], ["data.paired.table must be given"]),
        (["data.paired.table=none.json"], ["neighbour table", "none.json", "No such file"]),
        (["data.paired.table=TABLE", "data.paired.k=1", "negatives.k=2"], ["negatives.k", "2", "1"]),
        (["data.paired.table=TABLE", "data.datamodule.source.train=1"], ["phantom-train-000000", "data.paired.table"]),
    ],
    ids=["no table", "a table missing", "another k", "a table of other data"],
)
def test_one_line_says_what_is_wrong(cli, tiny, tmp_path, table, settings, mentioned):
    settings = [setting.replace("TABLE", str(table)) for setting in settings]
    result = cli("hardneg-train", *tiny, "negatives=paired", *settings, f"hydra.run.dir={tmp_path}/run")
    assert result.code == 2, result.err
    (line,) = [line for line in result.err.splitlines() if line.startswith("hardneg-train: error:")]
    assert all(words in line for words in mentioned), line
