"""`profiler show`: predicted against measured, virtual or simulated, phase by phase, as tables."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from profiler.device import SIMULATED, VIRTUAL
from profiler.errors import ProfilerError
from profiler.records import table as records
from profiler.records.comparison import compare, peak_differences, set_aside, silent_categories
from profiler.records.select import last_of_each_run, last_of_each_workload, without_end
from profiler.trace.phase import Phase
from profiler.units import format_bytes
from profiler.views import screen

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "tables of what was measured, virtual or simulated, against what was predicted"
DESCRIPTION = (
    "Hold a prediction against what was measured, phase by phase, and the formulas against the GPU beside it "
    "too, virtual or simulated."
)
EXAMPLES = "example: profiler show results/cpu/naive_step"
_TABLES_SHOWN = 4  # without being asked for
_SAYS = {VIRTUAL: "the virtual GPU", SIMULATED: "the simulated GPU"}
_PARTS_NAMED = 2  # of a peak, in a table; comparison.csv has all


def add_options(parser: ArgumentParser) -> None:
    """Which records, and which prediction."""
    parser.add_argument(
        "results", type=Path, metavar="RESULTS", help="a records.parquet, or a folder of them"
    )
    parser.add_argument(
        "--source",
        choices=["formula", "textbook", "simulation"],
        default="formula",
        help="what predicted; default: formula",
    )
    parser.add_argument("--all", action="store_true", help="print the table of every run, not the sums alone")
    parser.add_argument("--workload", metavar="TEXT", help="only workloads whose words contain this")


def run(options: Namespace) -> None:
    """Print a line that sums each kind of comparison up, and then a table a workload and device.

    A formula is held against what was measured, and against the simulation. The simulation is held against
    what was measured, on the same GPU or, for runs measured on a CPU only, across both devices.

    Raises ProfilerError if there are no records, or none that match.
    """
    results, source, workload = options.results, options.source, options.workload
    rows, problems = records.read_below(results)
    found = last_of_each_workload(last_of_each_run(rows))
    chosen = found[found["workload"].str.contains(workload, regex=False)] if workload else found
    both = [compare(chosen, source)]
    if source == "simulation":
        both.append(compare(chosen, source, across_devices=True))
    else:
        both.append(compare(chosen, source, truth="simulation"))
    known = ["truth_known", "predicted_known"]
    comparisons = [rows for one in both for _, rows in one.groupby(known, sort=False)]
    if not comparisons:
        words = f" of a workload with {workload!r}" if workload else ""
        raise ProfilerError(f"no phase in {results}{words} is both measured and predicted by {source!r}")
    console = screen.console()
    for compared in comparisons:
        _sum_up(compared, silent_categories(chosen, source), console)
    for words in (*without_end(chosen), *problems):
        console.print(words, style="yellow", soft_wrap=True)
    tables = sum(compared.groupby(["workload", "device"]).ngroups for compared in comparisons)
    if not options.all and not workload and tables > _TABLES_SHOWN:
        console.print(f"{tables} tables, phase by phase: --all, or --workload TEXT for some", style="dim")
        return
    for compared in comparisons:
        for _, phases in compared.groupby(["workload", "device", "predicted_device"], sort=False):
            one = phases[phases["seed"] == phases["seed"].min()]
            console.print(_table(one))


def _table(phases: pd.DataFrame) -> Table:
    first = phases.iloc[0]
    truth, source, device = first["truth_known"], first["predicted_known"], first["predicted_device"]
    other = f", {source} on {device}" if device != first["device"] else ""
    title = f"{first['workload']}, {truth} on {first['device']}{other}"
    names = (f"allocated, {truth}", source, "difference", f"peak, {truth}", source)
    numbers = (screen.number(name) for name in names)
    table = screen.table("phase", *numbers, "the peak's difference lies in", title=title)
    for row, parts in zip(phases.itertuples(), peak_differences(phases), strict=True):
        table.add_row(
            str(Phase(row.step, row.phase, row.micro_batch)),
            format_bytes(row.truth_bytes),
            format_bytes(row.predicted_bytes),
            f"{row.difference_bytes:+,} B" if row.difference_bytes else screen.styled(("0", "green")),
            format_bytes(row.truth_peak_bytes),
            format_bytes(row.predicted_peak_bytes),
            ", ".join(_signed(*part) for part in parts[:_PARTS_NAMED]),
        )
    return table


def _signed(category: str, size_bytes: int) -> str:
    sign = "+" if size_bytes > 0 else "−"
    return f"{sign}{format_bytes(abs(size_bytes))} {category.replace('_', ' ')}"


def _sum_up(compared: pd.DataFrame, silent: list[str], console: Console) -> None:
    truth, source = compared["truth_known"].iloc[0], compared["predicted_known"].iloc[0]
    exact = int((compared["difference_bytes"] == 0).sum())
    across = compared["device"].ne(compared["predicted_device"]).any()
    where, says = " on another device" if across else "", _SAYS.get(source, source)
    words = f"{exact} of {len(compared)} {truth} phase levels are what {says}{where} says to the byte"
    left, named = set_aside(compared, silent)
    aside = int((left == 0).sum())
    if aside > exact:
        words += (
            f"; setting aside {' and '.join(named)}, of which it says nothing, {aside} of {len(compared)}"
        )
    worst = compared["difference_percent"].abs().max()
    console.print(f"{words}. The largest difference is {worst:.3f} %.")
