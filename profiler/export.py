"""A simulated run in other tools' formats: PyTorch's memory_viz, and the trace format of Perfetto and Chrome.

The simulation knows the order of events, not their time: one event is one microsecond.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from profiler.ledger import Allocation, Free, Mark

if TYPE_CHECKING:
    from profiler.prediction import Simulation

_LINE = re.compile(r"(?P<file>.+):(?P<line>\d+)(?: (?P<name>.*))?")


def memory_viz(simulation: Simulation) -> dict[str, Any]:
    """The snapshot that `torch.cuda.memory._dump_snapshot` would pickle: for pytorch.org/memory_viz.

    Each allocation's frames are the user's line, the module and the operation. There are no segments: every
    block is born in the trace.
    """
    trace: list[dict[str, Any]] = []
    alive: dict[int, Allocation] = {}
    for time_us, entry in enumerate(simulation.entries):
        if isinstance(entry, Allocation):
            alive[entry.address] = entry
            trace.append(_event("alloc", entry, time_us))
        elif isinstance(entry, Free) and entry.address in alive:
            born = alive.pop(entry.address)
            trace += [_event("free_requested", born, time_us), _event("free_completed", born, time_us)]
    return {"segments": [], "device_traces": [trace]}


def _event(action: str, allocation: Allocation, time_us: int) -> dict[str, Any]:
    return {
        "action": action,
        "addr": allocation.address,
        "size": allocation.requested_bytes,
        "stream": 0,
        "time_us": time_us,
        "frames": _frames(allocation) if action == "alloc" else [],
    }


def _frames(allocation: Allocation) -> list[dict[str, Any]]:
    """Innermost first, as in a real snapshot."""
    frames = [{"filename": "operation", "line": 0, "name": allocation.op or "allocation"}]
    where = allocation.where
    if where is not None and where.module:
        frames.append({"filename": "module", "line": 0, "name": where.module})
    found = _LINE.fullmatch(where.line) if where is not None else None
    if found:
        frames.append({"filename": found["file"], "line": int(found["line"]), "name": found["name"] or ""})
    return frames


def perfetto(simulation: Simulation, points: int = 5000) -> dict[str, Any]:
    """Counters of allocated bytes by category and of reserved bytes, with the phases: for ui.perfetto.dev.

    No more than about `points` moments are kept, of each stretch of events the one with the most allocated.
    """
    from profiler.timeline import levels

    positions, sizes = levels(simulation.entries, points)
    events: list[dict[str, Any]] = []
    for index, position in enumerate(positions.tolist()):
        values = {category: int(row[index]) for category, row in sizes.items()}
        reserved = {"reserved": simulation.reserved_bytes[position]}
        for name, arguments in (("allocated", values), ("reserved", reserved)):
            events.append({"ph": "C", "pid": 0, "name": f"{name} bytes", "ts": position, "args": arguments})
    start = 0
    for position, entry in enumerate(simulation.entries):
        if isinstance(entry, Mark):
            duration = position - start
            events.append(
                {"ph": "X", "pid": 0, "tid": 0, "name": str(entry.phase), "ts": start, "dur": duration}
            )
            start = position
    process = {"ph": "M", "pid": 0, "name": "process_name", "args": {"name": simulation.gpu.name}}
    return {"traceEvents": [process, *events], "displayTimeUnit": "ns"}
