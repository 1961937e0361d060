"""IU X-Ray as the National Library of Medicine distributes it: an XML file per report, and PNG or DICOM files."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser, fromstring

from hardneg_plugin.data.annotations import read_lists
from hardneg_plugin.data.downloads.archives import Member, read_members
from hardneg_plugin.data.downloads.folders import files_below
from hardneg_plugin.data.downloads.study import DroppedEntry, OriginalStudy, label_text
from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.errors import UserError

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm")
_IMAGE = re.compile(r"(?:CXR)?(\d+)(?:_\d+)?_(IM-\d[\d-]*)")
_MAX_REPORT = 2**20
"""Bytes; the largest of the collection has 9,000, and nested elements take forty times their text in memory."""
_NUMBER = re.compile(r"CXR(\d+)")


class IUXRay:
    """The reports and images of IU X-Ray, as `Originals`.

    A study is a report. Its id is that of R2Gen's annotation: the id of its first image without the last number, such as
    "CXR2_IM-0652", or the id of the report ("CXR2") if it names no image. Its patient is the report's number, which is also
    the Patient ID in the DICOM headers of the collection: no two reports share one. Its labels are the major MeSH terms
    (`mesh_labels`). Its images are those named by the report, in that order.

    Dropped are studies without an image, missing images and, with an annotation, studies outside its lists and entries of
    its lists without a report.

    Args:
        reports: NLMCXR_reports.tgz, or its folder.
        images: folder of PNG, JPEG or DICOM files, flat or nested, named by the image ("CXR2_IM-0652-1001.png", or as the
            DICOM files without "CXR"), or in R2Gen's layout: "CXR2_IM-0652/0.png", in that order.
        annotation: R2Gen's annotation.json, for its split and choice of studies. None: all studies, without a split.

    Raises:
        UserError: the files are not this collection (see `read_members`, `files_below` and `read_lists`); a report is not
            such XML, or declares a document type (which could make it expand to any size).
    """

    def __init__(self, reports: str | Path, images: str | Path, annotation: str | Path | None = None) -> None:
        # All in memory: the texts of the collection are a few megabytes.
        source = Path(reports)
        self._reports = [
            read_report(member, source) for member in read_members(source, suffix=".xml", limit=_MAX_REPORT)
        ]
        if not self._reports:
            raise UserError(f"Expected the XML reports of IU X-Ray in {source}, but there is none.")
        self._by_image, self._by_study = find_images(Path(images).absolute())
        self._splits = None if annotation is None else _read_splits(Path(annotation))
        ids = {study.id for study, _ in self._reports}
        self._without_report = [id_ for id_ in self._splits or () if id_ not in ids]

    def __len__(self) -> int:
        return len(self._reports) + len(self._without_report)

    def __iter__(self) -> Iterator[OriginalStudy | DroppedEntry]:
        for study, names in self._reports:
            if self._splits is not None and study.id not in self._splits:
                yield DroppedEntry(study.id, "not in the annotation")
            else:
                yield from self._study(study, names)
        for id_ in self._without_report:
            yield DroppedEntry(id_, "no report", "in the annotation only")

    def _study(self, study: OriginalStudy, names: Iterable[str]) -> Iterator[OriginalStudy | DroppedEntry]:
        paths = {name: self._by_image.get(image_key(name) or name) for name in names}
        found = tuple(path for path in paths.values() if path is not None)
        if not found:
            found = self._by_study.get(study.id, ())
        else:
            yield from (DroppedEntry(study.id, "image not found", name) for name, path in paths.items() if path is None)
        if not found:
            yield DroppedEntry(study.id, "no image")
            return
        yield replace(study, images=found, split=None if self._splits is None else self._splits[study.id])


def read_report(member: Member, source: Path) -> tuple[OriginalStudy, tuple[str, ...]]:
    """Read a report of the collection.

    Args:
        member: the file.
        source: the archive or folder, for errors.

    Returns:
        The study without its images, and their names.

    Raises:
        UserError: it is not XML, declares a document type, or is not a report of IU X-Ray; with its name.
    """
    where = f"{member.name!r} of {source}"
    try:
        root = fromstring(member.content, XMLParser(target=_TreeWithoutDoctype()))
    except _DoctypeDeclared as error:
        raise UserError(f"Expected a report without DOCTYPE, but {where} has one. Do not use it.") from error
    except (ParseError, LookupError, ValueError) as error:  # the last two: unknown or wrong encodings
        raise UserError(f"Expected a report in XML, but {where} is not XML ({error}). Download it again.") from error
    uid = root.find("uId")
    number = _NUMBER.fullmatch("" if uid is None else uid.get("id", ""))
    if number is None:
        raise UserError(f'Expected a report of IU X-Ray with <uId id="CXR1">, but {where} has none. Remove it.')
    images = tuple(dict.fromkeys(image.get("id", "") for image in root.iter("parentImage")))
    first = images[0] if images else ""
    study = OriginalStudy(
        id=first.rpartition("-")[0] or number[0],
        images=(),
        findings=_section(root, "FINDINGS"),
        impression=_section(root, "IMPRESSION"),
        patient=number[1],
        labels=mesh_labels(term.text or "" for term in root.iterfind("MeSH/major")),
    )
    return study, images


def mesh_labels(terms: Iterable[str]) -> str | None:
    """The labels of a report by the terms it is indexed with, qualifiers included ("Opacity/lung/base/left").

    "normal" is the set without findings. None without a term, or with only "No Indexing": such reports were never indexed,
    and need not be alike.
    """
    names = {term.strip() for term in terms} - {"", "No Indexing"}
    return label_text(names - {"normal"}) if names else None


def image_key(name: str) -> str | None:
    """What all names of an image share; None for other names.

    The same image is CXR1_1_IM-0001-3001 in its report, CXR1_1_IM-0001-3001.png, 1_IM-0001-3001.dcm, or
    1_IM-0001-3001.dcm.png.

    >>> image_key("CXR1_1_IM-0001-3001") == image_key("1_IM-0001-3001.dcm.png") == "1_IM-0001-3001"
    True
    """
    stem = name
    while Path(stem).suffix.lower() in _IMAGE_SUFFIXES:
        stem = Path(stem).stem
    match = _IMAGE.fullmatch(stem)
    return f"{match[1]}_{match[2]}" if match else None


def find_images(folder: Path) -> tuple[dict[str, Path], dict[str, tuple[Path, ...]]]:
    """The files of a folder of images by `image_key`, and those in R2Gen's layout by study, in the order of their numbers.

    Raises:
        UserError: see `files_below`; no file has such a name, or two files are the same image.
    """
    by_image: dict[str, Path] = {}
    numbered: dict[tuple[str, int], Path] = {}
    for _, path in files_below(folder):
        if path.suffix.lower() not in _IMAGE_SUFFIXES:
            continue
        key, number = image_key(path.name), _view_number(path)
        if key is not None:
            other = by_image.setdefault(key, path)
        elif number is not None:
            other = numbered.setdefault((path.parent.name, number), path)
        else:
            continue
        if other is not path:
            raise UserError(
                f"Expected one file per image in {folder}, but {other} and {path} are the same image. Remove one."
            )
    if not by_image and not numbered:
        raise UserError(
            f'Expected images of IU X-Ray in {folder}, named as "CXR2_IM-0652-1001.png" or "CXR2_IM-0652/0.png", '
            "but there is none."
        )
    by_study = groupby(sorted(numbered), key=lambda view: view[0])
    return by_image, {study: tuple(numbered[view] for view in views) for study, views in by_study}


def _view_number(path: Path) -> int | None:
    in_study = _NUMBER.match(path.parent.name) and re.fullmatch("[0-9]{1,4}", path.stem)
    return int(path.stem) if in_study else None


def _read_splits(file: Path) -> dict[str, SplitName]:
    splits: dict[str, SplitName] = {}
    for split, entries in read_lists(file).items():
        for index, entry in enumerate(entries):
            id_ = entry.get("id") if isinstance(entry, dict) else None
            if not isinstance(id_, str) or not _NUMBER.match(id_):
                raise UserError(f'Expected the id of a study of IU X-Ray ("CXR...") in {file}, {split}[{index}].')
            if id_ in splits:
                raise UserError(f"Expected each study once in {file}, but {split}[{index}] repeats {id_!r}.")
            splits[id_] = split
    return splits


class _DoctypeDeclared(Exception):
    """A document type, with which a few bytes can expand to gigabytes, or to another file."""


class _TreeWithoutDoctype(TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise _DoctypeDeclared


def _section(root: Element, label: str) -> str:
    texts = ("".join(text.itertext()) for text in root.iter("AbstractText") if text.get("Label") == label)
    return " ".join(texts).strip()
