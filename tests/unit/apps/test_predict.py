"""What hardneg-predict shows where a file gets the reports."""

from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf
from PIL import Image

from hardneg_plugin.apps.predict import SHOWN, _write
from hardneg_plugin.apps.shared.image_arguments import StudyFiles
from hardneg_plugin.models.report_io import GeneratedReport


@pytest.mark.parametrize("output", [None, "reports.jsonl"])
def test_a_file_spares_the_screen(tmp_path, capsys, output):
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    studies = [StudyFiles(f"study {number}", (tmp_path / "a.png",)) for number in range(SHOWN + 5)]
    model = SimpleNamespace(
        image_size=8, generate=lambda images, **settings: [GeneratedReport("no effusion") for _ in images]
    )
    config = OmegaConf.create(
        {
            "output": output,
            "batch_size": 4,
            "beam_size": None,
            "max_length": None,
            "precision": None,
            "attention": False,
        }
    )
    records, failed = _write(model, studies, config)
    assert [record["id"] for record in records] == [study.id for study in studies]
    assert not failed
    shown = capsys.readouterr().out.count("no effusion")
    assert shown == (len(studies) if output is None else SHOWN)
