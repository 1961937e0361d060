"""From a table of one's own to reports, in a folder with blanks, brackets and accents: each printed command is run as printed."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = "Börse, it's (2) [neu] $x={y}"


def write_table(folder):
    """Studies under columns of one's own; the report tells dark images from bright ones."""
    random = np.random.default_rng(0)
    rows = []
    for index in range(40):
        is_bright = index % 2
        name = f"Bilder/{index} a.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(150 * is_bright, 100 + 150 * is_bright, (48, 40), dtype=np.uint8)).save(
            folder / name
        )
        text = f"large pleural effusion on the left {index}" if is_bright else f"the lungs are clear {index}"
        rows.append([f"study {index}", name, text])
    with (folder / "meine Tabelle.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["Study ID", "Image Path", "Text"], *rows])


def printed(text, command):
    """The arguments of a command that was printed, as a shell divides them."""
    (line,) = re.findall(rf"{command} .*", text)
    return shlex.split(line)


@pytest.mark.slow
def test_the_whole_chain_by_what_is_printed(cli, tiny_model, tmp_path, monkeypatch):
    here = tmp_path / FOLDER
    here.mkdir()
    monkeypatch.chdir(here)
    write_table(here)

    def done(*command):
        result = cli(*command)
        assert result.code == 0, result.err
        return result.out

    out = done("hardneg-prepare", "source=listed", "source.table=meine Tabelle.csv", "output=fertig (1)", "size=64")
    train = printed(out, "hardneg-train")
    assert train[1:] == ["data=prepared", "data.root=fertig (1)"]
    sizes = ["data.datamodule.source.resize=40", "data.datamodule.source.crop=32"]
    small = [*tiny_model, *sizes, "data.datamodule.num_workers=0", "data.min_count=1", "trainer.max_epochs=1"]
    out = done(*train, *small, "hydra.run.dir=läufe/a [1], b")
    run = Path("läufe/a [1], b").resolve()
    assert (run / "metrics.json").is_file()
    done(*printed(out, "hardneg-evaluate"))
    assert list(run.glob("evaluation_*/metrics.json"))
    done(*printed(out, "hardneg-page"), "limit=2")
    assert (run / "page.html").is_file()
    *predict, image = printed(out, "hardneg-predict")
    assert image == "IMAGE..."
    assert "study 39" in done(*predict, "meine Tabelle.csv")
    done("hardneg-predict", "läufe/a [1], b", "meine Tabelle.csv", "output=bericht, neu.jsonl")
    assert len(Path("bericht, neu.jsonl").read_text().splitlines()) == 40

    done(
        "hardneg-mine", "data=prepared", "data.root=fertig (1)", "output=nächste [k=5].parquet", "labels=ignore", *sizes
    )
    (run / "metrics.json").unlink()
    refused = cli("hardneg-page", run)
    assert refused.code == 2
    resume = printed(refused.err, "hardneg-train")
    done(*resume[:-1], resume[-1].removesuffix("."), "trainer.max_epochs=2")
    assert (run / "metrics.json").is_file()
    table = "data.paired.table=nächste [k=5].parquet"
    done("hardneg-train", "negatives=paired", table, *train[1:], *small, "hydra.run.dir=läufe/paarweise")
