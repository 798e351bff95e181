"""`profiler run`: measure what an experiment asks for, keep the records, draw the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from profiler import catalog, records
from profiler.provenance import check_device, default_device, device_class, provenance
from profiler.runner import RunSettings, run_key
from profiler.runner import run as run_workload
from profiler.training_step import phases
from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunOptions:
    """What the command line may say: see `profiler run --help`."""

    device_type: str | None
    size: str
    results: Path
    limit_bytes: int | None = None
    fresh: bool = False


@dataclass(frozen=True)
class _Experiment:
    """One experiment about to run: its module, where its results go, and how to run it."""

    name: str
    module: ModuleType
    folder: Path
    settings: RunSettings
    size: str
    fresh: bool


def run(names: Sequence[str], options: RunOptions) -> None:
    """Run the named experiments, all of them if none is named.

    Results go to a folder of the device's name, those in small size to one beside it.

    Raises ProfilerError for an unknown experiment or device, a folder that cannot be written, records that
    cannot be read; what had finished by then is kept.
    """
    modules = {name: catalog.load(name) for name in names or catalog.questions()}
    device_type = options.device_type or default_device()
    check_device(device_type)
    settings = RunSettings(device_type, options.limit_bytes)
    small = "-small" if options.size == "small" else ""
    results = options.results / f"{device_class(device_type)}{small}"
    records.check_writable(results)
    console = Console()
    for name, module in modules.items():
        console.print(f"[bold]{name}[/bold]  {module.QUESTION}")
        experiment = _Experiment(name, module, results / name, settings, options.size, options.fresh)
        if hasattr(module, "workloads"):
            _draw(experiment, _measure(experiment, console), console)
        else:
            _draw(experiment, _tabulate(experiment, console), console)


def _measure(experiment: _Experiment, console: Console) -> pd.DataFrame:
    """Run the workloads that have no record yet; returns the records of all of them."""
    path = experiment.folder / "records.parquet"
    device_type = experiment.settings.device_type
    device, about = device_class(device_type), provenance(device_type)
    chosen = catalog.workloads(experiment.module, experiment.size, device_type)
    workloads = {run_key(w, device, about): w for w in chosen}
    done = set() if experiment.fresh else set(records.read(path)["run_key"])
    todo = [workload for key, workload in workloads.items() if key not in done]
    if len(todo) < len(workloads):
        console.print(f"  {len(workloads) - len(todo)} of {len(workloads)} runs recorded already")
    with _progress(console) as progress:
        task = progress.add_task("", total=len(todo))
        for workload in todo:
            order = phases(workload)

            def on_phase(index: int, workload: Workload = workload, order: list = order) -> None:
                progress.update(task, description=f"{workload}: {order[index]}")

            rows = run_workload(experiment.name, workload, experiment.settings, on_phase)
            records.append(path, rows)
            progress.advance(task)
            if not console.is_terminal:
                console.print(f"  {workload}")
            _report_failure(rows, console)
    recorded = records.read(path)
    return recorded[recorded["run_key"].isin(workloads)]


def _progress(console: Console) -> Progress:
    columns = (
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", style="dim"),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _report_failure(rows: list[records.Row], console: Console) -> None:
    for row in rows:
        if row["outcome"] == "out_of_memory":
            where = f"step {row['step']} {row['phase']}"
            console.print(f"  [yellow]out of memory[/yellow] {row['workload']}: {where}")


def _tabulate(experiment: _Experiment, console: Console) -> dict[str, pd.DataFrame]:
    """The tables of an experiment that measures something else than memory, made or read back."""
    import pandas as pd

    folder, device_type = experiment.folder, experiment.settings.device_type
    about = provenance(device_type) | {"size": experiment.size}
    path = folder / "about.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    same = all(old.get(name) == about[name] for name in ("size", "torch_version", "device_name"))
    if same and not experiment.fresh:
        console.print("  recorded already")
        return {name: pd.read_parquet(folder / f"{name}.parquet") for name in old["tables"]}
    with console.status("running") as status:

        def progress(step: str) -> None:
            status.update(step)
            if not console.is_terminal:
                console.print(f"  {step}")

        tables: dict[str, pd.DataFrame] = experiment.module.tables(experiment.size, device_type, progress)
    for name, table in tables.items():
        records.write_table(folder / f"{name}.parquet", table)
    text = json.dumps(about | {"tables": list(tables)}, indent=2)
    records.write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))
    return tables


def _draw(experiment: _Experiment, data: object, console: Console) -> None:
    from profiler.plots import style

    style.use_style()
    for name, figure in experiment.module.figures(data).items():
        path, _ = style.save(figure, experiment.folder, name)
        console.print(f"  {path}")
