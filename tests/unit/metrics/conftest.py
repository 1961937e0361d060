"""Reports to score, and a small stand-in for Java: tests of everything around METEOR need not wait for the real one."""

import random
import sys
from pathlib import Path

import pytest

from hardneg_plugin.metrics import meteor

sys.path.insert(0, str(Path(__file__).parent))  # modules that spawned processes import too

FAKE_JAVA = """\
import os, sys, time
open(os.environ["FAKE_JAVA_STARTS"], "a").write(f"{os.getpid()}\\n")
mode = os.environ.get("FAKE_JAVA_MODE", "")
for line in sys.stdin:
    command, *fields = line.rstrip("\\n").split(" ||| ")
    if mode == "silent":
        time.sleep(600)
    if mode == "dies":
        sys.exit("Error: Could not reserve enough space for the heap")
    if mode == "garbage":
        print("Picked up something", flush=True)
    elif command == "SCORE":
        reference, hypothesis = map(str.split, fields)
        print(len(set(reference) & set(hypothesis)), len(reference) + len(hypothesis), *[0] * 21, flush=True)
    else:
        pairs = [tuple(map(float, field.split()[:2])) for field in fields]
        for common, words in [*pairs, tuple(map(sum, zip(*pairs)))]:
            print(2 * common / max(words, 1), flush=True)
"""


@pytest.fixture(scope="session")
def fake_java(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an executable `java` that answers like METEOR's jar, with scores of its own."""
    folder = tmp_path_factory.mktemp("fake_java")
    (folder / "java").write_text(f"#!{sys.executable} -IS\n{FAKE_JAVA}")
    (folder / "java").chmod(0o755)
    return folder


@pytest.fixture
def fake_meteor(fake_java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The process ids of the stand-ins that were started, as a function; `FAKE_JAVA_MODE` makes them misbehave."""
    meteor.close()
    starts = tmp_path / "starts"
    starts.touch()
    monkeypatch.setenv("PATH", str(fake_java))
    monkeypatch.setenv("FAKE_JAVA_STARTS", str(starts))
    yield lambda: [int(pid) for pid in starts.read_text().split()]
    meteor.close()


@pytest.fixture
def reports() -> tuple[list[str], list[str], list[str]]:
    """Generated texts, references and identifiers of 23 studies; among them a perfect and an empty generated text."""
    draw = random.Random(0)
    phrases = [
        "the heart is normal in size .",
        "the lungs are clear .",
        "no pleural effusion or pneumothorax .",
        "there is a small left pleural effusion .",
        "mild cardiomegaly is unchanged .",
        "right lower lobe opacity may be atelectasis or pneumonia .",
        "degenerative changes of the thoracic spine .",
    ]
    references = [" ".join(draw.sample(phrases, draw.randint(1, 5))) for _ in range(23)]
    generated = [" ".join(draw.sample(phrases, draw.randint(1, 5))) for _ in range(23)]
    generated[3], generated[7] = references[3], ""
    return generated, references, [f"study-{i:02d}" for i in range(23)]
