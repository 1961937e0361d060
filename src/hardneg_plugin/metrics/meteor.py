"""METEOR 1.5 by one Java process, which starts at the first use, is guarded by a timeout, and stays until Python ends.

The jar of pycocoevalcap communicates by lines over its standard streams. It answers `SCORE ||| reference ||| hypothesis` with the
statistics of the pair, and `EVAL ||| statistics ||| statistics ...` with one score per pair and then the score of the corpus. A
start takes many seconds (it reads a table of paraphrases), a pair about a millisecond.
"""

import atexit
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hardneg_plugin.metrics.score_card import ScoreCard
from hardneg_plugin.metrics.statistics import Floats, SumStatistic

_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MATCHER_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])

TIMEOUT = 180.0
"""Seconds without an answer after which the process is killed; the first answer includes the start."""


class MeteorError(RuntimeError):
    """METEOR could not be computed; the message says why and what to do, in one line."""


def corpus_score(sums: Floats) -> dict[str, Floats]:
    """METEOR 1.5 for English from counts summed over pairs: sums `(..., 23)` in the jar's order, scores `(...)`.

    Weighted precision P and recall R over content and function words, Fmean = PR / (αR + (1-α)P), penalty γ (chunks/matches)^β.

    Source: Denkowski and Lavie, "Meteor Universal", 2014, with the jar's parameters for ranking in English.
    """
    words, function_words = sums[..., 0:2], sums[..., 2:4]
    # exact, stem, synonym, paraphrase; content, function words; generated, reference
    matched = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 2, 2)
    chunks, matches = sums[..., 20], sums[..., 21:23]
    weighted = np.einsum("m,c,...mcs->...s", _MATCHER_WEIGHTS, np.array([_DELTA, 1 - _DELTA]), matched)
    length = _DELTA * (words - function_words) + (1 - _DELTA) * function_words
    precision, recall = np.moveaxis(weighted / np.where(length > 0, length, 1), -1, 0)
    fraction = chunks / np.where(matches.sum(-1) > 0, matches.mean(-1), 1)
    product, both = precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall
    mean = np.where(both > 0, product / np.where(both > 0, both, 1), 0)
    return {"METEOR": mean * (1 - _GAMMA * fraction**_BETA)}


def meteor_scores(generated: Sequence[str], references: Sequence[str], *, timeout: float = TIMEOUT) -> ScoreCard:
    """METEOR of N pairs, in [0, 1], as `pycocoevalcap.meteor.meteor.Meteor` computes it.

    The jar computes the score of the corpus from the counts of all pairs; it is not the mean of the reports' scores.

    Args:
        generated: N >= 1 texts, possibly empty; line breaks, runs of whitespace and the protocol's "|||" become a space.
        references: N texts, treated alike.
        timeout: seconds to wait for each answer before the process is killed.

    Raises:
        MeteorError: there is no Java or no jar, or the process dies, does not answer, or answers something else.
        ValueError: the numbers of texts differ, or there are none.

    Source: Denkowski and Lavie, "Meteor Universal", 2014; options `-l en -norm`.
    """
    check_pairs(generated, references)
    global _process
    with _lock:
        process, _process = _process, None
        scores = None
        if process is not None:
            # an earlier process may have been killed since: start another
            with contextlib.suppress(MeteorError):
                scores = process.score(generated, references, timeout)
        if process is None or scores is None:
            process = _MeteorProcess()
            scores = process.score(generated, references, timeout)
        _process = process
        return scores


def check_pairs(generated: Sequence[str], references: Sequence[str]) -> None:
    """Raise a ValueError unless there are texts, and as many references.

    Args:
        generated: N >= 1 texts.
        references: N texts.
    """
    if len(generated) != len(references) or not generated:
        raise ValueError(
            f"Expected as many generated reports as references, but got {len(generated)} and {len(references)}."
        )


def close() -> None:
    """End the process if it runs; the next call of `meteor_scores` starts another."""
    global _process
    with _lock:
        if _process is not None:
            _process.close()
        _process = None


class _MeteorProcess:
    def __init__(self) -> None:
        java = shutil.which("java")
        if java is None:
            raise MeteorError("there is no `java` on the PATH: install a Java runtime (8 or newer)")
        jar = _find_jar()
        # a file, because a pipe that nobody reads would fill up and block
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        # the locale decides the decimal point that the jar writes and reads: fix it
        options = ["-Xmx2G", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US"]
        try:
            self._popen = subprocess.Popen(
                [java, *options, "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"],
                cwd=jar.parent,  # where it looks for its table of paraphrases
                env={**os.environ, "LC_ALL": "C.UTF-8"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,  # so that Ctrl-C does not stop it before Python, and it is killed as a group
            )
        except OSError as error:
            self._errors.close()
            raise MeteorError(f"`{java}` cannot be started ({error}): install a Java runtime (8 or newer)") from error

    def score(self, generated: Sequence[str], references: Sequence[str], timeout: float) -> ScoreCard:
        """As `meteor_scores`. On any error the process is ended, as an answer may still be pending."""
        try:
            statistics, counts = [], []
            for text, reference in zip(generated, references, strict=True):
                (answer,) = self._ask(["SCORE", _one_line(reference), _one_line(text)], 1, timeout)
                counts.append(_numbers(answer.split()))
                statistics.append(answer)
            *texts, corpus = _numbers(self._ask(["EVAL", *statistics], len(statistics) + 1, timeout))
            rows = np.array(counts)
            words, chunks, matches = rows[:, 0:2], rows[:, 20], rows[:, 21:23]
            rows[(matches == words).all(1) & (chunks == 1), 20] = 0  # a report equal to its reference adds no chunk
            return ScoreCard({"METEOR": corpus}, {"METEOR": texts}, [SumStatistic(rows, corpus_score)])
        except BaseException:
            self.close()
            raise

    def _ask(self, fields: Sequence[str], answers: int, timeout: float) -> list[str]:
        """Send a line and read as many lines as `answers`; a watchdog kills the process when the wait is too long."""
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        timed_out = threading.Event()

        def give_up() -> None:
            timed_out.set()
            self._kill()

        watchdog = threading.Timer(timeout, give_up)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._popen.stdin.write((" ||| ".join(fields) + "\n").encode())
            self._popen.stdin.flush()
            lines = [self._popen.stdout.readline() for _ in range(answers)]
        except OSError:  # a broken pipe, handled as a missing answer
            lines = [b""]
        finally:
            watchdog.cancel()
        if timed_out.is_set():
            raise MeteorError(f"its process gave no answer within {timeout:g} s and was killed")
        if not lines[-1].endswith(b"\n"):
            raise MeteorError(f"its process ended unexpectedly{self._error_line()}")
        return [line.decode(errors="replace").strip() for line in lines]

    def close(self) -> None:
        """Kill the process and free its streams."""
        self._kill()
        self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._popen.pid, signal.SIGKILL)
            else:
                self._popen.kill()

    def _error_line(self) -> str:
        """The first line of the standard error that names an error, in parentheses; a Java trace ends with the callers."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=1.0)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        reason = next((line.strip() for line in lines if "rror" in line or "xception" in line), "")
        return f" ({reason})" if reason else ""


def _find_jar() -> Path:
    spec = importlib.util.find_spec("pycocoevalcap")  # finds the folder without importing anything
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        jar = Path(folder) / "meteor" / "meteor-1.5.jar"
        if jar.is_file():
            return jar
    raise MeteorError("meteor-1.5.jar was not found in the package pycocoevalcap: install pycocoevalcap 1.2 or newer")


def _one_line(text: str) -> str:
    return " ".join(text.replace("|||", " ").split())


def _numbers(words: Sequence[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError:
        raise MeteorError(f"its process answered {' '.join(words)[:80]!r} where numbers were expected") from None


_process: _MeteorProcess | None = None
_lock = threading.Lock()


def _forget() -> None:
    """A forked child must not use its parent's process, nor wait for a lock that a thread of the parent held."""
    global _process, _lock
    _process = None
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(close)
