"""Replay a recorded CUDA memory trace through the allocator model and compare every address and segment.

Only the sizes, streams and frees of the trace go in. What must come out is the address of each block and
each segment taken from or returned to the driver. A recording seldom starts with an empty device: the state
at its start is found by running the trace backwards from the recorded final state.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from profiler.allocator import (
    MIB,
    SMALL_SEGMENT_BYTES,
    SMALL_SIZE_BYTES,
    AllocatorSettings,
    Block,
    CachingAllocator,
    Segment,
    SegmentEvent,
    rising_addresses,
)
from profiler.snapshot import DeviceSnapshot, Snapshot, TraceEvent

# A stream that no recording uses: freed blocks that waited for any other stream wait for this one.
_OTHER_STREAM = -1
_RETURNS = ("segment_free", "segment_unmap")
_SEGMENT_ACTIONS = ("segment_alloc", "segment_map", *_RETURNS)

AllocatorFactory = Callable[..., CachingAllocator]


class TraceContradiction(ValueError):
    """The events cannot lead to the recorded final state, for example because some were not recorded."""


@dataclass(frozen=True)
class Timeline:
    """Bytes after each event of the trace, as replayed (event i of the trace is entry i)."""

    allocated_bytes: tuple[int, ...]
    reserved_bytes: tuple[int, ...]


@dataclass(frozen=True)
class ReplayResult:
    """What the replay of one device's trace found.

    `verdict` is "exact" (every address, every segment and the final state), "differs", "empty" (no events),
    or "unsupported" (private pools, or a trace that contradicts the final state; `first_mismatch` tells).
    `ambiguous_blocks` counts blocks that existed before the recording, were freed in it, and whose size
    nothing recorded determines: the replay then assumes that no part was left unsplit.
    """

    device: int
    verdict: str
    events: int
    allocations: int
    addresses_matched: int
    addresses_mismatched: int
    segments_matched: int
    segments_mismatched: int
    first_mismatch: str | None
    ambiguous_blocks: int
    final_state_matched: bool
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    timeline: Timeline


def replay(snapshot: Snapshot, allocator: AllocatorFactory = CachingAllocator) -> tuple[ReplayResult, ...]:
    """Replay every device of a snapshot. `allocator` builds the model; tests put broken ones in."""
    return tuple(replay_device(device, snapshot.settings, allocator) for device in snapshot.devices)


def summary(result: ReplayResult) -> list[tuple[str, str]]:
    """The result as (name, value) rows for the screen."""
    rows = [
        ("device", str(result.device)),
        ("verdict", result.verdict),
        ("events", f"{result.events:,}"),
        ("addresses matched", f"{result.addresses_matched:,} of {result.allocations:,}"),
        (
            "segments matched",
            f"{result.segments_matched:,} of {result.segments_matched + result.segments_mismatched:,}",
        ),
        ("final state", "matched" if result.final_state_matched else "differs"),
        ("peak allocated", f"{result.peak_allocated_bytes / MIB:,.1f} MiB"),
        ("peak reserved", f"{result.peak_reserved_bytes / MIB:,.1f} MiB"),
    ]
    if result.ambiguous_blocks:
        rows.append(("blocks of unrecorded size", f"{result.ambiguous_blocks:,}"))
    if result.first_mismatch:
        rows.append(("first mismatch", result.first_mismatch))
    return rows


def replay_device(
    device: DeviceSnapshot, settings: AllocatorSettings, allocator: AllocatorFactory = CachingAllocator
) -> ReplayResult:
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
    run = _Run(device, settings, allocator, start)
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
        timeline=Timeline((), ()),
    )


# ---------------------------------------------------------------------- forward


class _Run:
    """The forward pass: its model, and the count of what matched."""

    def __init__(
        self,
        device: DeviceSnapshot,
        settings: AllocatorSettings,
        allocator: AllocatorFactory,
        start: Sequence[Segment],
    ) -> None:
        self.device = device
        self.recorded: list[SegmentEvent] = []  # segment events since the last allocation, recorded
        self.modelled: list[SegmentEvent] = []  # and made by the model
        self.fallback_address = rising_addresses()
        self.model = allocator(
            settings=settings,
            segment_address=self._segment_address,
            on_segment_event=self.modelled.append,
        )
        self.model.restore(start, _reservation_starts(device, settings, start))
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
        for index, (event, following) in enumerate(zip_longest(events, events[1:])):
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
            verdict="exact" if self.first_mismatch is None else "differs",
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
            timeline=Timeline(tuple(self.allocated_bytes), tuple(self.reserved_bytes)),
        )


def _text(events: Sequence[SegmentEvent]) -> str:
    shown = [f"{action} {size_bytes} at {address:#x}" for action, address, size_bytes in events[:3]]
    more = f" and {len(events) - 3} more" if len(events) > 3 else ""
    return "[" + ", ".join(shown) + more + "]"


def _layout(segments: Sequence[Segment]) -> list[tuple[int, int, str]]:
    """Address, size and state of all blocks; segments come sorted by address."""
    return [(block.address, block.size_bytes, block.state) for each in segments for block in each.blocks]


# ---------------------------------------------------------------------- backward


class _Past:
    """The blocks in use and the segments, walked back in time. Free blocks are what lies between.

    No free blocks ever lie side by side (the allocator merges them), so that blocks in use and segments
    determine the whole state, but for one thing: a freed block of the large pool may have been larger
    than its rounded request, by a rest of up to 1 MiB that was not worth splitting. No block of the large
    pool is as small as that, hence a smaller gap behind such a block was part of it.
    """

    def __init__(self, device: DeviceSnapshot, settings: AllocatorSettings) -> None:
        self.round_size = CachingAllocator(settings=settings).round_size
        self.settings = settings
        self.device = device
        self.segments = {each.address: each for each in device.segments}  # their blocks play no part
        self.starts = sorted(self.segments)
        blocks = [block for each in device.segments for block in each.blocks if block.state != "inactive"]
        self.in_use = {block.address: (block.size_bytes, block.requested_bytes) for block in blocks}
        self.awaiting = {block.address for block in blocks if block.state == "active_awaiting_free"}
        self.order = sorted(self.in_use)
        self.inferred: set[int] = set()  # addresses of blocks in use of which only the request is recorded

    def undo(self, event: TraceEvent) -> None:
        action, address, size_bytes, stream, _, _ = event
        if action == "alloc":
            if self.in_use.pop(address, None) is None or size_bytes == 0:
                raise TraceContradiction(f"the block allocated at {address:#x} is not there afterwards")
            del self.order[bisect_left(self.order, address)]
            self.inferred.discard(address)
            self.awaiting.discard(address)
        elif action == "free_completed":
            self._undo_free(address, size_bytes)
        elif action == "free_requested":
            if address not in self.awaiting:
                raise TraceContradiction(
                    f"the block freed at {address:#x} is not waiting to be free after it"
                )
            self.awaiting.discard(address)
        elif action in _SEGMENT_ACTIONS and size_bytes == 0:
            raise TraceContradiction(f"the {action} at {address:#x} is empty")
        elif action == "segment_alloc":
            segment = self.segments.pop(address, None)
            if segment is None or segment.total_size_bytes != size_bytes:
                raise TraceContradiction(f"the segment allocated at {address:#x} is not there afterwards")
            self.starts.remove(address)
        elif action == "segment_free":
            segment_type = "small" if size_bytes == SMALL_SEGMENT_BYTES else "large"
            self._add_segment(Segment(address, size_bytes, stream, segment_type, False, ()))
        elif action == "segment_map":
            self._cut_range(address, size_bytes)
        elif action == "segment_unmap":
            self._add_range(address, size_bytes, stream)

    def _segment_at(self, address: int) -> Segment | None:
        index = bisect_right(self.starts, address) - 1
        if index < 0:
            return None
        segment = self.segments[self.starts[index]]
        return segment if address < segment.address + segment.total_size_bytes else None

    def _undo_free(self, address: int, requested_bytes: int) -> None:
        segment = self._segment_at(address)
        if segment is None or address in self.in_use:
            raise TraceContradiction(f"the block freed at {address:#x} is not free afterwards")
        index = bisect_left(self.order, address)
        size_bytes = self.round_size(requested_bytes)
        limit = segment.address + segment.total_size_bytes
        if index < len(self.order):
            limit = min(limit, self.order[index])
        if address + size_bytes > limit:
            raise TraceContradiction(f"the block freed at {address:#x} overlaps another")
        keeps_rests = segment.segment_type == "large" and not segment.is_expandable
        if keeps_rests and limit - address - size_bytes <= SMALL_SIZE_BYTES:
            size_bytes = limit - address
        self.in_use[address] = (size_bytes, requested_bytes)
        self.awaiting.add(address)
        self.order.insert(index, address)
        self.inferred.add(address)
        if keeps_rests and index > 0 and (before := self.order[index - 1]) in self.inferred:
            before_bytes, before_requested_bytes = self.in_use[before]
            if before >= segment.address and address - before - before_bytes <= SMALL_SIZE_BYTES:
                self.in_use[before] = (address - before, before_requested_bytes)

    def _add_segment(self, segment: Segment) -> None:
        if segment.address in self.segments:
            raise TraceContradiction(f"the segment freed at {segment.address:#x} is still there afterwards")
        self.segments[segment.address] = segment
        insort(self.starts, segment.address)

    def _drop_segment(self, segment: Segment) -> None:
        del self.segments[segment.address]
        self.starts.remove(segment.address)

    def _cut_range(self, address: int, size_bytes: int) -> None:
        segment = self._segment_at(address)
        end = address + size_bytes
        if segment is None or end > segment.address + segment.total_size_bytes:
            raise TraceContradiction(f"the memory mapped at {address:#x} is not there afterwards")
        self._drop_segment(segment)
        segment_end = segment.address + segment.total_size_bytes
        for start, stop in ((segment.address, address), (end, segment_end)):
            if start < stop:
                self._add_segment(replace(segment, address=start, total_size_bytes=stop - start))

    def _add_range(self, address: int, size_bytes: int, stream: int) -> None:
        ranges = [each for each in self.segments.values() if each.is_expandable and each.stream == stream]
        segment_type = _type_of_range(self.device, self.settings, address, address + size_bytes)
        segment = Segment(address, size_bytes, stream, segment_type, True, ())
        for each in ranges:
            if each.segment_type != segment_type:
                continue
            if each.address + each.total_size_bytes == segment.address:
                self._drop_segment(each)
                total_size_bytes = each.total_size_bytes + segment.total_size_bytes
                segment = replace(segment, address=each.address, total_size_bytes=total_size_bytes)
            elif segment.address + segment.total_size_bytes == each.address:
                self._drop_segment(each)
                total_size_bytes = each.total_size_bytes + segment.total_size_bytes
                segment = replace(segment, total_size_bytes=total_size_bytes)
        self._add_segment(segment)

    def tiled_segments(self) -> tuple[tuple[Segment, ...], int]:
        """The segments with their blocks, and how many block sizes are assumed."""
        result: list[Segment] = []
        ambiguous_blocks = position = 0
        for start in self.starts:
            segment = self.segments[start]
            if result and start < result[-1].address + result[-1].total_size_bytes:
                raise TraceContradiction(f"the segment at {start:#x} overlaps another before the first event")
            keeps_rests = segment.segment_type == "large" and not segment.is_expandable
            blocks: list[Block] = []
            at, end = start, start + segment.total_size_bytes
            while at < end:
                address = self.order[position] if position < len(self.order) else end
                if address < at:
                    raise TraceContradiction(f"blocks overlap at {address:#x} before the first event")
                if address > at:
                    gap_end = min(address, end)
                    ambiguous_blocks += keeps_rests and bool(blocks) and blocks[-1].address in self.inferred
                    blocks.append(Block(at, gap_end - at, 0, "inactive"))
                    at = gap_end
                else:
                    size_bytes, requested_bytes = self.in_use[address]
                    state = "active_awaiting_free" if address in self.awaiting else "active_allocated"
                    blocks.append(Block(address, size_bytes, requested_bytes, state))
                    at += size_bytes
                    position += 1
            if at > end:
                raise TraceContradiction(f"a block leaves its segment {start:#x} before the first event")
            result.append(replace(segment, blocks=tuple(blocks)))
        if position < len(self.order):
            raise TraceContradiction(f"the block at {self.order[position]:#x} is in no segment")
        return tuple(result), ambiguous_blocks


def _type_of_range(device: DeviceSnapshot, settings: AllocatorSettings, start: int, end: int) -> str:
    """The pool of an expandable range: that of a block recorded inside, or else told by the chunk size."""
    for event in device.events:
        if event.action in ("alloc", "free_completed") and start <= event.address < end:
            return "small" if event.size_bytes <= SMALL_SIZE_BYTES else "large"
    return "small" if (end - start) % settings.large_segment_size_bytes else "large"


def _reservation_starts(
    device: DeviceSnapshot, settings: AllocatorSettings, start: Sequence[Segment]
) -> dict[tuple[int, str], int]:
    """Where expandable reservations begin below their first range, told by memory mapped there later."""
    first = {(each.stream, each.segment_type): each.address for each in reversed(start) if each.is_expandable}
    starts = dict(first)
    for event in device.events if first else ():
        if event.action != "segment_map":
            continue
        end = event.address + event.size_bytes
        key = (event.stream, _type_of_range(device, settings, event.address, end))
        chunk_bytes = settings.large_segment_size_bytes if key[1] == "large" else SMALL_SEGMENT_BYTES
        # Chunks of one reservation are aligned to each other.
        if key in first and (first[key] - event.address) % chunk_bytes == 0:
            starts[key] = min(starts[key], event.address)
    return starts


def initial_segments(device: DeviceSnapshot, settings: AllocatorSettings) -> tuple[tuple[Segment, ...], int]:
    """The segments and blocks before the first recorded event, and how many block sizes had to be assumed.

    Raises TraceContradiction if the events do not lead to the final state.
    """
    past = _Past(device, settings)
    for event in reversed(device.events):
        past.undo(event)
    return past.tiled_segments()
