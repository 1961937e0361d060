"""From the content of a page to one self-contained HTML file: images, data, style and scripts are in it."""

import base64
import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from hardneg_plugin.evaluation.inspected_study import FoundEntity, InspectedStudy, Reading
from hardneg_plugin.files import whole_text_file
from hardneg_plugin.pages.content import PageContent, Score, StudyContent
from hardneg_plugin.pages.explained_scores import explained
from hardneg_plugin.pages.forest import drawn_panel

LONGER_SIDE = 320
"""Images are scaled down to so many pixels."""

JPEG_QUALITY = 80
"""About 10 kB for a chest X-ray of that size."""

VIEWS = ["studies", "scores", "curves", "settings"]
SCRIPTS = ("study.js", "zoom.js", "curves.js", "page.js")

SCRIPTS_WITH_ALIGNMENT = ("study.js", "zoom.js", "alignment.js", "curves.js", "page.js")
"""Of a page with readings or entities."""


def write_page(path: Path, content: PageContent) -> None:
    """Write the page, whole or not at all.

    Args:
        path: of the .html file.
        content: of the page.

    Raises:
        OSError: the file cannot be written.
    """
    page = render(content)
    with whole_text_file(path) as file:
        file.write(page)


def render(content: PageContent) -> str:
    """The page as HTML.

    One JSON block holds the texts and numbers of all studies; the images and heat maps of each study are in a block of its own,
    which is parsed when the study is shown. To the browser both are data, never markup. The content security policy lets nothing
    run or load but what is in the file.

    >>> empty = PageContent("Arc", [], [], studies=[], neighbours=[], scores={}, curves=[], configs={})
    >>> "<title>Arc</title>" in render(empty)
    True
    """
    written = [by for study in content.studies for by in study.written.values()]
    has_alignment = any(by.reading or by.entities is not None for by in written)
    style = _source("page.css") + (_source("alignment.css") if has_alignment else "")
    script = "\n".join(_source(name) for name in (SCRIPTS_WITH_ALIGNMENT if has_alignment else SCRIPTS))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_source)
    )
    page = environment.from_string(_source("template.html.jinja")).render(
        content=content,
        views=["comparison", *(view for view in VIEWS if view != "scores")] if content.overview else VIEWS,
        panels=[drawn_panel(panel) for panel in content.overview.forest] if content.overview else [],
        score_rows=list(_score_rows(content)),
        scores_csv=_scores_csv(content),
        explained=explained,
        wbr=Markup("<wbr>"),
        style=Markup(style),
        script=Markup(script),
        policy=(
            "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
            f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
        ),
        data=_json(_data(content)),
        pictures=(_json(_pictures(study)) for study in [*content.studies, *content.neighbours]),
    )
    # JSON allows lone surrogates in a text, UTF-8 does not.
    return page.encode("utf-8", errors="replace").decode("utf-8")


@cache
def _source(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(source: str) -> str:
    return "sha256-" + base64.b64encode(sha256(source.encode()).digest()).decode()


def _json(value: Any) -> Markup:
    """JSON in ASCII that is safe inside a <script> element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _number(value: float | None) -> float | None:
    """None for what JSON cannot hold, NaN and infinity; the page shows a dash."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _data(content: PageContent) -> dict[str, Any]:
    return {
        "variants": content.variants,
        "byDifference": content.by_difference,
        "explained": _explained(content),
        "studies": [
            {
                "id": study.id,
                "reference": study.reference,
                **({"original": study.original} if study.original else {}),
                **(
                    {"boxes": [[box.view, box.label, *map(_number, box.place)] for box in study.boxes]}
                    if study.boxes
                    else {}
                ),
                "written": {variant: _written(written) for variant, written in study.written.items()},
            }
            for study in content.studies
        ],
        "neighbours": [{"id": study.id, "reference": study.reference} for study in content.neighbours],
        "curves": [
            {**vars(curve), "points": [[step, _number(value)] for step, value in curve.points]}
            for curve in content.curves
        ],
    }


def _explained(content: PageContent) -> dict[str, str]:
    """What the scores of single studies mean."""
    names = dict.fromkeys(name for study in content.studies for by in study.written.values() for name in by.scores)
    return {name: text for name in names if (text := explained(name))}


def _written(written: InspectedStudy) -> dict[str, Any]:
    similarities = written.similarities
    return {
        "text": written.text,
        "words": written.words,
        "grid": None if written.attention is None else written.attention.shape[2:],
        "findings": written.findings,
        "scores": {name: _number(value) for name, value in written.scores.items()},
        "similarities": similarities and {name: _number(value) for name, value in asdict(similarities).items()},
        "hard_negative": written.hard_negative,
    }


def _pictures(study: StudyContent) -> dict[str, Any]:
    return {
        "views": [_picture(view) for view in study.views],
        **({"large": [_picture(view, max(view.shape))["jpeg"] for view in study.large]} if study.large else {}),
        "attention": {
            variant: _base64(written.attention)
            for variant, written in study.written.items()
            if written.attention is not None
        },
        **_alignments(study),
    }


def _alignments(study: StudyContent) -> dict[str, Any]:
    """Readings and entities by variant, where there are any."""
    readings = {variant: _reading(by.reading) for variant, by in study.written.items() if by.reading is not None}
    entities = {variant: _entities(by.entities) for variant, by in study.written.items() if by.entities is not None}
    return {kind: known for kind, known in (("readings", readings), ("entities", entities)) if known}


def _reading(reading: Reading) -> dict[str, Any]:
    weights = reading.importance
    return {
        "words": reading.words,
        "importance": None if weights is None else [float(f"{weight:.3g}") for weight in weights],
        "grid": reading.attention.shape[2:],
        "attention": _base64(reading.attention),
    }


def _entities(entities: list[FoundEntity]) -> dict[str, Any]:
    return {
        "found": [[entity.phrase, float(f"{entity.probability:.3g}"), entity.verdict] for entity in entities],
        "grid": entities[0].attention.shape[1:] if entities else None,
        "attention": _base64(np.stack([entity.attention for entity in entities])) if entities else "",
    }


def _base64(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(values.tobytes()).decode()


def _picture(view: NDArray[np.uint8], longer_side: int = LONGER_SIDE) -> dict[str, Any]:
    image = Image.fromarray(np.ascontiguousarray(view))
    image.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return {"width": image.width, "height": image.height, "jpeg": base64.b64encode(file.getvalue()).decode()}


def _score_rows(content: PageContent) -> Iterator[dict[str, Any]]:
    """For each score, in the order in which the names first appear, a cell per variant and the marks on its axis."""
    for name in dict.fromkeys(name for variant in content.variants for name in content.scores.get(variant, {})):
        scores = [content.scores.get(variant, {}).get(name) for variant in content.variants]
        baselines = [of.get(name) for of in content.baselines.values()]
        yield {
            "name": name,
            "cells": [_cell(score) for score in scores],
            "baselines": [_cell(None if value is None else Score(value, None, None)) for value in baselines],
            "axis": _axis(scores),
        }


def _scores_csv(content: PageContent) -> str:
    """A row for each score of each variant and baseline."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["variant", "score", "value", "low", "high"])
    for variant in content.variants:
        for name, score in content.scores.get(variant, {}).items():
            table.writerow([variant, name, *("" if v is None else v for v in (score.value, score.low, score.high))])
    for baseline, scores in content.baselines.items():
        for name, value in scores.items():
            table.writerow([baseline, name, value, "", ""])
    # a lone surrogate cannot be percent-encoded
    return text.getvalue().encode("utf-8", errors="replace").decode("utf-8")


def _cell(score: Score | None) -> dict[str, str | None]:
    if score is None or _number(score.value) is None:
        return {"value": None, "interval": None}
    low, high = _number(score.low), _number(score.high)
    interval = None if low is None or high is None else f"{_figure(low)} to {_figure(high)}"
    return {"value": _figure(score.value), "interval": interval}


def _figure(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _axis(scores: list[Score | None]) -> list[dict[str, float] | None] | None:
    """For each variant its score and interval on a scale from zero, or the lowest value below it, to the highest, 100.

    None for fewer than two scores, or where all are zero.
    """
    marks = [_mark(score) for score in scores]
    known = [mark for mark in marks if mark]
    lowest = min((min(mark.values()) for mark in known), default=0.0)
    highest = max((max(mark.values()) for mark in known), default=0.0)
    lowest, highest = min(lowest, 0.0), max(highest, 0.0)
    if len(known) < 2 or lowest == highest:
        return None
    scale = 100 / (highest - lowest)
    return [mark and {key: round((end - lowest) * scale, 2) for key, end in mark.items()} for mark in marks]


def _mark(score: Score | None) -> dict[str, float] | None:
    """A score and the ends of its interval, which are the score itself where there is none."""
    value = None if score is None else _number(score.value)
    if score is None or value is None:
        return None
    low, high = _number(score.low), _number(score.high)
    return {"low": value if low is None else low, "value": value, "high": value if high is None else high}
