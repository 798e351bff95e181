"""A run in other tools' formats: PyTorch's memory_viz, and the trace format of Perfetto and Chrome.

What is known is the order of events, not their time: one event is one microsecond.
"""

from __future__ import annotations

import re
from typing import Any

from profiler.gpu.allocator import SegmentInfo
from profiler.trace.events import Allocation, Free, Mark
from profiler.trace.ledger import categories
from profiler.trace.load import CATEGORY_FRAME, MODULE_FRAME, OPERATION_FRAME
from profiler.trace.run import Run
from profiler.trace.segments import Held, segments_at

_LINE = re.compile(r"(?P<file>.+):(?P<line>\d+)(?: (?P<name>.*))?")


def memory_viz(run: Run) -> dict[str, Any]:
    """The snapshot that `torch.cuda.memory._dump_snapshot` would pickle: for pytorch.org/memory_viz.

    Each allocation's frames are the operation, the category, the module and the user's line. The segments are
    those after the last entry; none where nobody told them.
    """
    entries, names, changes = run.entries, categories(run.entries), run.segment_changes
    segments = segments_at(entries, changes, len(entries) - 1)
    trace: list[dict[str, Any]] = []
    alive: dict[int, tuple[int, int]] = {}  # address -> position of the allocation, stream
    held = Held()
    for index, entry in enumerate(entries):
        for change in changes.get(index, ()):
            # A category beside every alloc colours the page; it then asks for one named "unknown" too.
            trace.append(_event(*change, index, [], "unknown"))
            held.change(change)
        if isinstance(entry, Allocation):
            segment = held.at(entry.address)
            stream = segment.stream if segment is not None else 0
            alive[entry.address] = index, stream
            frames = _frames(entry, names[index])
            block = (entry.address, entry.requested_bytes, stream)
            trace.append(_event("alloc", *block, index, frames, names[index]))
        elif isinstance(entry, Free) and entry.address in alive:
            position, stream = alive.pop(entry.address)
            born = entries[position]
            assert isinstance(born, Allocation)
            for action in ("free_requested", "free_completed"):
                trace.append(_event(action, born.address, born.requested_bytes, stream, index, []))
    frames_at = {
        address: _frames(entry, names[position])
        for address, (position, _) in alive.items()
        if isinstance(entry := entries[position], Allocation)
    }
    return {
        "segments": [_segment(segment, frames_at) for segment in segments],
        "device_traces": [trace],
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": run.allocator_settings},
    }


def _event(
    action: str,
    address: int,
    size_bytes: int,
    stream: int,
    time_us: int,
    frames: list[dict[str, Any]],
    category: str = "",
) -> dict[str, Any]:
    event = {
        "action": action,
        "addr": address,
        "size": size_bytes,
        "stream": stream,
        "time_us": time_us,
        "frames": frames,
    }
    return event | {"category": category} if category else event


def _segment(segment: SegmentInfo, frames_at: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    """As in `torch.cuda.memory._snapshot()`; frames of the blocks that are handed out."""
    active = [block for block in segment.blocks if block.state == "active_allocated"]
    return {
        "device": 0,
        "address": segment.address,
        "total_size": segment.total_size_bytes,
        "allocated_size": sum(block.size_bytes for block in active),
        "active_size": sum(block.size_bytes for block in active),
        "requested_size": sum(block.requested_bytes for block in active),
        "stream": segment.stream,
        "segment_type": segment.segment_type,
        "segment_pool_id": (0, 0),
        "is_expandable": segment.is_expandable,
        "frames": [],
        "blocks": [
            {
                "address": block.address,
                "size": block.size_bytes,
                "requested_size": block.requested_bytes,
                "state": block.state,
                "frames": frames_at.get(block.address, []),
            }
            for block in segment.blocks
        ],
    }


def _frames(allocation: Allocation, category: str) -> list[dict[str, Any]]:
    """Innermost first, as in a real snapshot."""
    words = [(OPERATION_FRAME, allocation.op or "allocation"), (CATEGORY_FRAME, category)]
    where = allocation.where
    if where is not None and where.module:
        words.append((MODULE_FRAME, where.module))
    frames = [{"filename": filename, "line": 0, "name": name} for filename, name in words]
    found = _LINE.fullmatch(where.line) if where is not None else None
    if found:
        frames.append({"filename": found["file"], "line": int(found["line"]), "name": found["name"] or ""})
    return frames


def perfetto(run: Run, points: int = 5000) -> dict[str, Any]:
    """Counters of allocated bytes by category and of reserved bytes, with the phases: for ui.perfetto.dev.

    No more than about `points` moments are kept, of each stretch of events the one with the most allocated.
    """
    from profiler.trace.moments import levels

    positions, sizes = levels(run.entries, points)
    events: list[dict[str, Any]] = []
    for index, position in enumerate(positions.tolist()):
        values = {category: int(row[index]) for category, row in sizes.items()}
        counters = {"allocated": values}
        if run.reserved_bytes:
            counters["reserved"] = {"reserved": run.reserved_bytes[position]}
        for name, arguments in counters.items():
            events.append({"ph": "C", "pid": 0, "name": f"{name} bytes", "ts": position, "args": arguments})
    start = 0
    for position, entry in enumerate(run.entries):
        if isinstance(entry, Mark):
            duration = position - start
            events.append(
                {"ph": "X", "pid": 0, "tid": 0, "name": str(entry.phase), "ts": start, "dur": duration}
            )
            start = position
    process = {"ph": "M", "pid": 0, "name": "process_name", "args": {"name": str(run.device)}}
    return {"traceEvents": [process, *events], "displayTimeUnit": "ns"}
