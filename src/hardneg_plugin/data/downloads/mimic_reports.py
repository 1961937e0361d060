"""The reports of MIMIC-CXR, one at a time: from their folder, their archive, or a table of sections."""

import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from hardneg_plugin.data.downloads.folders import leaves, path_within
from hardneg_plugin.data.downloads.mimic_tables import StudyRows, read_table
from hardneg_plugin.data.downloads.sections import read_sections
from hardneg_plugin.data.texts import visible_text
from hardneg_plugin.errors import UserError

MAX_REPORT = 2**20
"""Bytes of the longest report; the longest real ones have a few thousand."""


class ReportTexts(NamedTuple):
    """Texts in one line, empty where there are none."""

    findings: str
    impression: str
    report: str


class MissingReport(Exception):
    """A study has no readable report; the arguments are the reason in a few words, and a detail."""


class Reports(Protocol):
    """Reports by study."""

    def read(self, subject: int, study: int) -> ReportTexts:
        """The report of one study.

        Args:
            subject: number of the patient.
            study: number of the study.

        Raises:
            MissingReport: there is no readable one.
        """
        ...


@contextmanager
def open_reports(source: Path) -> Iterator[Reports]:
    """The reports in a folder (p10 to p19, or `files` with these), an archive (.zip) or a table (.csv, .csv.gz).

    Raises:
        UserError: the source is none of these, or cannot be read.
    """
    if source.is_dir():
        yield _Folder(source)
    elif source.name.lower().endswith((".csv", ".csv.gz")):
        yield _Table(source)
    else:
        try:
            archive = zipfile.ZipFile(source)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise UserError(
                f"Expected a folder, a .zip or a .csv of reports at {source}, but it cannot be read ({error})."
            ) from error
        with archive:
            yield _Archive(archive, source)


def groups_below(folder: Path, what: str) -> tuple[Path, frozenset[str]]:
    """The folder that holds p10 to p19 (this one, or `files` in it), and which of them exist.

    Args:
        folder: the folder.
        what: the files in it, "images" or "reports", for the error.

    Raises:
        UserError: none exists.
    """
    for home in (folder, folder / "files"):
        try:
            groups = frozenset(name for name in os.listdir(home) if re.fullmatch(r"p\d\d", name))
        except OSError:
            continue
        if groups:
            return home, groups
    raise UserError(f"Expected the folders p10 to p19 of {what} below {folder}, but there is none. Set `{what}`.")


def group_of(subject: int) -> str:
    """The folder, p10 to p19, in which a patient has a folder."""
    return f"p{str(subject)[:2]}"


class _Folder:
    def __init__(self, folder: Path) -> None:
        self._home, self._groups = groups_below(folder, "reports")

    def read(self, subject: int, study: int) -> ReportTexts:
        if (group := group_of(subject)) not in self._groups:
            raise MissingReport(f"reports of {group} not downloaded")
        name = _name(subject, study)
        try:
            with path_within(self._home, name).open("rb") as file:
                content = file.read(MAX_REPORT + 1)
        except OSError as error:
            raise MissingReport("report not found", f"{name}: {error.strerror}") from error
        return _divided(content, name)


class _Archive:
    """Members are read by names made here; an archive with names that leave it is refused all the same."""

    def __init__(self, archive: zipfile.ZipFile, source: Path) -> None:
        names = archive.namelist()
        for name in names:
            if (".." in name or "\\" in name or ":" in name or name.startswith("/")) and leaves(name):
                raise UserError(f"Expected paths inside the archive {source}, but got {name!r}. Download it again.")
        first = next((found for name in names if (found := re.fullmatch(r"(.*/)?p\d\d/p\d+/s\d+\.txt", name))), None)
        if first is None:
            raise UserError(f"Expected reports such as files/p10/p10000032/s50414267.txt in {source}, but it has none.")
        self._archive, self._prefix = archive, first[1] or ""

    def read(self, subject: int, study: int) -> ReportTexts:
        name = self._prefix + _name(subject, study)
        try:
            info = self._archive.getinfo(name)
            content = self._archive.read(info) if info.file_size <= MAX_REPORT else b" " * (MAX_REPORT + 1)
        except KeyError as error:
            raise MissingReport("report not found", name) from error
        except (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise MissingReport("report unreadable", f"{name}: {error}") from error
        return _divided(content, name)


class _Table:
    """The output of the sectioning script of the data set's authors: study, findings, impression, last_paragraph."""

    _COLUMNS = ("findings", "impression", "last_paragraph")

    def __init__(self, file: Path) -> None:
        columns = {"study": pa.string()} | dict.fromkeys(self._COLUMNS, pa.large_string())
        self._texts = read_table(file, columns)
        self._rows = StudyRows(self._texts, "study", file)

    def read(self, subject: int, study: int) -> ReportTexts:
        row = self._rows.find(study)
        if row is None:
            raise MissingReport("report not found")
        findings, impression, last = (
            " ".join((self._texts[column][row].as_py() or "").split()) for column in self._COLUMNS
        )
        # As `read_sections` for a report with neither.
        return ReportTexts(findings if findings or impression else last, impression, "")


def _name(subject: int, study: int) -> str:
    return f"{group_of(subject)}/p{subject}/s{study}.txt"


def _divided(content: bytes, name: str) -> ReportTexts:
    if len(content) > MAX_REPORT:
        raise MissingReport("report too large", name)
    try:
        text = visible_text(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MissingReport("report not in UTF-8", f"{name}: byte {error.start}") from error
    return ReportTexts(*read_sections(text), " ".join(text.split()))
