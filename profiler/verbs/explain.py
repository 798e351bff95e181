"""`profiler explain`: what a recorded run allocated that its simulation did not, allocation by allocation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from profiler.errors import ProfilerError
from profiler.gpu.cards import find_gpu
from profiler.gpu.snapshot import SnapshotError, load_snapshot
from profiler.gpu.stacks import origin
from profiler.runs.prediction import Simulation, simulate, simulate_function
from profiler.trace import alignment as align
from profiler.trace.alignment import Explanation, Request, Unmatched
from profiler.trace.events import Allocation, Mark
from profiler.trace.moments import containers, layers_together
from profiler.units import format_bytes
from profiler.verbs.predict import allocator_settings
from profiler.workload import Workload

_GROUPS_SHOWN = 20
# Stretches with the same sizes in another order are told apart by aligning them.
_STRETCHES_ALIGNED = 5


def explain(path: Path, against: Workload | str, gpu: str, settings: str) -> None:
    """Align the snapshot's allocations with those of `against` and print what only one of them has.

    Args:
        path: a recorded snapshot.
        against: a workload or a script's function to simulate.
        gpu: what to simulate it on, as `profiler predict` takes it.
        settings: of the simulated allocator.

    Raises:
        ProfilerError: an unreadable snapshot, or what cannot be simulated.
    """
    recorded = recorded_requests(path)
    simulated_gpu, simulated_settings = find_gpu(gpu), allocator_settings(settings)
    if isinstance(against, Workload):
        simulation = simulate(against, simulated_gpu, simulated_settings)
    else:
        simulation = simulate_function(against, simulated_gpu, simulated_settings)
    simulated, phases = best_stretch(simulation, recorded)
    _show(align.explain(recorded, simulated), path.name, f"the simulated {against}, {phases}")


def recorded_requests(path: Path) -> list[Request]:
    """The allocations of the snapshot's busiest device, in order.

    Raises ProfilerError for a file that is no snapshot, or that holds no allocations.
    """
    try:
        snapshot = load_snapshot(path)
    except SnapshotError as error:
        raise ProfilerError(str(error)) from error
    events = max((device.events for device in snapshot.devices), key=len, default=())
    requests = [Request(e.size_bytes, origin(e.frames)) for e in events if e.action == "alloc"]
    if not requests:
        raise ProfilerError(f"{path}: no allocations; record with torch.cuda.memory._record_memory_history()")
    return requests


def best_stretch(simulation: Simulation, recorded: Sequence[Request]) -> tuple[list[Request], str]:
    """The consecutive phases whose allocations align best with the recorded ones, and their name.

    A recording seldom starts with the program: it may hold one step, or a forward pass alone.
    """
    phases: list[tuple[str, list[Request]]] = []
    current: list[Request] = []
    outer = containers(simulation.entries)
    for entry in simulation.entries:
        if isinstance(entry, Allocation):
            current.append(_request(entry, outer))
        elif isinstance(entry, Mark):
            phases.append((str(entry.phase), current))
            current = []
    sizes = [request.size_bytes for request in recorded]
    likely: list[tuple[float, int, int]] = []
    for start in range(len(phases)):
        stretch: list[int] = []
        for end in range(start, len(phases)):
            stretch += [request.size_bytes for request in phases[end][1]]
            likely.append((-align.similarity(sizes, stretch), start, end))
    best: tuple[float, list[Request], str] = (-1.0, [], "")
    for _, start, end in sorted(likely)[:_STRETCHES_ALIGNED]:
        requests = [request for _, part in phases[start : end + 1] for request in part]
        pairs = align.align(sizes, [request.size_bytes for request in requests])
        share = 2 * len(pairs) / (len(sizes) + len(requests))
        if share > best[0]:
            name = phases[start][0] if start == end else f"{phases[start][0]} to {phases[end][0]}"
            best = (share, requests, name)
    return best[1], best[2]


def _request(allocation: Allocation, outer: set[str]) -> Request:
    words = [allocation.op.removeprefix("aten::")]
    if allocation.where is not None:
        words += [
            word for word in (layers_together(allocation.where.module, outer), allocation.where.line) if word
        ]
    return Request(allocation.requested_bytes, ", ".join(words))


def _show(explanation: Explanation, first: str, second: str) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=150, highlight=False)
    for name, groups in ((first, explanation.only_first), (second, explanation.only_second)):
        if groups:
            console.print(_table(name, groups))
    aligned, first_total = explanation.aligned, explanation.first_total
    console.print(
        f"{aligned:,} of {first_total:,} allocations aligned (of {explanation.second_total:,} in {second});"
        f" unexplained {explanation.unexplained_bytes:,} bytes",
        markup=False,
        soft_wrap=True,
    )


def _table(name: str, groups: Sequence[Unmatched]) -> Table:
    table = Table(title=f"only in {name}", title_justify="left")
    table.add_column("what asked for it", overflow="fold")
    for column in ("size in bytes", "times", "together"):
        table.add_column(column, justify="right", no_wrap=True)
    for group in groups[:_GROUPS_SHOWN]:
        size = format_bytes(group.total_bytes)
        table.add_row(group.cause, f"{group.size_bytes:,}", f"{group.times:,}", size)
    rest = groups[_GROUPS_SHOWN:]
    if rest:
        times, total_bytes = sum(g.times for g in rest), sum(g.total_bytes for g in rest)
        table.add_row(f"{len(rest)} more kinds", "", f"{times:,}", format_bytes(total_bytes))
    return table
