"""Results as a file of JSON and a Markdown table beside it."""

import json
import re
from pathlib import Path
from typing import Any

from gpu_parts.part import Row

Results = dict[str, Any]


def file_of(folder: Path, card: str) -> Path:
    """The JSON file of a card.

    >>> file_of(Path("gpu"), "NVIDIA H200").name
    'nvidia_h200.json'
    """
    return folder / f"{re.sub('[^a-z0-9]+', '_', card.lower()).strip('_')}.json"


def write(path: Path, results: Results) -> None:
    """Write both files, each whole.

    Args:
        path: of the JSON file.
        results: of all parts so far.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, text in ((path, json.dumps(results, indent=1)), (path.with_suffix(".md"), markdown(results))):
        partial = target.with_name(f"{target.name}.partial")
        partial.write_text(text + "\n")
        partial.replace(target)


def read(path: Path) -> Results | None:
    """The results of an earlier run; None without a file that can be read."""
    try:
        results: Results = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return results


def markdown(results: Results) -> str:
    """All parts as Markdown."""
    lines = [f"# {results['card']}", "", f"`{results['command']}`, last run {results['started']}", ""]
    lines += ["| part | status | seconds | |", "|---|---|---|---|"]
    for name, part in results["parts"].items():
        failed = f"failed: {', '.join(part['failed'])}" if part.get("failed") else ""
        note = "; ".join(filter(None, (part.get("error", ""), failed)))
        lines.append(f"| {name} | {part['status']} | {part.get('seconds', '')} | {_cell(note)} |")
    for name, part in results["parts"].items():
        if part.get("rows"):
            lines += ["", f"## {name}", "", part["title"], "", *_table(part["rows"])]
    return "\n".join(lines)


def _table(rows: list[Row]) -> list[str]:
    lines: list[str] = []
    columns: list[str] = []
    for row in (row for row in rows if set(row) - {"", "ok", "error", "took_s"}):
        if not lines or not set(row) <= {*columns, "error"}:  # other columns: another table
            own = dict.fromkeys(name for r in rows if _alike(r, row) for name in r)
            columns = [name for name in own if name not in ("took_s", "error")]
            columns += ["took_s"] if "took_s" in own else []
            lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines.append("| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |")
    errors = [f"- {row['']}: {row['error']}" for row in rows if "error" in row]
    return [*lines[1:], *(["", *errors] if errors else [])]


def _alike(one: Row, other: Row) -> bool:
    return bool((one.keys() & other.keys()) - {"", "took_s", "ok", "error"}) or one is other


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
