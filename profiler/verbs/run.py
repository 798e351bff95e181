"""`profiler run`: measure what an experiment asks for, keep the records, draw the figures."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from profiler.device import CPU, SIMULATED, VIRTUAL, Device
from profiler.errors import ProfilerError, first_line
from profiler.files import (
    alone_with,
    check_writable,
    write_csv,
)
from profiler.gpu.cards import DEFAULT_GPU
from profiler.records import table as records
from profiler.records.comparison import compare, set_aside, side_by_side, silent_categories
from profiler.records.own_tables import ABOUT, read_tables, write_tables
from profiler.records.select import (
    how_known,
    last_of_each_run,
    last_of_each_workload,
    recorded_twice,
    without_end,
)
from profiler.runs.processes import threads_side_by_side
from profiler.runs.run_settings import RunSettings
from profiler.trace.phase import phases
from profiler.units import format_bytes, parse_bytes
from profiler.verbs.list import make_importable
from profiler.verbs.options import add_engine, add_virtual, again_virtually, device_from, refuse
from profiler.views import screen
from profiler.views.figures import style
from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from experiments.catalog import MakesTables, RunsWorkloads


SUMMARY = "run experiments, keep their records and draw their figures"
DESCRIPTION = "Run experiments. What has been recorded is not run again, so a stopped run continues."
EXAMPLES = "example: profiler run naive_step --size small"
_RECORDS = "records.parquet"
_OF_RUNS = ("device", "virtual", "size", "results", "gpu", "engine", "limit", "fresh", "repredict")
_NOT_DRAWN = "not all figures drawn: runs have no end"


def add_options(parser: ArgumentParser) -> None:
    """Which experiments, where, and what of them to do again."""
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="names from `profiler list`")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    add_virtual(parser)
    parser.add_argument("--size", choices=["small", "full"], help="default: full")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="default: results")
    parser.add_argument("--gpu", help=f"a GPU that is not there, beside the CPU; default: {DEFAULT_GPU}")
    add_engine(parser)
    parser.add_argument("--limit", metavar="SIZE", help="memory that a run may take, as in 2GiB")
    parser.add_argument("--fresh", action="store_true", help="run again what has been recorded")
    parser.add_argument(
        "--repredict",
        action="store_true",
        help="predict again what has been recorded, measure only what is new",
    )
    parser.add_argument(
        "--redraw",
        type=Path,
        metavar="FOLDER",
        help="run nothing: draw again what is recorded in a folder, as in results/cpu",
    )


@dataclass(frozen=True)
class _Experiment:
    """One experiment about to run: where its results go, and how to run it.

    `absent` is the GPU beside what is measured on the CPU; a GPU that is here is simulated by itself.
    """

    name: str
    folder: Path
    device: Device
    settings: RunSettings
    absent: Device | None
    size: str
    fresh: bool
    repredict: bool


def run(options: Namespace) -> int | None:
    """Run the named experiments, all of them if none is named.

    Results go to a folder of the device's name, those in small size to one beside it.

    Raises ProfilerError for an unknown experiment or device, a folder that cannot be written, records that
    cannot be read; what had finished by then is kept. At the end also if figures lack runs without an end.
    """
    if options.redraw:
        _redraw(options)
        return None
    if options.virtual:
        return again_virtually(options)
    from profiler.runs.provenance import check_device, default_device, device_class

    make_importable()
    from experiments import catalog

    asked = catalog.questions()
    for name in options.experiments:
        catalog.check_name(name)
    device = Device(options.device) if options.device else default_device()
    check_device(device)
    if device.kind != CPU:
        refuse(options, ["gpu", "engine"], "is of a GPU beside the CPU; on cuda it is the GPU that is here")
    absent = device_from(options) if device.kind == CPU else None
    settings = RunSettings(parse_bytes(options.limit) if options.limit else None)
    small = "-small" if options.size == "small" else ""
    results = (options.results or Path("results")) / f"{device_class(device)}{small}"
    check_writable(results)
    style.use_style()
    console = screen.console()
    undrawn, finished = [], []
    names = list(dict.fromkeys(options.experiments or asked))
    for number, name in enumerate(names, 1):
        began = time.monotonic()
        console.print(screen.styled(f"{number}/{len(names)} ", (name, "bold"), f"  {asked[name]}"))
        how = (options.size or "full", options.fresh, options.repredict)
        experiment = _Experiment(name, results / name, device, settings, absent, *how)
        with alone_with(experiment.folder / "run", partial(_say_waiting, console)):
            if name in catalog.WORKLOADS:
                asks = catalog.WORKLOADS[name]
                recorded = _measure(experiment, asks, console)
                levels = _levels(recorded)
                found = _draw_recorded(asks, recorded, experiment.folder, console)
                undrawn += [name] if found == _NOT_DRAWN else []
            else:
                makes, levels = catalog.TABLES[name], ""
                tables = _tabulate(experiment, makes, console)
                found = _draw(experiment.folder, makes.figures(tables), console)
        finished.append(_Finished(name, found, levels, time.monotonic() - began))
    _sum_up(finished, results, console)
    _complain(undrawn)
    return None


def _redraw(options: Namespace) -> None:
    """Draw what is recorded in a folder again, of each run its last record; comparison.csv with it.

    Raises ProfilerError for a folder without experiments of those names, or records that cannot be read.
    """
    make_importable()
    from experiments import catalog

    refuse(options, _OF_RUNS, "is for a run; --redraw runs nothing")
    for name in options.experiments:
        catalog.check_name(name)
    files = {**dict.fromkeys(catalog.WORKLOADS, _RECORDS), **dict.fromkeys(catalog.TABLES, ABOUT)}
    names = [
        n for n in options.experiments or catalog.questions() if (options.redraw / n / files[n]).exists()
    ]
    if not names:
        raise ProfilerError(f"nothing recorded in {options.redraw} to draw; as in --redraw results/cpu")
    style.use_style()
    console, undrawn = screen.console(), []
    for name in names:
        folder = options.redraw / name
        with alone_with(folder / "run", partial(_say_waiting, console)):
            if name in catalog.WORKLOADS:
                recorded = last_of_each_workload(last_of_each_run(records.read(folder / _RECORDS)))
                write_csv(folder / "comparison.csv", side_by_side(recorded))
                found = _draw_recorded(catalog.WORKLOADS[name], recorded, folder, console)
                undrawn += [name] if found == _NOT_DRAWN else []
            else:
                _draw(folder, catalog.TABLES[name].figures(read_tables(folder)[1]), console)
    _complain(undrawn)


def _complain(undrawn: Sequence[str]) -> None:
    if undrawn:
        raise ProfilerError(
            f"not all figures drawn of {', '.join(undrawn)}: runs have no end, see above; records are kept"
        )


@dataclass(frozen=True)
class _Finished:
    """What an experiment found, in a line; how many levels the formula has; how long it took here."""

    name: str
    found: str
    levels: str
    seconds: float


def _levels(recorded: pd.DataFrame) -> str:
    """How many levels at the end of a phase the formula has to the byte, by what it is held against.

    What it says nothing of is set aside, by name.
    """
    words = []
    for truth in ("measured", "simulation"):
        for known, compared in compare(recorded, truth=truth).groupby("truth_known", sort=False):
            left, named = set_aside(compared, silent_categories(recorded, "formula"))
            aside = f", {' and '.join(named)} aside" if named else ""
            words.append(f"{int((left == 0).sum())} of {len(compared)} {known}{aside}")
    return "; ".join(words)


def _sum_up(finished: Sequence[_Finished], results: Path, console: Console) -> None:
    """What each experiment found, and where the rest is."""
    table = screen.table(
        "experiment", "found", "levels that the formula has to the byte", screen.number("time")
    )
    for one in finished:
        table.add_row(one.name, one.found, one.levels, _duration(one.seconds))
    console.print()
    console.print(table)
    took = _duration(sum(one.seconds for one in finished))
    console.print(f"{took} in all. Tables and pictures: {results}; tables on screen: profiler show {results}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _measure(experiment: _Experiment, asks: RunsWorkloads, console: Console) -> pd.DataFrame:
    """Run what has no record yet; returns the records of all of the experiment's runs."""
    path = experiment.folder / _RECORDS
    runs = _runs(experiment, asks)
    done = set() if experiment.fresh else _done(last_of_each_run(records.read(path)))
    todo = [run for key, run in runs.items() if key not in done]
    if len(todo) < len(runs):
        console.print(f"  {len(runs) - len(todo)} of {len(runs)} runs recorded already")
    if experiment.repredict:
        todo += [replace(run, measure=False) for key, run in runs.items() if key in done]
    with _progress(console) as progress, threads_side_by_side() as threads:
        task = progress.add_task("", total=len(todo))

        def rows_of(run: _Run) -> list[records.Row]:
            return run.rows(lambda doing: progress.update(task, description=doing))

        for number, (run, rows) in enumerate(_in_turn(todo, rows_of, threads), 1):
            records.append(path, rows)
            progress.advance(task)
            if not console.is_terminal:
                console.print(f"  {number}/{len(todo)}  {run.name}: {_peaks(rows)}", soft_wrap=True)
                sys.stdout.flush()  # of a log that somebody follows
    recorded = records.read(path)
    recorded = recorded[recorded["run_key"].isin(runs)]
    twice = recorded_twice(recorded)
    recorded = last_of_each_run(recorded)
    for words in (*without_end(recorded), *twice):
        console.print(f"  {words}", style="yellow", soft_wrap=True)
    write_csv(experiment.folder / "comparison.csv", side_by_side(recorded))
    return recorded


def _in_turn(
    runs: Sequence[_Run], rows_of: Callable[[_Run], list[records.Row]], threads: Executor
) -> Iterator[tuple[_Run, list[records.Row]]]:
    """Those that are measured one after the other, since they are timed too; then all others side by side."""
    for run in runs:
        if run.device.is_here:
            yield run, rows_of(run)
    absent = [run for run in runs if not run.device.is_here]
    yield from zip(absent, threads.map(rows_of, absent), strict=True)


def _peaks(rows: Sequence[records.Row]) -> str:
    """The peak that each source says, in a line."""
    table = records.frame(rows)
    peaks = table.groupby(how_known(table))["peak_allocated_bytes"].max().dropna()
    said = {"measured": "measured", VIRTUAL: VIRTUAL, SIMULATED: SIMULATED, "formula": "by formula"}
    words = [f"{format_bytes(int(peaks[known]))} {word}" for known, word in said.items() if known in peaks]
    ends = {str(row["outcome"]).replace("_", " ") for row in rows} - {"ok"}
    return ", ".join((["peak " + ", ".join(words)] if words else []) + sorted(ends)) or "no rows"


def _done(recorded: pd.DataFrame) -> set[str]:
    """Runs that need not be run again: all but those that could not be simulated before."""
    return set(recorded["run_key"]) - set(recorded.loc[recorded["outcome"] == "skipped", "run_key"])


@dataclass(frozen=True)
class _Run:
    """One workload on a device: predicted and, if it is here, measured (unless it was)."""

    experiment: _Experiment
    workload: Workload
    device: Device
    measure: bool = True

    @property
    def name(self) -> str:
        seed = f", seed {self.workload.seed}" if self.workload.seed else ""
        return f"{self.workload}{seed}" + ("" if self.device.is_here else f" on {self.device}")

    def rows(self, on_doing: Callable[[str], None]) -> list[records.Row]:
        """Run it; calls `on_doing` with what is being done."""
        from profiler.runs.rows import experiment_rows

        on_doing(self.name)
        order = phases(self.workload)

        def on_phase(index: int) -> None:
            on_doing(f"{self.workload}: {order[index]}")

        how = (self.device, self.experiment.settings, on_phase, self.measure)
        return experiment_rows(self.experiment.name, self.workload, *how)


def _runs(experiment: _Experiment, asks: RunsWorkloads) -> dict[str, _Run]:
    """By run key: on a GPU each workload; on the CPU each, and each on a GPU that is not there."""
    from profiler.runs.provenance import device_class, provenance
    from profiler.runs.rows import run_key

    devices = [experiment.device]
    if experiment.absent is not None:
        devices.append(experiment.absent)
    runs = {}
    for device in devices:
        about = provenance(device)
        for workload in asks.workloads(experiment.size, device.kind if device.is_here else "absent"):
            # Where nothing is computed all seeds are alike.
            run = _Run(experiment, workload if device.is_here else replace(workload, seed=0), device)
            runs[run_key(run.workload, device_class(device), about)] = run
    return runs


def _progress(console: Console) -> Progress:
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", style="dim", markup=False),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _tabulate(experiment: _Experiment, makes: MakesTables, console: Console) -> dict[str, pd.DataFrame]:
    """The tables of an experiment that measures something else than memory, made or read back."""
    from profiler.runs.provenance import provenance

    folder = experiment.folder
    about = provenance(experiment.device) | {"size": experiment.size}
    if (folder / ABOUT).exists() and not experiment.fresh:
        try:
            old, tables = read_tables(folder)
            if all(about[name] == value for name, value in old.items()):
                console.print("  recorded already")
                return tables
        except ProfilerError as error:
            console.print(f"  run again: {first_line(error)}")
    with console.status("running") as status:

        def progress(step: str) -> None:
            status.update(screen.styled(step))
            if not console.is_terminal:
                console.print(f"  {step}")

        tables = makes.tables(experiment.size, experiment.device.kind, progress)
    write_tables(folder, about, tables)
    return tables


def _say_waiting(console: Console) -> None:
    console.print("  another process is at this experiment in this folder; waiting for it")


def _draw_recorded(asks: RunsWorkloads, recorded: pd.DataFrame, folder: Path, console: Console) -> str:
    try:
        return _draw(folder, asks.figures(recorded), console)
    except (LookupError, ValueError):
        if (recorded["outcome"] == "ok").all():
            raise
        return _NOT_DRAWN  # a figure lacks a run without an end; the other experiments do not


def _draw(folder: Path, figures: dict[str, Figure], console: Console) -> str:
    """Write the figures; returns what the first of them shows, which is its headline."""
    found = ""
    for name, figure in figures.items():
        found = found or style.finding(figure)
        path, _ = style.save(figure, folder, name)
        console.print(f"  {path}")
    return found
