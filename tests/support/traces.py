"""Recordings written by hand."""

from collections.abc import Sequence
from dataclasses import replace

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


def run(segments: Sequence[SegmentInfo], *events: TraceEvent, private_pools: bool = False) -> ReplayResult:
    return replay_device(DeviceSnapshot(0, tuple(segments), TraceEvents(events), private_pools), NO_OPTIONS)


def expandable(address: int, *blocks: tuple[int, int, str]) -> SegmentInfo:
    return replace(large(address, *blocks), is_expandable=True)
