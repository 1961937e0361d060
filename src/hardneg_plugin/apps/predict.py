"""hardneg-predict: write reports for images with a trained run."""

import csv
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from hardneg_plugin.apps import commands
from hardneg_plugin.apps.shared.console import console
from hardneg_plugin.apps.shared.image_arguments import StudyFiles, studies_of_arguments
from hardneg_plugin.apps.shared.typed_paths import typed_path
from hardneg_plugin.data.report_sections import has_marks, with_headings
from hardneg_plugin.errors import UserError
from hardneg_plugin.files import whole_text_file, write_jsonl
from hardneg_plugin.models.exported_folder import is_exported
from hardneg_plugin.models.report_generator import ReportGenerator
from hardneg_plugin.models.report_io import GeneratedReport, read_views
from hardneg_plugin.progress import progress
from hardneg_plugin.terminal import say

SHOWN = 20
"""Studies shown on the screen where a file gets them all."""
WIDEST = 100
"""Characters of a line on the screen, at most: longer ones are hard to read."""

Record = dict[str, Any]


def main() -> None:
    """Entry point of hardneg-predict."""
    commands.predict()


def predict(config: DictConfig, paths: Sequence[str] = ("",)) -> None:
    """Write a report for each study, on the screen and into a file if wanted.

    A study with an unreadable image is reported in one line and skipped. Where a file is written, the first `SHOWN` are shown.

    Args:
        config: of predict.yaml.
        paths: the run, or a folder of `hardneg-export format=hub` (empty: that of the config), then images.

    Raises:
        UserError: settings or run are wrong, or no study can be read.
        SystemExit: with code 1 where some studies were skipped.
    """
    run = typed_path(paths[0]) if paths[0] else config.run
    _check(config)
    output = _output(config)
    columns = {"id": config.columns.id, "images": config.columns.images}
    studies = studies_of_arguments([*paths[1:], *_images(config)], columns)
    model = _model(Path(str(run)), config)
    records, failed = _write(model, studies, config)
    if not records:
        raise UserError(f"None of the {len(studies)} studies could be read.")
    if output is not None:
        WRITERS[output.suffix](output, records)
        say(f"{len(records)} reports in {output}{f', the first {SHOWN} shown above' if len(records) > SHOWN else ''}")
    if failed:
        say(f"{failed} of {len(studies)} studies were left out, as reported above.", file=sys.stderr)
        sys.exit(1)


def _model(folder: Path, config: DictConfig) -> ReportGenerator:
    """That of a run, or of a folder that `hardneg-export format=hub` wrote."""
    if is_exported(folder):
        if config.checkpoint != "best" or config.image_size is not None:
            raise UserError(
                f"checkpoint, image_size: {folder} is an exported model, which has one set of weights and one size of "
                "images; leave them out."
            )
        return ReportGenerator.from_pretrained(folder, device=config.device)
    return ReportGenerator.from_run(
        str(folder), str(config.checkpoint), device=config.device, trust=config.trust, image_size=config.image_size
    )


def _check(config: DictConfig) -> None:
    """Raise a UserError for settings of a wrong type or range."""
    for name in ("batch_size", "beam_size", "max_length", "image_size"):
        value = config[name]
        is_left_out = value is None and name != "batch_size"
        if not is_left_out and (type(value) is not int or value < 1):
            raise UserError(f"{name}: expected a positive integer, but got {value!r}.")
    if not isinstance(config.attention, bool):
        raise UserError(f"attention: expected true or false, but got {config.attention!r}.")


def _output(config: DictConfig) -> Path | None:
    """The file to write, checked to be writable before the work begins; None: none."""
    if config.output is None:
        return None
    output = Path(str(config.output))
    if output.suffix not in WRITERS or output.is_dir():
        raise UserError(f"output: expected a file {' or '.join(WRITERS)}, but got {output}.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output: {output.parent} cannot be created ({error.strerror}).") from error
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"output: {output.parent} is not writable.")
    return output


def _images(config: DictConfig) -> list[Any]:
    settings: Any = OmegaConf.to_container(config, resolve=True)
    images = settings["images"]
    return images if isinstance(images, list) else [] if images is None else [images]


def _write(model: ReportGenerator, studies: Sequence[StudyFiles], config: DictConfig) -> tuple[list[Record], int]:
    """The records of the readable studies, each shown once written, and the number of the others."""
    assert model.image_size is not None
    records: list[Record] = []
    screen, failed = console(), 0
    starts = range(0, len(studies), config.batch_size)
    for start in progress(starts, "batches of studies") if len(starts) > 1 else starts:
        readable: list[tuple[StudyFiles, list[Tensor]]] = []
        for study in studies[start : start + config.batch_size]:
            try:
                readable.append((study, list(read_views(study.files, model.image_size))))
            except UserError as error:
                failed += 1
                message = " ".join(str(error).split())
                say(f"hardneg-predict: {_printable(study.id)} left out: {message}", file=sys.stderr)
        written = model.generate(
            [views for _, views in readable],
            beam_size=config.beam_size,
            max_length=config.max_length,
            precision=config.precision,
            attention=config.attention,
        )
        for (study, _), report in zip(readable, written, strict=True):
            if config.output is None or len(records) < SHOWN:
                screen.print(_shown(study, report, screen.width), soft_wrap=True)
            records.append(_record(study, report))
    return records, failed


def _record(study: StudyFiles, report: GeneratedReport) -> Record:
    record: Record = {
        "id": _printable(study.id),
        "images": [_printable(file) for file in study.files],
        "report": report.text if not has_marks(report.text) else with_headings(report.text),
    }
    if report.attention is not None:
        record["words"] = [
            {"word": word, "view": view + 1, "share": round(share, 4)}
            for word, (view, share) in zip(report.words, report.views(), strict=True)
        ]
    return record


def _shown(study: StudyFiles, report: GeneratedReport, width: int) -> str:
    """The name, several views numbered below it, and the wrapped report."""
    lines = [_printable(study.id)]
    if len(study.files) > 1:
        lines += [f"  view {number}: {_printable(file)}" for number, file in enumerate(study.files, start=1)]
    words = (
        report.words
        if report.attention is not None or not has_marks(report.text)
        else with_headings(report.text).split()
    )
    if report.attention is not None and len(study.files) > 1:
        # kept on one line with its word
        shares = [f"[view\0{view + 1}\0{share:.0%}]" for view, share in report.views()]
        words = [f"{word}\0{share}" for word, share in zip(words, shares, strict=True)]
    wrapped = textwrap.wrap(
        " ".join(words) or "(an empty report)",
        width=min(width, WIDEST) - 2,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines += [f"  {line}".replace("\0", " ") for line in wrapped]
    return "\n".join(lines) + "\n"


def _printable(name: str | Path) -> str:
    """A file name may hold bytes that are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")


def _write_csv(path: Path, records: Sequence[Record]) -> None:
    """As a table: "|" between views, and after each word its view and share in brackets."""
    with whole_text_file(path) as file:
        table = csv.writer(file, lineterminator="\n")
        has_words = any("words" in record for record in records)
        table.writerow(["id", "images", "report", *(["words"] if has_words else [])])
        for record in records:
            words = [f"{word['word']} [{word['view']} {word['share']}]" for word in record.get("words", ())]
            row = [record["id"], "|".join(record["images"]), record["report"]]
            table.writerow([*row, *([" ".join(words)] if has_words else [])])


WRITERS: dict[str, Any] = {".jsonl": write_jsonl, ".csv": _write_csv}


if __name__ == "__main__":
    main()
