"""Recordings written by hand."""

import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from profiler.gpu.allocator import AllocatorSettings, BlockInfo, SegmentInfo
from profiler.gpu.replay import ReplayResult, replay_device
from profiler.gpu.snapshot import DeviceSnapshot
from profiler.gpu.trace_events import TraceEvent, TraceEvents

MIB = 1024**2
BASE = 0x1000_0000
NO_OPTIONS = AllocatorSettings()


def event(action: str, address: int, size_bytes: int, stream: int = 0) -> TraceEvent:
    return TraceEvent(action, address, size_bytes, stream, 0, ())


def freed(address: int, size_bytes: int) -> tuple[TraceEvent, TraceEvent]:
    return event("free_requested", address, size_bytes), event("free_completed", address, size_bytes)


def large(address: int, *blocks: tuple[int, int, str]) -> SegmentInfo:
    """A large segment from (size, requested, state) of its blocks."""
    views, at = [], address
    for size_bytes, requested_bytes, state in blocks:
        views.append(BlockInfo(at, size_bytes, requested_bytes, state))
        at += size_bytes
    return SegmentInfo(address, at - address, 0, "large", False, tuple(views))


def snapshot_file(path: Path, *blocks: tuple[int, int, bool], with_segment: bool = False) -> Path:
    """A pickle of torch's with one small segment: blocks of (size, requested, recorded) in order.

    One that nothing requested is free; for each recorded one there is an event, from a line of its own.
    """
    address = start = 0x7F0000000000
    segment_bytes, views, events = 2 * MIB, [], []
    if with_segment:
        events.append(_raw_event("segment_alloc", start, segment_bytes, []))
    for size_bytes, requested_bytes, recorded in (*blocks, (segment_bytes, 0, False)):
        size_bytes = min(size_bytes, start + segment_bytes - address)  # noqa: PLW2901  the rest
        state = "active_allocated" if requested_bytes else "inactive"
        views.append(
            {"address": address, "size": size_bytes, "requested_size": requested_bytes, "state": state}
        )
        if recorded:
            line = 10 + sum(event["action"] == "alloc" for event in events)
            frames = [{"filename": "/u/model.py", "line": line, "name": "forward"}]
            events.append(_raw_event("alloc", address, requested_bytes, frames))
        address += size_bytes
    about = {"device": 0, "address": start, "total_size": segment_bytes, "stream": 0, "segment_type": "small"}
    snapshot = {"segments": [{**about, "blocks": views}], "device_traces": [events]}
    path.write_bytes(pickle.dumps(snapshot))
    return path


def _raw_event(action: str, address: int, size_bytes: int, frames: list[Any]) -> dict[str, Any]:
    return {"action": action, "addr": address, "size": size_bytes, "stream": 0, "frames": frames}


def run(segments: Sequence[SegmentInfo], *events: TraceEvent, private_pools: bool = False) -> ReplayResult:
    device = DeviceSnapshot(0, tuple(segments), TraceEvents(events), private_pools)
    return replay_device(device, NO_OPTIONS, every_rule=True)


def expandable(address: int, *blocks: tuple[int, int, str]) -> SegmentInfo:
    return replace(large(address, *blocks), is_expandable=True)
