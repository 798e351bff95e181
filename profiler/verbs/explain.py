"""`profiler explain`: what a recorded run allocated that its simulation did not, allocation by allocation."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from profiler.errors import ProfilerError
from profiler.gpu.snapshot import load_snapshot
from profiler.gpu.stacks import origin
from profiler.trace import alignment as align
from profiler.trace.alignment import Explanation, Request, Unmatched
from profiler.trace.events import Allocation, Mark
from profiler.trace.load import busiest, which_device
from profiler.trace.moments import containers, layers_together
from profiler.units import format_bytes
from profiler.verbs import options as words
from profiler.views import screen

if TYPE_CHECKING:
    from profiler.trace.run import Run

SUMMARY = "what a recorded run allocated that its simulation did not"
DESCRIPTION = (
    "Align the allocations of a recording with those of a simulation, and name what only one of them has. To "
    "compare two recordings: `profiler diff`."
)
EXAMPLES = "example: profiler explain run.pickle --against gpt2 --batch 8 --length 512 --gpu A100-40GB"
_GROUPS_SHOWN = 20
# Stretches with the same sizes in another order are told apart by aligning them.
_STRETCHES_ALIGNED = 5


def add_options(parser: ArgumentParser) -> None:
    """A recording, and what to simulate."""
    parser.add_argument(
        "snapshot", type=Path, metavar="SNAPSHOT", help="a file of torch.cuda.memory._dump_snapshot"
    )
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument(
        "--against",
        dest="model",
        metavar="TARGET",
        help=words.MODEL,
    )
    words.add_loop(against)
    words.add_prediction_options(parser)
    words.add_settings(parser)
    words.add_device(parser)
    parser.add_argument("--json", action="store_true", help="print what is found as JSON")


def run(options: Namespace) -> None:
    """Align the snapshot's allocations with those of a simulation and print what only one of them has.

    Raises ProfilerError for an unreadable snapshot, or what cannot be simulated.
    """
    recorded, note = recorded_requests(options.snapshot, options.device)
    simulation = words.predicted(options)
    simulated, phases = best_stretch(simulation, recorded)
    found, name = align.explain(recorded, simulated), f"the simulated {simulation.name}, {phases}"
    if options.json:
        print(json.dumps({**asdict(found), "unexplained_bytes": found.unexplained_bytes}, indent=2))
    else:
        _show(found, options.snapshot.name, name)
        if note:
            screen.console().print(note, soft_wrap=True)


def recorded_requests(path: Path, device: int | None = None) -> tuple[list[Request], str]:
    """The allocations of a snapshot's device, by default the busiest, in order; what to say of its others.

    Raises ProfilerError for a file that is no snapshot, or that holds no allocations.
    """
    with screen.reading(path) as on_progress:
        snapshot = load_snapshot(path, on_progress)
    chosen = busiest(snapshot) if device is None else snapshot.device(device)
    events = chosen.events if chosen else ()
    requests = [Request(e.size_bytes, origin(e.frames)) for e in events if e.action == "alloc"]
    if not requests:
        raise ProfilerError(f"{path}: no allocations; record with torch.cuda.memory._record_memory_history()")
    return requests, which_device(snapshot, chosen) if chosen else ""


def best_stretch(simulation: Run, recorded: Sequence[Request]) -> tuple[list[Request], str]:
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
    console = screen.console()
    for name, groups in ((first, explanation.only_first), (second, explanation.only_second)):
        if groups:
            console.print(_table(name, groups))
    aligned, first_total = explanation.aligned, explanation.first_total
    console.print(
        f"{aligned:,} of {first_total:,} allocations aligned (of {explanation.second_total:,} in {second});"
        f" unexplained {explanation.unexplained_bytes:,} bytes",
        soft_wrap=True,
    )


def _table(name: str, groups: Sequence[Unmatched]) -> Table:
    numbers = (screen.number(column) for column in ("size in bytes", "times", "together"))
    table = screen.table("what asked for it", *numbers, title=f"only in {name}")
    for group in groups[:_GROUPS_SHOWN]:
        size = format_bytes(group.total_bytes)
        table.add_row(group.cause, f"{group.size_bytes:,}", f"{group.times:,}", size)
    rest = groups[_GROUPS_SHOWN:]
    if rest:
        times, total_bytes = sum(g.times for g in rest), sum(g.total_bytes for g in rest)
        table.add_row(f"{len(rest)} more kinds", "", f"{times:,}", format_bytes(total_bytes))
    return table
