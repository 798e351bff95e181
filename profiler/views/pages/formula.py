"""The formula's part of a run's page: each phase's terms, how they come about, and who says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from profiler.units import format_bytes
from profiler.views.pages.page import table

_HEAD = ("category", "expression", "bytes", "alive at", "source")


def formula_section(phases: Sequence[Mapping[str, Any]]) -> str:
    """The section's HTML, a table to open for each phase; "" without phases.

    Args:
        phases: as profiler.formula.terms.PhaseTerms.to_dict gives them.
    """
    if not phases:
        return ""
    lead = "What each phase takes, added up from the model's facts. Of a peak this is a lower bound."
    return f'<h2>Formula</h2><p class="note">{lead}</p>' + "".join(_phase(phase) for phase in phases)


def _phase(phase: Mapping[str, Any]) -> str:
    name = str(phase["phase"]).replace("_", " ")
    end, peak = (format_bytes(phase[key]) for key in ("end_bytes", "peak_bytes"))
    rows = [
        (
            term["category"].replace("_", " "),
            term["expression"],
            f"{term['size_bytes']:,}",
            term["alive_at"],
            term["source"],
        )
        for term in phase["terms"]
    ]
    words = f"{name}: {end} at its end, at least {peak} at its peak"
    return f"<details><summary>{escape(words)}</summary>{table(_HEAD, rows, [2])}</details>"
