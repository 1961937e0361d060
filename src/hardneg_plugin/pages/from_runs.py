"""From the folders of finished runs to what their page shows."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from omegaconf import DictConfig

from hardneg_plugin.data.studies import SplitName
from hardneg_plugin.errors import UserError
from hardneg_plugin.evaluation.finished_runs import FinishedRun, InspectedRun, Track, finished_run, inspect_run
from hardneg_plugin.metrics.findings import Findings
from hardneg_plugin.metrics.records import StatedFindings, findings_from_json
from hardneg_plugin.pages.content import PageContent, Score, StudyContent, Written
from hardneg_plugin.pages.curves import curves_of
from hardneg_plugin.runs.folder import RunFolder

Verdict = Literal["correct", "wrong", "missed"]

SPREAD_OVER = ("findings_attributes_F1", "CIDEr", "ROUGE-L", "specificity")
"""The scores of single studies that a choice of studies is spread over: the first that all variants have."""


def page_of_runs(
    runs: Mapping[str, RunFolder],
    split: SplitName,
    limit: int = 600,
    *,
    data: DictConfig | None = None,
    device: str | None = None,
    trust: bool = False,
    track: Track = lambda batches, name: batches,
) -> PageContent:
    """What a page shows of the runs, which were scored on the same studies.

    Args:
        runs: by the name that each is to have, in the order of the page.
        split: whose predictions are shown.
        limit: studies shown at most, at least 1: the worst, the best, and an even spread between them.
        data, device, trust, track: as of `inspect_run`.

    Raises:
        UserError: a run is not finished, has no such predictions, or does not fit its data or the other runs.
    """
    finished = [finished_run(name, folder, split, trust=trust) for name, folder in runs.items()]
    _check_same_studies(finished)
    inspected = [inspect_run(run, data=data, device=device, trust=trust, track=track) for run in finished]
    first = inspected[0]
    ids = list(first.rows)
    score, chosen = _choice(finished, ids, limit)
    shown = [ids[place] for place in chosen]
    negatives = {each.inspected[study].hard_negative for each in inspected for study in shown}
    return PageContent(
        title=f"{', '.join(runs)}: {split} split",
        notes=[*_notes(inspected), *_notes_on_choice(len(shown), len(ids), score)],
        variants=list(runs),
        studies=[_study(first, study, {each.run.name: _written(each, study) for each in inspected}) for study in shown],
        neighbours=[_study(first, study, {}) for study in ids if study in negatives and study not in set(shown)],
        scores={run.name: scores_of(run.metrics, split) for run in finished},
        curves=[curve for run in finished for curve in curves_of(run.folder, run.name)],
        configs={run.name: run.folder.config.read_text(encoding="utf-8") for run in finished},
    )


def spread(scores: Sequence[float], limit: int) -> list[int]:
    """The places of at most so many scores, in their order: the lowest, the highest, and an even spread between them.

    >>> spread([0.4, 0.1, 0.3, 0.2, 0.5], 3)
    [1, 2, 4]
    """
    order = np.argsort(scores, kind="stable")
    chosen: list[int] = order[np.linspace(0, len(order) - 1, min(limit, len(order))).round().astype(int)].tolist()
    return sorted(chosen)


def judged(stated: StatedFindings) -> list[tuple[str, Verdict]]:
    """The findings of two texts: those that both state, those that only the generated one states, and those that it misses."""
    reference, generated = findings_from_json(stated["reference"]), findings_from_json(stated["generated"])
    groups: list[tuple[Verdict, Findings]] = [
        ("correct", generated & reference),
        ("wrong", generated - reference),
        ("missed", reference - generated),
    ]
    return [(text, verdict) for verdict, findings in groups for text in sorted(map(in_words, findings))]


def in_words(finding: tuple[str, Any]) -> str:
    """A finding as a person reads it.

    >>> in_words(("nodule", (("calcified", False), ("mm", 6), ("side", "left"))))
    'nodule (not calcified, mm 6, side left)'
    >>> in_words(("oedema", ())), in_words(("effusion", "small")), in_words(("effusion", None))
    ('oedema', 'effusion (small)', 'effusion')
    """
    name, attributes = finding
    if attributes is None or attributes == ():
        return name
    each = attributes if isinstance(attributes, tuple) else [attributes]
    return f"{name} ({', '.join(map(_attribute, each))})"


def scores_of(metrics: Mapping[str, Any], split: SplitName) -> dict[str, Score]:
    """The scores of a split in metrics.json, with their intervals where it has them."""
    intervals = (metrics.get("intervals") or {}).get(split) or {}
    return {
        name: Score(float(value), *intervals.get(name, (None, None)))
        for name, value in metrics[split].items()
        if isinstance(value, int | float)
    }


def _attribute(attribute: Any) -> str:
    match attribute:
        case (key, True):
            return str(key)
        case (key, False):
            return f"not {key}"
        case (key, value):
            return f"{key} {value}"
    return str(attribute)


def _check_same_studies(runs: Sequence[FinishedRun]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if different := first.records.keys() ^ run.records.keys():
            raise UserError(
                f"Expected runs scored on the same studies, but of {first.folder.path} and {run.folder.path} only one has the "
                f"study {min(different)!r} ({len(different)} such studies)."
            )


def _choice(runs: Sequence[FinishedRun], ids: Sequence[str], limit: int) -> tuple[str | None, list[int]]:
    """The score that the choice of studies was spread over, if there is one, and the places of those chosen."""
    scores = [[run.records[study].get("scores", {}) for run in runs] for study in ids]
    for name in SPREAD_OVER:
        if all(name in each for of_study in scores for each in of_study):
            return name, spread([float(np.mean([each[name] for each in of_study])) for of_study in scores], limit)
    return None, spread(range(len(ids)), limit)


def _study(run: InspectedRun, study: str, written: dict[str, Written]) -> StudyContent:
    views = [image[0].numpy() for image in run.studies[run.rows[study]]["images"]]
    return StudyContent(id=study, views=views, reference=run.run.records[study]["reference"], written=written)


def _written(run: InspectedRun, study: str) -> Written:
    record, inspected = run.run.records[study], run.inspected[study]
    return Written(
        text=record["generated"],
        words=record["generated"].split(),
        attention=None if study in run.is_otherwise else inspected.attention,
        findings=judged(record["findings"]) if "findings" in record else None,
        scores={
            name: score for name, score in record.get("scores", {}).items() if not name.endswith(("loss", "rank"))
        },  # the higher the better
        similarities=inspected.similarities,
        hard_negative=inspected.hard_negative,
        reading=inspected.reading,
        entities=inspected.entities,
    )


def _notes(runs: Sequence[InspectedRun]) -> list[str]:
    notes = []
    for run in runs:
        name = run.run.name
        negatives = "TF-IDF" if run.run.is_host else "its own report embeddings"
        hardened = "" if run.hardness is None else f", hardened at {run.hardness:.2f}, the end of its schedule"
        notes.append(
            f"{name}: {run.run.checkpoint} checkpoint; hard negatives are the nearest by {negatives}{hardened}."
        )
        if len(run.rows) < len(run.studies):
            notes.append(
                f"{name}: its predictions are of {len(run.rows)} of the {len(run.studies)} studies of the split."
            )
        if run.is_otherwise:
            notes.append(
                f"{name}: {len(run.is_otherwise)} of {len(run.rows)} reports come out otherwise when written again, and are shown "
                "as predicted, without heat maps."
            )
        if all(inspected.attention is None for inspected in run.inspected.values()):
            notes.append(f"{name}: its decoder gives no attention, so there are no heat maps.")
        if run.looks_for_entities and not run.knows_facts:
            notes.append(
                f"{name}: what reports state of its entities is not known, since its data have no data.knowledge."
            )
    return notes


def _notes_on_choice(shown: int, number: int, score: str | None) -> list[str]:
    if shown == number:
        return []
    how = "from the first to the last" if score is None else f"from the lowest to the highest {score}"
    return [f"Shown are {shown} of {number} studies, spread evenly {how}; scores are of all of them."]
