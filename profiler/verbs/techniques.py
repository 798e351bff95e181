"""`profiler techniques`: what each memory technique would save, ranked."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from profiler.techniques import savings
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
    for column in ("technique", "saves", "peak then", "in", "acts on", "cost"):
        table.add_column(column, justify="right" if column in ("saves", "peak then") else "left")
    for saving in found:
        table.add_row(
            " + ".join(technique.name for technique in saving.techniques),
            f"{100 * saving.saved_bytes / total_bytes:.1f} %",
            format_bytes(saving.peak.peak_bytes),
            str(saving.peak.phase),
            ", ".join(dict.fromkeys(technique.acts_on for technique in saving.techniques)),
            ", ".join(dict.fromkeys(technique.cost for technique in saving.techniques)),
        )
    console.print(table)
