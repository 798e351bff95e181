"""The replay itself: the recorded requests go through the model, and what comes out is compared."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from profiler.gpu.allocator import (
    AllocatorSettings,
    CachingAllocator,
    SegmentEvent,
    SegmentInfo,
)
from profiler.gpu.allocator.addresses import ChosenAddresses
from profiler.gpu.replay.acts import ALLOC, FREE, FREE_COMPLETED, FREE_REQUESTED, LAST_RETURN, Acts
from profiler.gpu.replay.initial_state import TraceContradiction, reservation_starts, segments_before
from profiler.gpu.replay.result import BEFORE_2_12, FROM_2_12, ReplayResult, Timeline
from profiler.gpu.snapshot import DeviceSnapshot, Snapshot

# A stream that no recording uses: freed blocks that waited for any other stream wait for this one.
_OTHER_STREAM = -1
_BEYOND = 1 << 120  # far beyond what a recording can have: segments that it lacks lie below


def replay(snapshot: Snapshot) -> tuple[ReplayResult, ...]:
    """Replay every device of a snapshot."""
    return tuple(replay_device(device, snapshot.settings) for device in snapshot.devices)


def replay_device(
    device: DeviceSnapshot, settings: AllocatorSettings, *, every_rule: bool = False
) -> ReplayResult:
    """Replay one device's events; never raises for a trace that differs, the result says so.

    A snapshot does not tell its version of torch, so both rules of the choice among equal free blocks are
    tried: until one is exact, or with `every_rule` both, so that the result names all that hold.
    """
    settings = replace(settings, memory_fraction=1.0)  # the device's capacity is not recorded
    if device.private_pools:
        return _unfit(device, "unsupported", "memory of CUDA graphs or private pools is not modelled")
    if not device.events:
        return _unfit(device, "empty", None)
    acts = Acts(device.events)
    try:
        start, ambiguous_blocks = segments_before(device, settings, acts)
    except TraceContradiction as error:
        return _unfit(device, "unsupported", str(error))
    results = []
    for rule in (BEFORE_2_12, FROM_2_12):
        run = _Run(device, settings, start, acts, rule)
        try:
            run.forward()
        except ValueError as error:  # of the allocator: events that no allocator can have made
            return _unfit(device, "unsupported", f"its events contradict each other: {error}")
        results.append(run.result(ambiguous_blocks))
        if results[-1].verdict == "exact" and not every_rule:
            break
    held = tuple(result.rule for result in results if result.verdict == "exact")
    best = max(results, key=lambda result: (result.verdict == "exact", result.addresses_matched))
    return replace(best, rules_that_hold=held)


def _unfit(device: DeviceSnapshot, verdict: str, reason: str | None) -> ReplayResult:
    allocations = int(device.events.columns().are("alloc").sum())
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
        self,
        device: DeviceSnapshot,
        settings: AllocatorSettings,
        start: Sequence[SegmentInfo],
        acts: Acts,
        rule: str,
    ) -> None:
        self.device, self.acts, self.start, self.rule = device, acts, start, rule
        self.recorded: list[SegmentEvent] = []  # segment events since the last allocation, recorded
        self.modelled: list[SegmentEvent] = []  # and made by the model
        self.held = {segment.address for segment in start}  # segments of the model
        self.beyond = _BEYOND  # the lowest address of a segment that the recording lacks
        self.model = CachingAllocator(
            settings=settings,
            addresses=ChosenAddresses(self._segment_address),
            on_segment_event=self._note,
            counts=False,
            oldest_first=rule == FROM_2_12,
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
        # How each event changes the bytes; after which events the reserved bytes are others, and how many.
        empty = bytes(8 * len(device.events))
        self.allocated_changes, self.requested_changes = array("q", empty), array("q", empty)
        self.reserved_bytes: dict[int, int] = {}

    def _segment_address(self, size_bytes: int) -> int:
        """Stand in for the driver: where the recording put a new segment of this size."""
        for action, address, recorded_bytes in self.recorded:
            if action == "segment_map" or (action == "segment_alloc" and recorded_bytes == size_bytes):
                if address in self.held:  # the model has not returned what the recording did
                    break
                return address
        self.beyond -= size_bytes
        return self.beyond

    def _note(self, event: SegmentEvent) -> None:
        self.modelled.append(event)
        action, address, _ = event
        (self.held.add if action == "segment_alloc" else self.held.discard)(address)

    def forward(self) -> None:
        recorded, modelled = self.recorded, self.modelled
        allocate, release = self.model.allocate, self.model.release
        allocated, requested = self.allocated_changes, self.requested_changes
        at: dict[int, int] = {}  # recorded address -> the model's, where they differ
        allocations = 0
        for index, kind, address, size_bytes, stream in self.acts:
            if kind == ALLOC:
                allocations += 1
                block = allocate(size_bytes, stream)
                if recorded or modelled:
                    self._compare_segments(index)
                if block.address != address:
                    self.addresses_mismatched += 1
                    at[address] = placed = block.address
                    self._mismatch(index, f"alloc of {size_bytes} bytes at {address:#x}, model {placed:#x}")
                elif at:
                    at.pop(address, None)
                allocated[index], requested[index] = block.size_bytes, size_bytes
            elif kind == FREE:
                allocated[index] = -release(at.pop(address, address) if at else address)
                requested[index] = -size_bytes
            elif kind in (FREE_REQUESTED, FREE_COMPLETED):
                placed = (at.get if kind == FREE_REQUESTED else at.pop)(address, address)
                allocated[index] = -self._half_of_free(kind, placed)
                if kind == FREE_COMPLETED:
                    requested[index] = -size_bytes
            else:
                recorded.append((self.acts.word(index), address, size_bytes))
                if kind == LAST_RETURN:
                    # Of an empty_cache(), or of the same within a malloc that found the device full.
                    self.model.empty_cache()
                    self._compare_segments(index)
        self.allocations = allocations
        if recorded:
            self._compare_segments(len(self.device.events) - 1)

    def _half_of_free(self, kind: int, address: int) -> int:
        """A free that is requested and not complete, or one that completes; returns what is given back."""
        if kind == FREE_REQUESTED:
            self.model.record_stream(address, _OTHER_STREAM)
            self.waiting.add(address)
        elif address in self.waiting:
            self.waiting.discard(address)
            self.model.process_events([address])
            return 0
        return self.model.release(address)  # if complete, then the request to free it was not recorded

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
        self.reserved_bytes[index] = self.model.reserved_bytes

    def _verdict(self) -> str:
        if self.first_mismatch is not None:
            return "differs"
        return "exact" if self.acts.kinds.any() else "empty"

    def _mismatch(self, index: int, description: str) -> None:
        if self.first_mismatch is None:
            self.first_mismatch = f"event {index}: recorded {description}"

    def result(self, ambiguous_blocks: int) -> ReplayResult:
        final_state_matched = _layout(self.model.segments()) == _layout(self.device.segments)
        if not final_state_matched and self.first_mismatch is None:
            self.first_mismatch = "all events match, but the final blocks differ"
        before = [block for segment in self.start for block in segment.blocks]
        handed_out = sum(block.size_bytes for block in before if block.state == "active_allocated")
        allocated_bytes = _levels(handed_out, self.allocated_changes)
        requested_at_start = sum(block.requested_bytes for block in before)
        requested_bytes = _levels(requested_at_start, self.requested_changes)
        reserved_bytes = self._reserved()
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
            peak_allocated_bytes=max(chain((handed_out,), allocated_bytes)),
            peak_reserved_bytes=self.model.memory_stats()["reserved_bytes.all.peak"],
            peak_requested_bytes=max(chain((requested_at_start,), requested_bytes)),
            timeline=Timeline(allocated_bytes, reserved_bytes),
            start=tuple(self.start),
            rule=self.rule,
        )

    def _reserved(self) -> array[int]:
        """The reserved bytes after each event."""
        levels = array("q", [sum(segment.total_size_bytes for segment in self.start)])
        known = array("q")
        for index, reserved_bytes in self.reserved_bytes.items():
            known.extend(levels * (index - len(known)))
            levels[0] = reserved_bytes
        return known + levels * (len(self.device.events) - len(known))


def _levels(start_bytes: int, changes: array[int]) -> array[int]:
    """The bytes after each event."""
    import numpy as np

    levels = array("q")
    levels.frombytes((np.cumsum(np.frombuffer(changes, np.int64)) + start_bytes).tobytes())
    return levels


def _text(events: Sequence[SegmentEvent]) -> str:
    shown = [f"{action} {size_bytes} at {address:#x}" for action, address, size_bytes in events[:3]]
    more = f" and {len(events) - 3} more" if len(events) > 3 else ""
    return "[" + ", ".join(shown) + more + "]"


def _layout(segments: Sequence[SegmentInfo]) -> list[tuple[int, int, str]]:
    """Address, size and state of all blocks; segments come sorted by address."""
    return [(block.address, block.size_bytes, block.state) for each in segments for block in each.blocks]
