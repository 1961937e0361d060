"""Hard negatives in the released annotation format of ITHN: neg_report and neg_image_path beside each report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardneg_plugin.errors import UserError
from hardneg_plugin.files import read_json, whole_file, writing


def write_ithn_annotation(path: Path, annotation: Path, neighbours: Mapping[str, Sequence[str]]) -> int:
    """Write a copy of an annotation whose training entries have the report and the images of their nearest study.

    Args:
        path: the file to write, whole or not at all.
        annotation: the data set's annotation.
        neighbours: by study id, the ids of its neighbours, nearest first.

    Returns:
        How many training entries have no neighbour, and so no negative.

    Raises:
        UserError: a file cannot be read or written, or `path` is the annotation itself.
    """
    if path.exists() and path.samefile(annotation):
        raise UserError(
            f"ithn_annotation: expected a new file, but got the data set's annotation {annotation}. Name another."
        )
    content: dict[str, Any] = read_json(annotation, "annotation")
    entries = {str(entry["id"]): entry for entry in content["train"]}
    nearest = {study: entries[names[0]] for study, names in neighbours.items() if names}
    content["train"] = [_with_negative(entry, nearest.get(study)) for study, entry in entries.items()]
    with writing(path, "It is unchanged."), whole_file(path) as file:
        file.write(json.dumps(content, ensure_ascii=False).encode())
    return len(entries) - len(nearest)


def _with_negative(entry: Mapping[str, Any], negative: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if negative is None:
        return {key: value for key, value in entry.items() if key not in ("neg_report", "neg_image_path")}
    return {**entry, "neg_report": negative["report"], "neg_image_path": negative["image_path"]}
