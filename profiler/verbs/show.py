"""`profiler show`: predicted against measured or simulated, phase by phase, as tables."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from profiler.errors import ProfilerError
from profiler.records import table as records
from profiler.records.comparison import compare, peak_differences, set_aside, silent_categories
from profiler.records.select import last_of_each_run, last_of_each_workload, without_end
from profiler.trace.phase import Phase
from profiler.units import format_bytes
from profiler.views import screen

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "tables of what was measured, or simulated, against what was predicted"
DESCRIPTION = (
    "Hold a prediction against what was measured, phase by phase, and the formulas against the simulation "
    "too."
)
EXAMPLES = "example: profiler show results/cpu/naive_step"
_SAID = {"measured": "measured", "simulation": "simulated"}
_TABLES_SHOWN = 4  # without being asked for
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
    comparisons = [("measured", compare(chosen, source))]
    if source == "simulation":
        comparisons.append(("measured", compare(chosen, source, across_devices=True)))
    else:
        comparisons.append(("simulation", compare(chosen, source, truth="simulation")))
    comparisons = [(truth, compared) for truth, compared in comparisons if not compared.empty]
    if not comparisons:
        words = f" of a workload with {workload!r}" if workload else ""
        raise ProfilerError(f"no phase in {results}{words} is both measured and predicted by {source!r}")
    console = screen.console()
    for truth, compared in comparisons:
        _sum_up(compared, _SAID[truth], source, silent_categories(chosen, source), console)
    for words in (*without_end(chosen), *problems):
        console.print(words, style="yellow", soft_wrap=True)
    tables = sum(compared.groupby(["workload", "device"]).ngroups for _, compared in comparisons)
    if not options.all and not workload and tables > _TABLES_SHOWN:
        console.print(f"{tables} tables, phase by phase: --all, or --workload TEXT for some", style="dim")
        return
    for truth, compared in comparisons:
        for keys, phases in compared.groupby(["workload", "device", "predicted_device"], sort=False):
            one = phases[phases["seed"] == phases["seed"].min()]
            console.print(_table(_title(truth, source, *keys), _SAID[truth], source, one))


def _title(truth: str, source: str, workload: str, device: str, predicted_device: str) -> str:
    other = f", {source} on {predicted_device}" if predicted_device != device else ""
    return f"{workload}, {_SAID[truth]} on {device}{other}"


def _table(title: str, truth: str, source: str, phases: pd.DataFrame) -> Table:
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


def _sum_up(compared: pd.DataFrame, truth: str, source: str, silent: list[str], console: Console) -> None:
    exact = int((compared["difference_bytes"] == 0).sum())
    across = compared["device"].ne(compared["predicted_device"]).any()
    where = " on another device" if across else ""
    words = f"{exact} of {len(compared)} {truth} phase levels are what {source}{where} says to the byte"
    left, named = set_aside(compared, silent)
    aside = int((left == 0).sum())
    if aside > exact:
        words += (
            f"; setting aside {' and '.join(named)}, of which it says nothing, {aside} of {len(compared)}"
        )
    worst = compared["difference_percent"].abs().max()
    console.print(f"{words}. The largest difference is {worst:.3f} %.")
