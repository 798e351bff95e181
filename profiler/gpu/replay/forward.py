"""The replay itself: the recorded requests go through the model, and what comes out is compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest

from profiler.gpu.allocator import (
    AllocatorSettings,
    CachingAllocator,
    SegmentEvent,
    SegmentInfo,
    falling_addresses,
)
from profiler.gpu.replay.initial_state import TraceContradiction, initial_segments, reservation_starts
from profiler.gpu.replay.result import ReplayResult, Timeline
from profiler.gpu.snapshot import DeviceSnapshot, Snapshot
from profiler.gpu.trace_events import TraceEvent

# A stream that no recording uses: freed blocks that waited for any other stream wait for this one.
_OTHER_STREAM = -1
_RETURNS = ("segment_free", "segment_unmap")
_SEGMENT_ACTIONS = ("segment_alloc", "segment_map", *_RETURNS)


def replay(snapshot: Snapshot) -> tuple[ReplayResult, ...]:
    """Replay every device of a snapshot."""
    return tuple(replay_device(device, snapshot.settings) for device in snapshot.devices)


def replay_device(device: DeviceSnapshot, settings: AllocatorSettings) -> ReplayResult:
    """Replay one device's events; never raises for a trace that differs, the result says so."""
    settings = replace(settings, memory_fraction=1.0)  # the device's capacity is not recorded
    if device.private_pools:
        return _unfit(device, "unsupported", "memory of CUDA graphs or private pools is not modelled")
    if not device.events:
        return _unfit(device, "empty", None)
    try:
        start, ambiguous_blocks = initial_segments(device, settings)
    except TraceContradiction as error:
        return _unfit(device, "unsupported", str(error))
    run = _Run(device, settings, start)
    run.forward()
    return run.result(ambiguous_blocks)


def _unfit(device: DeviceSnapshot, verdict: str, reason: str | None) -> ReplayResult:
    allocations = sum(event.action == "alloc" for event in device.events)
    return ReplayResult(
        device=device.device,
        verdict=verdict,
        events=len(device.events),
        allocations=allocations,
        addresses_matched=0,
        addresses_mismatched=0,
        segments_matched=0,
        segments_mismatched=0,
        first_mismatch=reason,
        ambiguous_blocks=0,
        final_state_matched=verdict == "empty",
        peak_allocated_bytes=device.allocated_bytes,
        peak_reserved_bytes=device.reserved_bytes,
        peak_requested_bytes=sum(b.requested_bytes for each in device.segments for b in each.blocks),
        timeline=Timeline((), ()),
    )


class _Run:
    """The forward pass: its model, and the count of what matched."""

    def __init__(
        self, device: DeviceSnapshot, settings: AllocatorSettings, start: Sequence[SegmentInfo]
    ) -> None:
        self.device = device
        self.recorded: list[SegmentEvent] = []  # segment events since the last allocation, recorded
        self.modelled: list[SegmentEvent] = []  # and made by the model
        self.fallback_address = falling_addresses()
        self.model = CachingAllocator(
            settings=settings,
            segment_address=self._segment_address,
            on_segment_event=self.modelled.append,
        )
        self.model.restore(start, reservation_starts(device, settings, start))
        # Freed blocks whose memory another stream may still use; those of the start are restored as such.
        blocks = [block for segment in start for block in segment.blocks]
        self.waiting = {block.address for block in blocks if block.state == "active_awaiting_free"}
        self.allocations = 0
        self.addresses_mismatched = 0
        self.segments_matched = 0
        self.segments_mismatched = 0
        self.first_mismatch: str | None = None
        self.allocated_bytes: list[int] = []
        self.reserved_bytes: list[int] = []

    def _segment_address(self, size_bytes: int) -> int:
        """Stand in for the driver: where the recording put a new segment of this size."""
        for action, address, recorded_bytes in self.recorded:
            if action == "segment_map" or (action == "segment_alloc" and recorded_bytes == size_bytes):
                return address
        return self.fallback_address(size_bytes)

    def forward(self) -> None:
        model, recorded, events = self.model, self.recorded, self.device.events
        at: dict[int, int] = {}  # recorded address -> the model's, where they differ
        note_allocated, note_reserved = self.allocated_bytes.append, self.reserved_bytes.append
        allocated_bytes, reserved_bytes = model.allocated_bytes, model.reserved_bytes
        allocations = 0
        freed = -1  # index of the free_completed that the free before it included
        for index, (event, following) in enumerate(_with_next(events)):
            action, address, size_bytes, stream, _, _ = event
            if action == "alloc":
                allocations += 1
                placed = model.malloc(size_bytes, stream)
                if recorded or self.modelled:
                    self._compare_segments(index)
                    reserved_bytes = model.reserved_bytes
                if placed != address:
                    self.addresses_mismatched += 1
                    at[address] = placed
                    self._mismatch(index, f"alloc of {size_bytes} bytes at {address:#x}, model {placed:#x}")
                elif at:
                    at.pop(address, None)
                allocated_bytes = model.allocated_bytes
            elif action == "free_requested":
                placed = at.get(address, address) if at else address
                if following is not None and following[:2] == ("free_completed", address):
                    freed = index + 1
                else:
                    model.record_stream(placed, _OTHER_STREAM)
                    self.waiting.add(placed)
                model.free(placed)
                allocated_bytes = model.allocated_bytes
            elif action == "free_completed":
                placed = at.pop(address, address) if at else address
                if index != freed:
                    self._complete_free(placed)
                    allocated_bytes = model.allocated_bytes
            elif action in _SEGMENT_ACTIONS:
                self._segment_event(index, event, following)
                reserved_bytes = model.reserved_bytes
            note_allocated(allocated_bytes)
            note_reserved(reserved_bytes)
        self.allocations = allocations
        if recorded:
            self._compare_segments(len(events) - 1)

    def _complete_free(self, address: int) -> None:
        if address in self.waiting:
            self.waiting.discard(address)
            self.model.process_events([address])
        else:  # the request to free it was not recorded
            self.model.free(address)

    def _segment_event(self, index: int, event: TraceEvent, following: TraceEvent | None) -> None:
        self.recorded.append((event.action, event.address, event.size_bytes))
        if event.action in _RETURNS and (following is None or following.action not in _RETURNS):
            # The last of an empty_cache(), or of the same within a malloc that found the device full.
            self.model.empty_cache()
            self._compare_segments(index)

    def _compare_segments(self, index: int) -> None:
        if self.recorded == self.modelled:
            self.segments_matched += len(self.recorded)
        else:
            common = set(self.recorded) & set(self.modelled)
            self.segments_matched += len(common)
            self.segments_mismatched += max(len(self.recorded), len(self.modelled)) - len(common)
            self._mismatch(index, f"segments {_text(self.recorded)}, model {_text(self.modelled)}")
        self.recorded.clear()
        self.modelled.clear()

    def _verdict(self) -> str:
        if self.first_mismatch is not None:
            return "differs"
        acts = ("alloc", *_SEGMENT_ACTIONS, "free_requested", "free_completed")
        return "exact" if any(event.action in acts for event in self.device.events) else "empty"

    def _mismatch(self, index: int, description: str) -> None:
        if self.first_mismatch is None:
            self.first_mismatch = f"event {index}: recorded {description}"

    def result(self, ambiguous_blocks: int) -> ReplayResult:
        final_state_matched = _layout(self.model.segments()) == _layout(self.device.segments)
        if not final_state_matched and self.first_mismatch is None:
            self.first_mismatch = "all events match, but the final blocks differ"
        stats = self.model.memory_stats()
        return ReplayResult(
            device=self.device.device,
            verdict=self._verdict(),
            events=len(self.device.events),
            allocations=self.allocations,
            addresses_matched=self.allocations - self.addresses_mismatched,
            addresses_mismatched=self.addresses_mismatched,
            segments_matched=self.segments_matched,
            segments_mismatched=self.segments_mismatched,
            first_mismatch=self.first_mismatch,
            ambiguous_blocks=ambiguous_blocks,
            final_state_matched=final_state_matched,
            peak_allocated_bytes=stats["allocated_bytes.all.peak"],
            peak_reserved_bytes=stats["reserved_bytes.all.peak"],
            peak_requested_bytes=stats["requested_bytes.all.peak"],
            timeline=Timeline(tuple(self.allocated_bytes), tuple(self.reserved_bytes)),
        )


def _with_next(events: Iterable[TraceEvent]) -> Iterator[tuple[TraceEvent, TraceEvent | None]]:
    ahead = iter(events)
    next(ahead, None)
    return zip_longest(events, ahead)


def _text(events: Sequence[SegmentEvent]) -> str:
    shown = [f"{action} {size_bytes} at {address:#x}" for action, address, size_bytes in events[:3]]
    more = f" and {len(events) - 3} more" if len(events) > 3 else ""
    return "[" + ", ".join(shown) + more + "]"


def _layout(segments: Sequence[SegmentInfo]) -> list[tuple[int, int, str]]:
    """Address, size and state of all blocks; segments come sorted by address."""
    return [(block.address, block.size_bytes, block.state) for each in segments for block in each.blocks]
