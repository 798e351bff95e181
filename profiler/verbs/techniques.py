"""`profiler techniques`: what each memory technique would save, ranked."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from profiler.formula import Prediction
from profiler.ledger import CATEGORIES
from profiler.savings import savings
from profiler.units import format_bytes
from profiler.workload import Workload


def techniques(workload: Workload, device_type: str) -> None:
    """Print the predicted peak and a table of what techniques and pairs of them save.

    Raises ProfilerError for a model that there is not, or a length that it needs.
    """
    before, found = savings(workload, device_type)
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    total_bytes = before.peak_bytes
    console.print(f"{workload} on {device_type}: {format_bytes(total_bytes)} in {before.phase}")
    table = Table(title="predicted by formula; without an allocator's rounding", title_justify="left")
    for column in ("technique", "saves", "peak then", "in", "mostly", "cost"):
        table.add_column(column, justify="right" if column in ("saves", "peak then") else "left")
    for saving in found:
        table.add_row(
            " + ".join(technique.name for technique in saving.techniques),
            f"{100 * saving.saved_bytes / total_bytes:.1f} %",
            format_bytes(saving.peak.peak_bytes),
            str(saving.peak.phase),
            _largest_change(before, saving.peak),
            ", ".join(dict.fromkeys(technique.cost for technique in saving.techniques)),
        )
    console.print(table)


def _largest_change(before: Prediction, after: Prediction) -> str:
    """The category that shrinks most between two peaks."""
    shrunk = {name: _category_bytes(before, name) - _category_bytes(after, name) for name in CATEGORIES}
    largest = max(shrunk, key=lambda name: shrunk[name])
    return largest.replace("_", " ") if shrunk[largest] > 0 else ""


def _category_bytes(prediction: Prediction, category: str) -> int:
    return sum(term.size_bytes for term in prediction.peak if term.category == category)
