"""What the formulas and the simulation say of a workload, as rows of records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from profiler.errors import first_line
from profiler.formula.per_phase import phase_terms
from profiler.formula.terms import ModelFacts, Term
from profiler.formula.textbook import textbook_terms
from profiler.records.table import Row
from profiler.runs.execute import measure, phase_columns

if TYPE_CHECKING:
    from profiler.runs.run_settings import RunSettings
    from profiler.workload import Workload


def gpu_rows(workload: Workload, settings: RunSettings) -> list[Row]:
    """The rows of formula, textbook and simulation on the settings' simulated GPU."""
    from profiler.formula.facts import facts_on

    facts = facts_on(settings.gpu, workload)
    return [*formula_rows(workload, facts, "cuda"), *simulation_rows(workload, settings)]


def formula_rows(workload: Workload, facts: ModelFacts, device_type: str) -> Iterator[Row]:
    """What both formulas say of each phase, as the columns of records that they fill in."""
    sources = {
        "formula": phase_terms(workload, facts, device_type),
        "textbook": textbook_terms(workload, facts),
    }
    for source, predictions in sources.items():
        for index, prediction in enumerate(predictions):
            yield {
                **phase_columns(index, prediction.phase),
                "source": source,
                "outcome": "ok",
                "allocated_bytes": prediction.end_bytes,
                "peak_allocated_bytes": prediction.peak_bytes,
                **_by_category("", prediction.end),
                **_by_category("peak_", prediction.peak),
            }


def simulation_rows(workload: Workload, settings: RunSettings) -> list[Row]:
    """One row a phase, simulated in this process; where it cannot be, one row "skipped" with the reason."""
    try:
        rows = measure(workload, settings)
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        rows = [{"phase_index": 0, "outcome": "skipped", "detail": reason}]
    return [{**row, "source": "simulation"} for row in rows]


def _by_category(prefix: str, terms: Iterable[Term]) -> Row:
    row: Row = {}
    for term in terms:
        column = f"{prefix}{term.category}_bytes"
        row[column] = row.get(column, 0) + term.size_bytes
    return row
