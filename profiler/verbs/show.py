"""`profiler show`: measured against predicted, phase by phase, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from profiler import records
from profiler.compare import compare, latest
from profiler.errors import ProfilerError
from profiler.training_step import Phase
from profiler.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd

_EXACT_BELOW = 1  # bytes


def show(results: Path, source: str, workload: str | None) -> None:
    """Print one table a workload, and a line that sums them up.

    Raises ProfilerError if there are no records, or none that match.
    """
    found = latest(_read_all(results))
    compared = compare(found, source)
    if workload:
        compared = compared[compared["workload"].str.contains(workload, regex=False)]
    if compared.empty:
        raise ProfilerError(f"no phase in {results} is both measured and predicted by {source!r}")
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)  # a file or a pipe has no width to keep to
    for (name, device), phases in compared.groupby(["workload", "device"], sort=False):
        console.print(_table(f"{name} on {device}", source, phases[phases["seed"] == phases["seed"].min()]))
    _sum_up(compared, source, console)
    failed = found[found["outcome"] == "out_of_memory"]
    for row in failed.itertuples():
        console.print(f"[yellow]out of memory[/yellow] {row.workload}: step {row.step} {row.phase}")


def _read_all(path: Path) -> pd.DataFrame:
    import pandas as pd

    if not path.exists():
        raise ProfilerError(f"{path} does not exist; `profiler run` makes records")
    files = sorted(path.rglob("records.parquet")) if path.is_dir() else [path]
    if not files:
        raise ProfilerError(f"no records.parquet in {path}; `profiler run` makes records")
    return pd.concat([records.read(file) for file in files], ignore_index=True)


def _table(title: str, source: str, phases: pd.DataFrame) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("phase", no_wrap=True)
    for column in ("allocated", source, "difference", "% of peak", "peak allocated", source):
        table.add_column(column, justify="right", no_wrap=True)
    for row in phases.itertuples():
        exact = abs(row.difference_bytes) < _EXACT_BELOW
        table.add_row(
            str(Phase(row.step, row.phase, row.micro_batch)),
            format_bytes(row.measured_bytes),
            format_bytes(row.predicted_bytes),
            "[green]0[/green]" if exact else f"{row.difference_bytes:+,} B",
            "" if exact else f"{row.difference_percent:+.3f}",
            format_bytes(row.measured_peak_bytes),
            format_bytes(row.predicted_peak_bytes),
        )
    return table


def _sum_up(compared: pd.DataFrame, source: str, console: Console) -> None:
    exact = int((compared["difference_bytes"] == 0).sum())
    worst = compared["difference_percent"].abs().max()
    console.print(
        f"{exact} of {len(compared)} phase levels are what {source} says to the byte; "
        f"the largest difference is {worst:.3f} % of its run's peak."
    )
