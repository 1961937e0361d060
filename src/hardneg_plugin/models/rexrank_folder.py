"""A report generator as ReXrank takes it: a folder that answers its command lines."""

import argparse
import importlib.metadata
import math
import platform
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardneg_plugin.config import conf_dir
from hardneg_plugin.data.downloads.folders import path_within
from hardneg_plugin.data.downloads.rexrank import Views, read_rexrank, views_of
from hardneg_plugin.data.report_sections import with_headings
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import check_place, whole_text_file, write_json
from hardneg_plugin.progress import progress
from hardneg_plugin.runs.provenance import DISTRIBUTION
from hardneg_plugin.terminal import say

MODEL, SCRIPT, ENVIRONMENT, PACKAGE = "model", "inference.py", "environment.yaml", "hardneg_plugin"
"""What is in the folder."""
PREDICTION = "model_prediction"
"""The key of the report that is written."""
NEEDED = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "transformers", "timm", "hydra-core", "numpy")
"""Packages that the environment has where this one is not installed, and so does not say what it needs."""
_SCRIPT = '''"""Writes reports for ReXrank.

python inference.py INPUT_JSON OUTPUT_JSON IMG_ROOT
python inference.py --input_json_file INPUT_JSON --save_json_file OUTPUT_JSON --img_root_dir IMG_ROOT
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the package is beside this file

from hardneg_plugin.models.rexrank_folder import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(HERE))
'''


def write_rexrank_files(folder: Path) -> None:
    """Write all but the model into a folder: the script, its environment and this package, of which none has to be installed.

    Args:
        folder: the folder, which is there.
    """
    source, without = Path(__file__).resolve().parents[1], shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(source, folder / PACKAGE, ignore=without)
    if not (source / "conf").is_dir():  # a checkout has them beside its sources
        shutil.copytree(conf_dir(), folder / PACKAGE / "conf", ignore=without)
    for name, text in ((SCRIPT, _SCRIPT), (ENVIRONMENT, _environment())):
        with whole_text_file(folder / name) as file:
            file.write(text)


def _environment() -> str:
    """A conda environment of the Python and the packages that are installed here; others at any version that pip finds."""
    try:
        listed = [line for line in importlib.metadata.requires(DISTRIBUTION) or () if "extra ==" not in line]
    except importlib.metadata.PackageNotFoundError:  # a checkout, or an exported folder
        listed = list(NEEDED)
    lines = []
    for requirement in listed:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            lines.append(f"      - {name}=={importlib.metadata.version(name).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"      - {requirement.partition(';')[0].strip()}")
    python = ".".join(platform.python_version_tuple()[:2])
    head = [
        "name: hardneg_plugin",
        "channels:",
        "  - conda-forge",
        "dependencies:",
        f"  - python={python}",
        "  - pip",
        "  - pip:",
    ]
    return "\n".join([*head, *lines]) + "\n"


def answer(
    model: Any,
    studies: Path,
    output: Path,
    images: Path,
    *,
    views: Views = "all",
    batch_size: int = 16,
) -> int:
    """Write a report for every study of a ReXrank file; the output is the input with `PREDICTION` in each entry.

    Args:
        model: a `ReportGenerator`.
        studies: the JSON file to read.
        output: the JSON file to write.
        images: folder that the paths of images are relative to.
        views: "all", or "key" for the frontal image alone.
        batch_size: studies at a time.

    Returns:
        The number of reports.

    Raises:
        UserError: a file or an image cannot be read, with its study; nothing is written then.
    """
    entries = read_rexrank(studies)
    check_place(output, "output_json")
    if not images.is_dir():
        raise UserError(f"img_root: expected a folder of images, but got {images}.")
    files: dict[str, list[str | Path]] = {}
    for study, entry in entries.items():
        names = views_of(entry, views)
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(
                f'{studies}, study {study!r}: expected "image_path" to be a list of paths, but got {names!r}.'
            )
        files[study] = [path_within(images, name.lstrip("/")) for name in names]
        if missing := [path for path in files[study] if not Path(path).is_file()]:
            raise UserError(f"{studies}, study {study!r}: there is no image {missing[0]}. Is {images} the img_root?")
    names = list(files)
    for start in progress(range(0, len(names), batch_size), "batches of studies"):
        some = names[start : start + batch_size]
        for study, report in zip(
            some, model.generate([files[study] for study in some], batch_size=batch_size), strict=True
        ):
            entries[study][PREDICTION] = with_headings(report.text)
    write_json(output, _without_nan(entries), indent=4)
    return len(entries)


def _without_nan(value: Any) -> Any:
    """JSON's null for each NaN, which ReXrank's own files have and JSON does not."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def main(folder: Path, arguments: Sequence[str] | None = None) -> int:
    """The command of the folder's script; returns its exit status.

    Args:
        folder: what `write_rexrank_files` and `save_pretrained` wrote.
        arguments: of the command line; None: those of the process.
    """
    from hardneg_plugin.models.report_generator import ReportGenerator

    parser = argparse.ArgumentParser(prog=SCRIPT, description="Write reports for the studies of a ReXrank file.")
    names = ("input_json_file", "save_json_file", "img_root_dir")
    for name in names:
        parser.add_argument(f"--{name}", type=Path, dest=f"{name}_", metavar="PATH")
    parser.add_argument("paths", nargs="*", type=Path, metavar="INPUT_JSON OUTPUT_JSON IMG_ROOT")
    parser.add_argument(
        "--views", choices=("all", "key"), default="all", help="all images of a study, or its frontal one"
    )
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--device", default=None, help="such as cpu; by default a GPU if there is one")
    given = parser.parse_args(arguments)
    options = [getattr(given, f"{name}_") for name in names]
    paths = given.paths or options
    if len(paths) != len(names) or None in paths or (given.paths and any(options)):
        parser.error(f"expected INPUT_JSON OUTPUT_JSON IMG_ROOT, or {', '.join(f'--{name}' for name in names)}")
    if given.batch_size < 1:
        parser.error(f"--batch_size: expected a positive integer, but got {given.batch_size}")
    try:
        model = ReportGenerator.from_pretrained(folder / MODEL, device=given.device)
        count = answer(model, *paths, views=given.views, batch_size=given.batch_size)
    except UserError as error:
        say(f"{SCRIPT}: {error}", file=sys.stderr)
        return 2
    say(f"{count} reports in {paths[1]}")
    return 0
