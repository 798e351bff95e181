"""`profiler techniques`: what each memory technique and each pair would save, ranked."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from profiler.advice.savings import Saving, savings
from profiler.errors import ProfilerError
from profiler.formula.terms import PhaseTerms
from profiler.gpu.cards import GPU, find_gpu
from profiler.runs.isolated import SimulatedRun, simulate
from profiler.runs.simulation_worker import prepared
from profiler.trace.ledger import CATEGORIES
from profiler.training.own_models import Target
from profiler.units import format_bytes
from profiler.verbs.predict import allocator_settings
from profiler.workload import Workload


@dataclass(frozen=True)
class TechniquesOptions:
    """What the command line may say; `pairs` is how many of the best pairs are simulated and shown."""

    workload: Workload
    gpu: str
    allocator_settings: str
    pairs: int


def techniques(options: TechniquesOptions) -> None:
    """Print the predicted peak, and tables of what techniques and pairs of them save.

    The formula ranks all of them; the simulation then gives exact peaks.

    Raises ProfilerError for a model that there is not, a length that it needs, or an unknown GPU.
    """
    gpu = find_gpu(options.gpu)
    allocator_settings(options.allocator_settings)  # wrong ones are said here, and a sequence too long
    prepared(Target(options.workload.model), options.workload)
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        counting = progress.add_task("counting", total=None)
        before, found = savings(
            options.workload,
            gpu,
            lambda counted, total: progress.update(counting, completed=counted, total=total),
        )
        singles = [saving for saving in found if len(saving.techniques) == 1]
        pairs = [saving for saving in found if len(saving.techniques) == 2][: options.pairs]
        workloads = [options.workload, *(saving.workload for saving in singles + pairs)]
        simulating = progress.add_task("simulating", total=len(workloads))

        def simulated(workload: Workload) -> SimulatedRun | str:
            run = _simulated(workload, gpu, options.allocator_settings)
            progress.advance(simulating)
            return run

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            first, *runs = threads.map(simulated, workloads)
    console.print(f"[bold]{options.workload}[/bold] on {gpu.name}")
    console.print(f"  by formula {format_bytes(before.peak_bytes)} allocated at the peak, in {before.phase}")
    if isinstance(first, SimulatedRun):
        console.print(
            f"  simulated {format_bytes(first.peak.peak_allocated_bytes)} allocated at the peak, in "
            f"{first.peak.name}; {format_bytes(first.peak_reserved_bytes)} reserved"
        )
    console.print()
    console.print(
        _table("One technique", True, before, first, zip(singles, runs[: len(singles)], strict=True))
    )
    if pairs:
        console.print()
        title = f"Two at once, the best {len(pairs)}"
        console.print(_table(title, False, before, first, zip(pairs, runs[len(singles) :], strict=True)))
    for workload, run in zip(workloads, [first, *runs], strict=True):
        if isinstance(run, str):
            console.print(f"not simulated: {workload}: {run}", style="dim")


def _simulated(workload: Workload, gpu: GPU, settings: str) -> SimulatedRun | str:
    """The run, or the reason why it cannot be simulated."""
    try:
        return simulate(Target(workload.model), workload, gpu, allocator_settings=settings)
    except ProfilerError as error:
        return str(error)


def _table(
    title: str,
    with_cost: bool,
    before: PhaseTerms,
    first: SimulatedRun | str,
    rows: Iterable[tuple[Saving, SimulatedRun | str]],
) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in ("by formula", "simulated", "peak then"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("in", "mostly", "technique", *(["cost"] if with_cost else [])):
        table.add_column(column)
    for saving, run in rows:
        cells = [_percent(saving.saved_bytes, before.peak_bytes), "", format_bytes(saving.peak.peak_bytes)]
        phase = str(saving.peak.phase)
        if isinstance(first, SimulatedRun) and isinstance(run, SimulatedRun):
            then, now = run.peak.peak_allocated_bytes, first.peak.peak_allocated_bytes
            cells[1:] = [_percent(now - then, now), format_bytes(then)]
            phase = run.peak.name
        names = " + ".join(technique.name for technique in saving.techniques)
        costs = [saving.techniques[0].cost] if with_cost else []
        table.add_row(*cells, phase, _largest_change(before, saving.peak), names, *costs)
    return table


def _percent(saved_bytes: int, of_bytes: int) -> str:
    """What is saved, with a minus sign in front; more than before has a plus."""
    share = round(-100 * saved_bytes / of_bytes, 1)
    return f"{share:+.1f} %" if share else "0 %"


def _largest_change(before: PhaseTerms, after: PhaseTerms) -> str:
    """The category that shrinks most between two peaks."""
    shrunk = {name: _category_bytes(before, name) - _category_bytes(after, name) for name in CATEGORIES}
    largest = max(shrunk, key=lambda name: shrunk[name])
    return largest.replace("_", " ") if shrunk[largest] > 0 else ""


def _category_bytes(prediction: PhaseTerms, category: str) -> int:
    return sum(term.size_bytes for term in prediction.peak if term.category == category)
