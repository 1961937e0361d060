"""docs/TUTORIAL.md runs as it stands, and its pictures show what it says that they show."""

import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "TUTORIAL.md").read_text()


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    names: dict[str, Any] = {"__name__": "tutorial"}
    try:
        for block in re.findall(r"```python\n(.*?)```", TEXT, re.S):
            exec(compile(block, "docs/TUTORIAL.md", "exec"), names)
    finally:
        names["plt"].close("all")
        matplotlib.use(backend)
    printed = capsys.readouterr().out
    assert "outputs.words" in printed  # describe names what the next block takes
    assert "<All keys matched successfully>" in printed

    steps = {name: torch.tensor(values) for name, values in names["curves"].steps.items()}
    own, mined, hardened = (steps[f"{name}_similarity"][-25:].mean() for name in ("positive", "negative", "hardened"))
    assert own > mined + 0.05  # the two lines part
    assert mined < hardened < own + 0.01
    assert steps["hardness"].diff().min() >= 0
    assert steps["hardness"][-1] > 0.85
    assert steps["report_loss"][-25:].mean() < steps["report_loss"][:25].mean() / 2
    similarity = torch.tensor(names["similarity"])
    assert similarity.diff().min() > -1e-6
    assert similarity[-1] < (names["images"] * names["reports"]).sum(1).mean() + 0.01

    shown = re.findall(r"\]\(tutorial/([\w.]+)\)", TEXT)
    assert sorted(shown) == sorted(path.name for path in tmp_path.glob("*.png"))
    for name in shown:
        assert (
            abs(Image.open(name).width - Image.open(ROOT / "docs" / "tutorial" / name).width) < 40
        )  # fonts differ a little
