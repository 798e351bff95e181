"""`profiler compare-reference`: formula and simulation, computed now, against a recording of the suite."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from profiler.device import CPU, Device
from profiler.errors import ProfilerError
from profiler.files import write_atomically, write_table
from profiler.reference import accuracy, bounds
from profiler.reference.accuracy_page import Result, accuracy_page, put_into
from profiler.reference.archive import Archive, gpu_recordings, read_recording
from profiler.reference.unmatched import compare_probes, residual
from profiler.trace.load import read_run
from profiler.trace.phase import Phase
from profiler.units import format_bytes
from profiler.verbs.options import refuse
from profiler.views import screen

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = "formula and simulation, computed now, against a recorded reference"
DESCRIPTION = "Predict every run of a recording of the reference suite and show the errors."
EXAMPLES = "example: profiler compare-reference results/nvidia-h100-80gb-hbm3"
_SOURCES = ("textbook", "formula", "simulation")
_CAUSES_SHOWN = 12


def add_options(parser: ArgumentParser) -> None:
    """Which recording, and what to make of the errors."""
    parser.add_argument(
        "results", type=Path, metavar="RESULTS_FOLDER", help="of one device; with --page, of all"
    )
    parser.add_argument("--workload", metavar="TEXT", help="only runs whose words contain this, by phase")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="write the errors and their figures there"
    )
    parser.add_argument(
        "--tighten", type=Path, metavar="FILE", help="lower the tests' bounds to what is observed"
    )
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the page on accuracy, over all recordings"
    )


def run(options: Namespace) -> None:
    """Compare one recording, or write the page on all recordings below a results folder.

    Raises ProfilerError if there is no recording, or none of the workload.
    """
    if options.page is not None:
        refuse(options, ("workload", "output", "tighten"), "is for one recording; --page is over all")
    if options.workload is not None:
        refuse(options, ("output", "tighten"), "is for all runs of a recording; leave --workload out")
    console = screen.console()
    if options.page is not None:
        results = [_result(read_recording(folder), console) for folder in gpu_recordings(options.results)]
        page = options.page.read_text() if options.page.exists() else ""
        text = put_into(page, accuracy_page(results))
        write_atomically(options.page, lambda temporary: temporary.write_text(text))
        console.print(f"{options.page}: recordings on GPUs: {len(results)}")
        return
    recording = read_recording(options.results)
    keys = [key for key, case in recording.cases.items() if (options.workload or "") in str(case)]
    if not keys:
        raise ProfilerError(f"no run in {recording.folder} has {options.workload!r} in its words")
    if recording.about["device"].startswith("simulated"):
        console.print("a rehearsal: what is called measured here was simulated too", style="yellow")
    if recording.about["device"].startswith("virtual-"):
        console.print("what is called measured here ran on a virtual GPU", style="yellow")
    _print_versions(recording, console)
    with tempfile.TemporaryDirectory() as traces:
        predicted = _predicted(recording, keys, Path(traces), console)
        differences = accuracy.differences(recording.records, predicted)
        if differences.empty:
            raise ProfilerError(f"nothing in {recording.folder} was both measured and predicted")
        if options.workload:
            _print_phases(differences, console)
        else:
            _print_runs(differences, console)
        _print_spreads(differences, console)
        _print_failures(recording, predicted, keys, console)
        _print_residuals(recording, keys, Path(traces), console)
    if not options.workload:
        _print_probes(recording, console)
        _keep(recording, differences, options, console)


def _predicted(recording: Archive, keys: list[str], traces: Path, console: Console) -> pd.DataFrame:
    from profiler.reference.predictions import predict

    with console.status("simulating") as status:
        done: list[str] = []

        def tell(key: str) -> None:
            done.append(key)
            words = f"simulated {len(done)} of {len(keys)}: {recording.cases[key]}"
            status.update(screen.styled(words))

        return predict(recording, keys, traces, tell)


def _result(recording: Archive, console: Console) -> Result:
    with tempfile.TemporaryDirectory() as traces:
        predicted = _predicted(recording, list(recording.cases), Path(traces), console)
    return Result(recording.about, accuracy.differences(recording.records, predicted))


def _print_versions(recording: Archive, console: Console) -> None:
    """Other versions may run other operations; the kernels' rules are those of the installed torch."""
    from profiler.runs.provenance import provenance

    here = provenance(Device(CPU))
    for library in ("torch", "transformers"):
        recorded, installed = (
            str(about[f"{library}_version"]).split("+")[0] for about in (recording.about, here)
        )
        if recorded != installed:
            words = f"recorded with {library} {recorded}, predicted with {installed}"
            console.print(words, style="yellow")


def _sources(differences: pd.DataFrame) -> list[str]:
    return [source for source in _SOURCES if source in set(differences["source"])]


def _print_runs(differences: pd.DataFrame, console: Console) -> None:
    """One line a run: the peaks of the whole run."""
    for quantity in accuracy.RUN_QUANTITIES:
        chosen = differences[differences["quantity"] == quantity]
        if not chosen.empty:
            _print_table(quantity, chosen, "workload", chosen["workload"], console)


def _print_phases(differences: pd.DataFrame, console: Console) -> None:
    """One line a phase, a table a run and quantity."""
    phases = differences[differences["phase"] != "run"]
    for (workload, quantity), chosen in phases.groupby(["workload", "quantity"], sort=False):
        names = chosen.apply(lambda r: str(Phase(r["step"], r["phase"], r["micro_batch"])), axis=1)
        _print_table(f"{workload}: {quantity}", chosen, "phase", names, console)


def _print_table(title: str, chosen: pd.DataFrame, first: str, names: pd.Series, console: Console) -> None:
    sources = _sources(chosen)
    numbers = ["measured", *(name for source in sources for name in (source, "error"))]
    table = screen.table(first, *(screen.number(name) for name in numbers), title=title)
    for _, rows in chosen.assign(name=names).groupby(["run_key", "phase_index"], sort=False):
        by_source = rows.set_index("source")
        cells: list[str | Text] = [
            str(rows["name"].iloc[0]),
            format_bytes(int(rows["truth_bytes"].iloc[0])),
        ]
        for source in sources:
            if source in by_source.index:
                row: Any = by_source.loc[source]
                cells += [format_bytes(int(row["predicted_bytes"])), _percent(row)]
            else:
                cells += ["", ""]
        table.add_row(*cells)
    console.print(table)


def _percent(row: Any) -> str | Text:
    exact = row["difference_bytes"] == 0
    return screen.styled(("0", "green")) if exact else f"{row['difference_percent']:+.3f} %"


def _print_spreads(differences: pd.DataFrame, console: Console) -> None:
    """Min, median and max, over everything and along each axis; both directions apart."""
    _print_spread("all phases and runs", accuracy.spread(differences, ["source", "quantity"]), console)
    for axis in accuracy.AXES:
        runs = differences[
            differences["quantity"].isin(accuracy.RUN_QUANTITIES) & (differences["source"] != "textbook")
        ]
        if runs[axis].nunique() > 1:
            by = ["quantity", "source", axis]
            table = accuracy.spread(runs, by).sort_values(by)
            _print_spread(f"peaks of runs by {axis}", table, console)


def _print_spread(title: str, table: pd.DataFrame, console: Console) -> None:
    keys = [column for column in table.columns if column in ("source", "quantity", *accuracy.AXES)]
    names = (
        "runs or phases",
        "exact",
        "min %",
        "median %",
        "max %",
        "over",
        "worst %",
        "under",
        "worst %",
    )
    shown = screen.table(*keys, *(screen.number(name) for name in names), title=title)
    for row in table.to_dict("records"):
        shown.add_row(
            *(str(row[key]) for key in keys),
            str(row["count"]),
            str(row["exact"]),
            *(f"{row[name]:+.3f}" for name in ("min", "median", "max")),
            str(row["over"]),
            f"{row['worst_over']:+.3f}",
            str(row["under"]),
            f"{row['worst_under']:+.3f}",
        )
    console.print(shown)


def _print_failures(recording: Archive, predicted: pd.DataFrame, keys: list[str], console: Console) -> None:
    """Runs without an end: what was recorded, and what the simulation says of the same run."""
    found = recording.records[recording.records["run_key"].isin(keys)]
    simulated = predicted[predicted["source"] == "simulation"]
    failed = _failed(found, simulated)
    for key in dict.fromkeys(failed["run_key"]):
        words = [
            f"{name}: {_ending(rows[rows['run_key'] == key])}"
            for name, rows in (("measured", found), ("simulation", simulated))
            if key in set(rows["run_key"])
        ]
        ended = f"  {'; '.join(words)}"
        console.print(screen.styled((str(recording.cases[key]), "yellow"), ended), soft_wrap=True)


def _failed(*tables: pd.DataFrame) -> pd.DataFrame:
    """The rows of all tables whose outcome is not ok."""
    import pandas as pd

    return pd.concat([table[table["outcome"] != "ok"] for table in tables])


def _ending(rows: pd.DataFrame) -> str:
    last = rows.iloc[-1]
    if last["outcome"] == "ok":
        return "came to its end"
    if last["outcome"] == "out_of_memory":
        return f"out of memory in {Phase(last['step'], last['phase'], last['micro_batch'])}"
    return f"skipped ({last['detail']})"


def _print_residuals(recording: Archive, keys: list[str], traces: Path, console: Console) -> None:
    """What only one side allocated, over all runs with two traces, and how much of it has no name."""
    causes: Counter[tuple[str, str]] = Counter()
    aligned = total = unnamed = unnamed_bytes = runs = 0
    for key in keys:
        measured, path = recording.trace(key), traces / f"{key}.parquet"
        if measured is None or not path.exists():
            continue
        found = residual(measured, read_run(path).entries)
        runs += 1
        aligned, total = aligned + found.explanation.aligned, total + found.explanation.first_total
        unnamed, unnamed_bytes = unnamed + found.unnamed, unnamed_bytes + found.unnamed_bytes
        for side, groups in (
            ("only measured", found.explanation.only_first),
            ("only simulated", found.explanation.only_second),
        ):
            for group in groups:
                causes[side, group.cause or "no name"] += group.total_bytes
    if not runs:
        return
    console.print(
        f"traces of {runs} runs: {aligned:,} of {total:,} measured allocations have a simulated counterpart; "
        f"{unnamed:,} without one have no name ({format_bytes(unnamed_bytes)} in all)"
    )
    for (side, cause), size_bytes in causes.most_common(_CAUSES_SHOWN):
        console.print(f"  {side:15} {format_bytes(size_bytes):>12}  {cause}")


def _print_probes(recording: Archive, console: Console) -> None:
    from profiler.reference.predictions import predict_probes

    measured = recording.probes()
    if measured.empty or recording.gpu is None:
        return
    compared = compare_probes(measured, predict_probes(recording))
    console.print(
        f"kernel probes: {compared['exact'].sum()} of {len(compared)} as the rules say, to the byte"
    )
    for row in compared[~compared["exact"]].itertuples():
        words = f"{row.operation} {row.shape} {row.dtype} {row.option}".strip()
        console.print(f"  {words}: measured {list(row.measured)}, rules {list(row.predicted)}")


def _keep(recording: Archive, differences: pd.DataFrame, options: Namespace, console: Console) -> None:
    from profiler.views.figures import accuracy as plots
    from profiler.views.figures import style

    if options.output is not None:
        style.use_style()
        write_table(options.output / "differences.parquet", differences)
        figures = {
            "measured_vs_predicted": plots.peaks_of_runs(differences, recording.about["device_name"]),
            **{
                f"errors_{s}": plots.differences_by_axis(differences, s)
                for s in _sources(differences)
                if s != "textbook"
            },
        }
        for name, figure in figures.items():
            console.print(str(style.save(figure, options.output, name)[0]))
    if options.tighten is not None:
        observed = bounds.observed_bounds(differences[differences["source"] == "simulation"])
        old = bounds.read_bounds(options.tighten)
        bounds.write_bounds(options.tighten, bounds.tightened(old, observed))
        console.print(f"{options.tighten}: bounds never looser than before")
