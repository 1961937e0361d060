"""What a training shows: in a log plain lines, on a pseudo-terminal a bar. Both run at the same time."""

import os
import pty
import re
import subprocess
import sys

import pytest

from tests.integration.conftest import TINY

ARGUMENTS = [
    *(setting for setting in TINY if "progress_bar" not in setting),
    "trainer=smoke",
    "data.datamodule.num_workers=0",
]


def read_all(descriptor):
    shown = b""
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # Linux says so where the other end is closed
            return shown.decode()
        if not part:
            return shown.decode()
        shown += part


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminals")
def test_a_bar_on_a_terminal_and_plain_lines_in_a_log(tmp_path):
    command = [sys.executable, "-m", "hardneg_plugin.apps.train", *ARGUMENTS]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "OMP_NUM_THREADS": "1", "FORCE_COLOR": "1"}
    screen, terminal = pty.openpty()
    log = tmp_path / "train.log"
    with log.open("wb") as file:
        piped = subprocess.Popen(
            [*command, f"hydra.run.dir={tmp_path}/piped"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=tmp_path,
        )
    shown_run = subprocess.Popen(
        [*command, f"hydra.run.dir={tmp_path}/shown"], stdout=terminal, stderr=terminal, env=environment, cwd=tmp_path
    )
    os.close(terminal)
    shown = read_all(screen)
    assert (piped.wait(timeout=300), shown_run.wait(timeout=300)) == (0, 0), shown + log.read_text()

    text = log.read_text()
    before_table = text.partition("Test split")[0]
    assert "\r" not in text
    assert "\x1b[1A" not in text
    assert "\x1b[2K" not in text
    assert not re.search(r"it/s|v_num|━━|█", before_table)
    assert len(re.findall(r"^epoch 1 of 1, \d+:\d\d: loss \d.*val .*report_loss", text, re.MULTILINE)) == 1
    assert "arning" not in before_table, before_table  # a few batches of an untrained model need none

    assert "epoch 1 of 1" in shown
    assert re.search("━.*2/2", shown)
    assert "scoring val" in shown
    assert "scoring test" in shown
    assert "v_num" not in shown

    header = next((tmp_path / "piped" / "logs" / "csv").rglob("metrics.csv")).read_text().splitlines()[0]
    rates = {name for name in header.split(",") if name.startswith("lr-")}
    assert rates == {f"lr-AdamW/{part}_{kind}" for part in ("visual", "other") for kind in ("weights", "vectors")}
