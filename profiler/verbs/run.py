"""`profiler run`: measure what an experiment asks for, keep the records, draw the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from profiler.units import parse_bytes
from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd


def run(
    names: Sequence[str],
    device_type: str | None,
    size: str,
    results: str,
    limit: str | None,
    fresh: bool,
) -> None:
    """Run the named experiments, all of them if none is named.

    Raises ProfilerError for an unknown experiment or device, a folder that cannot be written, records that
    cannot be read; what had finished by then is kept.
    """
    modules = {name: catalog.load(name) for name in names or catalog.questions()}
    device_type = device_type or default_device()
    check_device(device_type)
    settings = RunSettings(device_type, parse_bytes(limit) if limit else None)
    console = Console()
    for name, module in modules.items():
        folder = Path(results) / device_class(device_type) / name
        console.print(f"[bold]{name}[/bold]  {module.QUESTION}")
        if hasattr(module, "workloads"):
            data = _measure(module, name, folder, settings, size, fresh, console)
        else:
            data = _tabulate(module, folder, settings, size, fresh, console)
        _draw(module, data, folder, console)


def _measure(
    module: ModuleType,
    name: str,
    folder: Path,
    settings: RunSettings,
    size: str,
    fresh: bool,
    console: Console,
) -> pd.DataFrame:
    """Run the workloads that have no record yet; returns the records of all of them."""
    path = folder / "records.parquet"
    workloads: list[Workload] = module.workloads(size)
    about = provenance(settings.device_type)
    device = device_class(settings.device_type)
    keys = {run_key(workload, device, str(about["torch_version"])): workload for workload in workloads}
    done = set() if fresh else set(records.read(path)["run_key"])
    todo = {key: workload for key, workload in keys.items() if key not in done}
    if len(todo) < len(keys):
        console.print(f"  {len(keys) - len(todo)} of {len(keys)} runs are recorded already (--fresh repeats)")
    columns = (
        TextColumn("  {task.description}", style="dim"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        runs = progress.add_task("runs", total=len(todo))
        for workload in todo.values():
            order = phases(workload)

            def on_phase(index: int, workload: Workload = workload, order: list = order) -> None:
                progress.update(runs, description=f"{workload}: {order[index]}")

            rows = run_workload(name, workload, settings, on_phase)
            records.append(path, rows)
            progress.advance(runs)
            _report_failure(rows, console)
    recorded = records.read(path)
    return recorded[recorded["run_key"].isin(keys)]


def _report_failure(rows: list[records.Row], console: Console) -> None:
    for row in rows:
        if row["outcome"] == "out_of_memory":
            console.print(f"  [yellow]out of memory[/yellow] {row['workload']}: step {row['step']} {row['phase']}")


def _tabulate(
    module: ModuleType, folder: Path, settings: RunSettings, size: str, fresh: bool, console: Console
) -> dict[str, pd.DataFrame]:
    """The tables of an experiment that measures something else than memory, made or read back."""
    import pandas as pd

    about = provenance(settings.device_type) | {"size": size}
    path = folder / "about.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    if not fresh and all(old.get(name) == about[name] for name in ("size", "torch_version", "device_name")):
        console.print("  recorded already (--fresh repeats)")
        return {name: pd.read_parquet(folder / f"{name}.parquet") for name in old["tables"]}
    with console.status("  running"):
        tables: dict[str, pd.DataFrame] = module.tables(size, settings.device_type)
    for name, table in tables.items():
        records.write_table(folder / f"{name}.parquet", table)
    text = json.dumps(about | {"tables": list(tables)}, indent=2)
    records.write_atomically(path, lambda temporary: temporary.write_text(text + "\n"))
    return tables


def _draw(module: ModuleType, data: object, folder: Path, console: Console) -> None:
    from profiler.plots import style

    style.use_style()
    for name, figure in module.figures(data).items():
        path, _ = style.save(figure, folder, name)
        console.print(f"  {path}")
