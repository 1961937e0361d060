"""From the folders of finished runs to the content of their page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image

from hardneg_plugin.data.file_source import FileSplit
from hardneg_plugin.data.phantom.render import VIEWS
from hardneg_plugin.data.phantom.studies import PhantomSplit
from hardneg_plugin.data.report_sections import has_marks, with_headings
from hardneg_plugin.data.studies import SplitName, Studies
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.finished_runs import FinishedRun, read_run
from hardneg_plugin.evaluation.inspected_study import InspectedStudy, describe_finding
from hardneg_plugin.evaluation.run_inspection import InspectedRun, Track, inspect_run
from hardneg_plugin.pages.content import DrawnBox, PageContent, Score, StudyContent
from hardneg_plugin.pages.curves import read_curves, spread
from hardneg_plugin.runs.folder import RunFolder

SPREAD_OVER = ("findings_attributes_F1", "CIDEr", "ROUGE-L", "specificity")
"""Scores of single studies; the shown studies are spread over the first that all variants have."""


def build_page(
    runs: Mapping[str, RunFolder],
    split: SplitName,
    limit: int = 600,
    *,
    by_difference: bool = False,
    zoom: int | None = None,
    data: DictConfig | None = None,
    device: str | None = None,
    trust: bool = False,
    track: Track = lambda batches, name: batches,
) -> PageContent:
    """The content of a page about runs that were scored on the same studies.

    Reports are generated again, for their heat maps, of the shown studies only.

    Args:
        runs: by the name that each gets, in the order of the page.
        split: whose predictions are shown.
        limit: show at most so many studies, >= 1: the worst, the best, and an even spread between them.
        by_difference: show those whose scores differ most between the runs instead.
        zoom: pixels of the longer side of enlarged views, which are read from the image files; None: as the model sees them. Data
            without files, such as the phantom, have no others.
        data: as of `read_run`.
        device, trust, track: as of `inspect_run`.

    Raises:
        UserError: a run is not finished, has no such predictions, or does not fit its data or the other runs.
    """
    finished = [read_run(name, folder, split, data=data, trust=trust) for name, folder in runs.items()]
    first = finished[0]
    for run in finished[1:]:
        if different := first.records.keys() ^ run.records.keys():
            raise UserError(
                f"Expected runs scored on the same studies, but only one of {first.folder.path} and {run.folder.path} has "
                f"the study {min(different)!r} ({len(different)} such studies)."
            )
    ids = list(first.rows)
    score, chosen = _choice(finished, ids, limit, by_difference)
    shown = [ids[index] for index in chosen]
    inspected = [inspect_run(run, shown, device=device, trust=trust, track=track) for run in finished]
    how = (
        f"spread evenly {'from the first to the last' if score is None else f'from the lowest to the highest {score}'}"
    )
    if by_difference and score is not None:
        how = f"those whose {score} differs most between variants"
    choice = f"Shown are {len(shown)} of {len(ids)} studies, {how}; scores are of all of them."
    negatives = {study.hard_negative for each in inspected for study in each.studies.values()}
    return PageContent(
        title=f"{', '.join(runs)}: {split} split",
        notes=[*_notes(inspected), *([] if len(shown) == len(ids) else [choice])],
        variants=list(runs),
        studies=[
            _study(first, name, {each.run.name: each.studies[name] for each in inspected}, zoom) for name in shown
        ],
        neighbours=[_study(first, name, {}, None) for name in ids if name in negatives and name not in set(shown)],
        scores={run.name: split_scores(run.metrics, split) for run in finished},
        baselines=_baselines(finished) if split == "test" else {},
        curves=[curve for run in finished for curve in read_curves(run.folder, run.name)],
        configs={run.name: run.folder.config.read_text(encoding="utf-8") for run in finished},
        by_difference=score if by_difference and score is not None else "",
    )


def split_scores(metrics: Mapping[str, Any], split: SplitName) -> dict[str, Score]:
    """The scores of a split with their intervals.

    Args:
        metrics: the content of metrics.json.
        split: which.
    """
    intervals = (metrics.get("intervals") or {}).get(split) or {}
    return {
        name: Score(float(value), *intervals.get(name, (None, None)))
        for name, value in metrics[split].items()
        if isinstance(value, int | float)
    }


def _choice(
    runs: Sequence[FinishedRun], ids: Sequence[str], limit: int, by_difference: bool
) -> tuple[str | None, list[int]]:
    """The score by which the shown studies are chosen, if there is one, and their indices in `ids`."""
    scores = [[run.records[study].get("scores", {}) for run in runs] for study in ids]
    for name in SPREAD_OVER:
        if all(name in each for of_study in scores for each in of_study):
            values = np.array([[each[name] for each in of_study] for of_study in scores])
            if by_difference:
                return name, sorted(np.argsort(-np.ptp(values, axis=1), kind="stable")[:limit].tolist())
            return name, spread(values.mean(axis=1), limit)
    return None, spread(range(len(ids)), limit)


def _study(run: FinishedRun, name: str, written: dict[str, InspectedStudy], zoom: int | None) -> StudyContent:
    row = run.rows[name]
    sample = run.studies[row]
    return StudyContent(
        id=name,
        views=[image[0].numpy() for image in sample["images"]],
        reference=run.records[name]["reference"],
        written=written,
        large=[] if zoom is None else large_views(run.studies, row, zoom),
        original=with_headings(sample["report"]) if has_marks(sample["report"]) else sample["report"],
        boxes=boxes_of(run.studies, row),
    )


def large_views(studies: Studies, row: int, longer_side: int) -> list[NDArray[np.uint8]]:
    """The whole views of a study from its image files, in their own proportions; none where there are no files.

    Args:
        studies: of a split.
        row: of the study.
        longer_side: scaled down to so many pixels, >= 1, and never enlarged.
    """
    if not isinstance(studies, FileSplit):
        return []
    views = [Image.fromarray(view[0].numpy()) for view in studies.read_views(row, longer_side)]
    for view in views:
        view.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS)
    return [np.asarray(view) for view in views]


def boxes_of(studies: Studies, row: int) -> list[DrawnBox]:
    """The boxes of the findings of a study, which are known of the phantom; none for other studies.

    Args:
        studies: of a split.
        row: of the study.
    """
    if not isinstance(studies, PhantomSplit):
        return []
    boxes = []
    for mark in studies.marks(row):
        top, left, bottom, right = (end / studies.size for end in mark.box)
        boxes.append(DrawnBox(VIEWS.index(mark.view), describe_finding(mark.finding), (top, left, bottom, right)))
    return boxes


def _baselines(runs: Sequence[FinishedRun]) -> dict[str, dict[str, float]]:
    """Those of the first run that scored any: they do not depend on the model."""
    found: Mapping[str, Mapping[str, Any]] = next(
        (run.metrics["baselines"] for run in runs if run.metrics.get("baselines")), {}
    )
    return {
        name: {score: float(value) for score, value in scores.items() if isinstance(value, int | float)}
        for name, scores in found.items()
    }


def _notes(runs: Sequence[InspectedRun]) -> list[str]:
    notes = []
    for inspected in runs:
        run, name = inspected.run, inspected.run.name
        negatives = "TF-IDF" if run.config.model.get("hard_negatives") is None else "its report embeddings"
        hardened = (
            "" if inspected.hardness is None else f", hardened at {inspected.hardness:.2f}, the end of its schedule"
        )
        notes.append(f"{name}: {run.checkpoint} checkpoint; hard negatives are the nearest by {negatives}{hardened}.")
        if len(run.rows) < len(run.studies):
            notes.append(
                f"{name}: its predictions are of {len(run.rows)} of the {len(run.studies)} studies of the split."
            )
        if inspected.differing:
            notes.append(
                f"{name}: {len(inspected.differing)} of {len(inspected.studies)} reports come out differently when generated "
                "again; they are shown as predicted, without heat maps."
            )
        if not inspected.gives_attention:
            notes.append(f"{name}: its decoder gives no attention, so there are no heat maps.")
        has_entities = any(study.entities is not None for study in inspected.studies.values())
        if has_entities and not inspected.knows_facts:
            notes.append(
                f"{name}: what reports state of its entities is not known, since its data have no data.knowledge."
            )
    return notes
