"""The findings of a generated report against those of its reference, in words."""

from typing import Any

from hardneg_plugin.evaluation.inspected_study import FindingVerdict
from hardneg_plugin.metrics.findings import Findings
from hardneg_plugin.metrics.records import StatedFindings, findings_from_json


def finding_verdicts(stated: StatedFindings) -> list[tuple[str, FindingVerdict]]:
    """The findings that both texts state, those that only the generated one states, and those that it misses.

    >>> finding_verdicts({"reference": [["oedema", None], ["nodule", [["mm", 6]]]], "generated": [["oedema", None]]})
    [('oedema', 'correct'), ('nodule (mm 6)', 'missed')]
    """
    reference, generated = findings_from_json(stated["reference"]), findings_from_json(stated["generated"])
    groups: list[tuple[FindingVerdict, Findings]] = [
        ("correct", generated & reference),
        ("wrong", generated - reference),
        ("missed", reference - generated),
    ]
    return [(text, verdict) for verdict, findings in groups for text in sorted(map(describe_finding, findings))]


def describe_finding(finding: tuple[str, Any]) -> str:
    """A finding as a person reads it.

    >>> describe_finding(("nodule", (("calcified", False), ("mm", 6), ("side", "left"))))
    'nodule (not calcified, mm 6, side left)'
    >>> describe_finding(("oedema", ())), describe_finding(("effusion", "small")), describe_finding(("effusion", None))
    ('oedema', 'effusion (small)', 'effusion')
    """
    name, attributes = finding
    if attributes is None or attributes == ():
        return name
    each = attributes if isinstance(attributes, tuple) else [attributes]
    return f"{name} ({', '.join(map(_describe_attribute, each))})"


def _describe_attribute(attribute: Any) -> str:
    match attribute:
        case (key, True):
            return str(key)
        case (key, False):
            return f"not {key}"
        case (key, value):
            return f"{key} {value}"
    return str(attribute)
