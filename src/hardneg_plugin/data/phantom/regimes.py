"""How the studies of the phantom are drawn: which findings they have, and what their reports say of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from numpy.random import Generator

from hardneg_plugin.data.phantom.clinic import NORMAL_SHARE, Statement, draw_clinic_findings, draw_statements
from hardneg_plugin.data.phantom.dictation import dictate, write_clinic_report
from hardneg_plugin.data.phantom.findings import Finding, draw_findings
from hardneg_plugin.data.phantom.grammar import say, write_report

Statements = Mapping[Finding, Statement]


@dataclass(frozen=True)
class Regime:
    """One way to draw studies and to write their reports."""

    normal_share: float
    """The usual share of studies without a finding."""
    draw: Callable[[Generator, float], frozenset[Finding]]
    """The findings of a study, by a generator and the share of normal studies."""
    write: Callable[[frozenset[Finding], Generator], tuple[Statements, str]]
    """What the report says of each finding, and the report."""
    say: Callable[[Finding, Generator], str]
    """A sentence that states a finding with all of its attributes."""


def _uniform(findings: frozenset[Finding], rng: Generator) -> tuple[Statements, str]:
    return dict.fromkeys(sorted(findings), Statement.STATED), write_report(findings, rng)


def _clinic(findings: frozenset[Finding], rng: Generator) -> tuple[Statements, str]:
    statements = draw_statements(findings, rng)
    return statements, write_clinic_report(statements, rng)


def _dictated(found: Finding, rng: Generator) -> str:
    return dictate(found, Statement.STATED, rng)


REGIMES: Mapping[str, Regime] = {
    "uniform": Regime(0.4, draw_findings, _uniform, say),
    "clinic": Regime(NORMAL_SHARE, draw_clinic_findings, _clinic, _dictated),
}
"""By name: `uniform` draws all findings equally often and states each; `clinic` follows the statistics of real reports."""
