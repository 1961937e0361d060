import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hardneg_plugin.metrics import meteor
from hardneg_plugin.metrics.meteor import MeteorError, meteor_scores

GENERATED = ["the heart is normal .", "", "no effusion", "clear lungs"]
REFERENCES = ["the heart is enlarged .", "the lungs are clear", "no effusion", "big heart"]
LONG = " ".join(f"word{i}" for i in range(600))
ODD = [  # as given, and as it has to reach the jar
    ("the heart\nis normal\r\n.", "the heart is normal ."),
    ("no ||| effusion", "no effusion"),
    ("no|||effusion", "no effusion"),
    ("|||", ""),
    ("", ""),
    (" \t ", ""),
    ('the "heart" isn\'t \\ normal $x `y`', 'the "heart" isn\'t \\ normal $x `y`'),
    ("café ± 3.5 cm — größer İstanbul ıi 肺", "café ± 3.5 cm — größer İstanbul ıi 肺"),
    ("clear\tlungs \u2028 bilaterally\x85", "clear lungs bilaterally"),
    (LONG + " ", LONG),
]


@pytest.fixture(scope="module")
def scorers():
    """pycocoevalcap's own process, and ours started under a Turkish locale with decimal commas."""
    if shutil.which("java") is None:
        pytest.skip("needs a Java runtime for the real METEOR")
    from pycocoevalcap.meteor.meteor import Meteor

    meteor.close()
    theirs = Meteor()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LC_ALL", "LANG", "LC_NUMERIC"):
            patch.setenv(name, "tr_TR.UTF-8")
        patch.setenv("JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR")
        meteor_scores(["a"], ["a"])
    yield (
        meteor_scores,
        lambda generated, references: theirs.compute_score(
            {i: [text] for i, text in enumerate(references)}, {i: [text] for i, text in enumerate(generated)}
        ),
    )
    meteor.close()


@pytest.mark.slow
def test_equals_pycocoevalcap_under_a_hostile_locale(scorers, reports):
    ours, theirs = scorers
    generated, references, _ = reports
    scored = ours(generated, references)
    expected_corpus, expected_each = theirs(generated, references)
    assert scored.values["METEOR"] == pytest.approx(expected_corpus, abs=1e-9)
    assert scored.columns["METEOR"] == pytest.approx(expected_each, abs=1e-9)
    assert 0 < scored.values["METEOR"] < 1
    assert scored.columns["METEOR"][7] == 0  # the empty text
    assert scored.columns["METEOR"][3] == 1  # the perfect one


@pytest.mark.slow
def test_the_score_follows_from_sums_over_pairs(scorers, reports):
    ours, _ = scorers
    generated, references, _ = reports
    statistic = ours(generated, references).statistics[0]
    for drawn in (list(range(23)), [3], [3, 3, 7], [0, 5, 5, 5, 12, 22]):
        scored = ours([generated[i] for i in drawn], [references[i] for i in drawn])
        weights = np.bincount(drawn, minlength=statistic.studies)[None]
        assert statistic.under(weights)["METEOR"] == pytest.approx(scored.values["METEOR"], abs=1e-12)
    equal_texts, none = (
        statistic.under(np.bincount(drawn, minlength=statistic.studies)[None]) for drawn in ([3, 3], [])
    )
    assert (equal_texts["METEOR"], none["METEOR"]) == (1, 0)


@pytest.mark.slow
def test_odd_texts_get_through_and_keep_their_place(scorers):
    ours, theirs = scorers
    given, plain = zip(*ODD, strict=True)
    references = [text + " heart" for text in given], [f"{text} heart".strip() for text in plain]
    assert ours(given, references[0]).columns["METEOR"] == pytest.approx(theirs(plain, references[1])[1], abs=1e-9)
    assert ours(references[0], given).values["METEOR"] == pytest.approx(theirs(references[1], plain)[0], abs=1e-9)


def fake_score(generated: str, reference: str) -> float:
    a, b = generated.split(), reference.split()
    return 2 * len(set(a) & set(b)) / max(len(a) + len(b), 1)


EXPECTED = [fake_score(*pair) for pair in zip(GENERATED, REFERENCES, strict=True)]


def test_one_process_serves_all_calls(fake_meteor):
    for _ in range(3):
        assert meteor_scores(GENERATED, REFERENCES).columns["METEOR"] == pytest.approx(EXPECTED)
    assert len(fake_meteor()) == 1


def test_starts_again_where_it_was_killed_between_calls(fake_meteor):
    meteor_scores(GENERATED, REFERENCES)
    os.kill(fake_meteor()[0], signal.SIGKILL)
    assert meteor_scores(GENERATED, REFERENCES).columns["METEOR"] == pytest.approx(EXPECTED)
    assert len(fake_meteor()) == 2


def test_starts_again_after_close(fake_meteor):
    meteor_scores(GENERATED, REFERENCES)
    meteor.close()
    meteor.close()
    assert not is_alive(fake_meteor()[0])
    assert meteor_scores(GENERATED, REFERENCES).columns["METEOR"] == pytest.approx(EXPECTED)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("silent", "no answer within 0.5 s"),
        ("garbage", "answered 'Picked up something' where numbers were expected"),
        ("dies", r"ended unexpectedly \(Error: Could not reserve enough space for the heap\)"),
    ],
)
def test_failures_say_why_leave_no_process_and_do_not_last(fake_meteor, monkeypatch, mode, reason):
    monkeypatch.setenv("FAKE_JAVA_MODE", mode)
    started = time.monotonic()
    with pytest.raises(MeteorError, match=reason):
        meteor_scores(GENERATED, REFERENCES, timeout=0.5 if mode == "silent" else 30)
    assert time.monotonic() - started < 20
    assert not is_alive(fake_meteor()[0])
    monkeypatch.delenv("FAKE_JAVA_MODE")
    assert meteor_scores(GENERATED, REFERENCES).columns["METEOR"] == pytest.approx(EXPECTED)


def test_a_time_out_ends_a_write_that_blocks(fake_meteor, monkeypatch):
    monkeypatch.setenv("FAKE_JAVA_MODE", "silent")
    text = "opacity " * 500_000  # far beyond what a pipe holds
    with pytest.raises(MeteorError, match="no answer"):
        meteor_scores([text, text], [text, text], timeout=1.0)


def test_an_interrupted_call_leaves_no_answer_behind_for_the_next(fake_meteor, monkeypatch):
    meteor_scores(GENERATED, REFERENCES)

    def interrupt(words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(meteor, "_numbers", interrupt)
        with pytest.raises(KeyboardInterrupt):
            meteor_scores(REFERENCES, REFERENCES)
    assert meteor_scores(GENERATED, REFERENCES).columns["METEOR"] == pytest.approx(EXPECTED)
    assert len(fake_meteor()) == 2


def test_threads_take_turns(fake_meteor):
    results = {}

    def score(i: int) -> None:
        results[i] = meteor_scores(GENERATED[i:], REFERENCES[i:]).columns["METEOR"]

    threads = [threading.Thread(target=score, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: pytest.approx(EXPECTED[i:]) for i in range(4)}
    assert len(fake_meteor()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_starts_its_own_and_leaves_its_parents_alone(fake_meteor):
    meteor_scores(GENERATED, REFERENCES)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if meteor_scores(GENERATED, REFERENCES).columns["METEOR"] == pytest.approx(EXPECTED) else 2
            meteor.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(fake_meteor()) == 2
    assert is_alive(fake_meteor()[0])
    assert meteor_scores(GENERATED, REFERENCES).columns["METEOR"] == pytest.approx(EXPECTED)
    assert len(fake_meteor()) == 2


def test_without_java(monkeypatch, tmp_path: Path):
    meteor.close()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeteorError, match="no `java` on the PATH: install a Java runtime"):
        meteor_scores(GENERATED, REFERENCES)


def test_a_java_that_cannot_run(monkeypatch, tmp_path: Path):
    meteor.close()
    (tmp_path / "java").write_text("#!/no/such/interpreter\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeteorError, match="cannot be started"):
        meteor_scores(GENERATED, REFERENCES)


def test_without_the_jar(fake_meteor, monkeypatch):
    monkeypatch.setattr(meteor.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MeteorError, match="install pycocoevalcap"):
        meteor_scores(GENERATED, REFERENCES)


@pytest.mark.parametrize(("generated", "references"), [([], []), (["a"], [])])
def test_refuses_unequal_numbers_of_texts(generated, references):
    with pytest.raises(ValueError, match="as many generated reports as references"):
        meteor_scores(generated, references)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
