"""A run in other tools' formats: PyTorch's memory_viz, and the trace format of Perfetto and Chrome.

What is known is the order of events, not their time: one event is one microsecond.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError
from profiler.gpu.allocator import AllocatorSettings, CachingAllocator, SegmentEvent, SegmentInfo
from profiler.trace.events import Allocation, Free, Mark
from profiler.trace.ledger import categories
from profiler.trace.load import CATEGORY_FRAME, MODULE_FRAME, OPERATION_FRAME, SavedRun, until_last_phase
from profiler.trace.moments import Entries
from profiler.trace.segments import Changes, Held, SegmentChange, segments_at

if TYPE_CHECKING:
    from profiler.runs.prediction import Simulation

_LINE = re.compile(r"(?P<file>.+):(?P<line>\d+)(?: (?P<name>.*))?")


def memory_viz(simulation: Simulation, allocator_settings: str = "") -> dict[str, Any]:
    """The snapshot of a simulated run up to the end of its last phase, as `snapshot`.

    Its segments are those of the allocator model; `allocator_settings` are the run's, as PYTORCH_ALLOC_CONF
    has them. Raises ProfilerError for a program that does to the allocator what entries do not tell.
    """
    events, segments = _replayed(simulation, AllocatorSettings.parse(allocator_settings))
    entries = simulation.entries[: until_last_phase(simulation.entries)]
    changes = {index: [SegmentChange(*event) for event in found] for index, found in events.items()}
    return _snapshot(entries, categories(simulation.entries), changes, segments, allocator_settings)


def snapshot(run: SavedRun, allocator_settings: str = "") -> dict[str, Any]:
    """The snapshot that `torch.cuda.memory._dump_snapshot` would pickle: for pytorch.org/memory_viz.

    Each allocation's frames are the operation, the category, the module and the user's line. The segments are
    those after the last entry. The run must know its segments (SavedRun.segment_changes).
    """
    segments = segments_at(run.entries, run.segment_changes, len(run.entries) - 1)
    names = categories(run.entries)
    return _snapshot(run.entries, names, run.segment_changes, segments, allocator_settings)


def _snapshot(
    entries: Entries,
    names: Mapping[int, str],
    changes: Changes,
    segments: Sequence[SegmentInfo],
    allocator_settings: str,
) -> dict[str, Any]:
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
        "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": allocator_settings},
    }


def _replayed(
    simulation: Simulation, settings: AllocatorSettings
) -> tuple[dict[int, list[SegmentEvent]], tuple[SegmentInfo, ...]]:
    """The segment events before each entry, and the segments at the end.

    The entries go through the allocator model once more. `torch.cuda.empty_cache()` is not among them: it is
    found where the addresses or the reserved bytes would be others without it.
    """
    emptied: set[int] = set()
    while True:
        differs, events, allocator = _replay(simulation, settings, emptied)
        if differs is None:
            return events, allocator.segments()
        if differs in emptied:
            raise ProfilerError("cannot be written as a snapshot: entries do not tell all the allocator did")
        emptied.add(differs)


def _replay(
    simulation: Simulation, settings: AllocatorSettings, emptied: set[int]
) -> tuple[int | None, dict[int, list[SegmentEvent]], CachingAllocator]:
    """One attempt: the first entry at which the model differs from the run, or None."""
    events: dict[int, list[SegmentEvent]] = {}
    index = 0
    allocator = CachingAllocator(
        simulation.gpu.memory_bytes,
        settings,
        on_segment_event=lambda event: events.setdefault(index, []).append(event),
    )
    for index, entry in enumerate(simulation.entries[: until_last_phase(simulation.entries)]):
        if index in emptied:
            allocator.empty_cache()
        if isinstance(entry, Allocation):
            if allocator.malloc(entry.requested_bytes) != entry.address:
                return index, events, allocator
        elif isinstance(entry, Free):
            allocator.free(entry.address)
        if allocator.reserved_bytes != simulation.reserved_bytes[index]:
            return index, events, allocator
    return None, events, allocator


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


def perfetto(simulation: Simulation, points: int = 5000) -> dict[str, Any]:
    """Counters of allocated bytes by category and of reserved bytes, with the phases: for ui.perfetto.dev.

    No more than about `points` moments are kept, of each stretch of events the one with the most allocated.
    """
    from profiler.trace.moments import levels

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
