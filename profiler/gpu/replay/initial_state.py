"""The state before the first recorded event, found by running the trace backwards from the final state."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import replace

from profiler.gpu.allocator import (
    SMALL_SEGMENT_BYTES,
    SMALL_SIZE_BYTES,
    AllocatorSettings,
    BlockInfo,
    CachingAllocator,
    SegmentInfo,
)
from profiler.gpu.replay.acts import ALLOC, FREE, FREE_COMPLETED, FREE_REQUESTED, Acts
from profiler.gpu.snapshot import DeviceSnapshot


class TraceContradiction(ValueError):
    """The events cannot lead to the recorded final state, for example because some were not recorded."""


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

    def undo_all(self, acts: Acts) -> None:
        """Walk back to the state before the first act."""
        stop = self._undo_settled(acts)
        order, pop, infer, await_ = self.order, self.in_use.pop, self.inferred.discard, self.awaiting.discard
        for index, kind, address, size_bytes, stream in acts.backward(stop):
            if kind == ALLOC:
                if pop(address, None) is None or size_bytes == 0:
                    raise TraceContradiction(f"the block allocated at {address:#x} is not there afterwards")
                del order[bisect_left(order, address)]
                infer(address)
                await_(address)
            elif kind == FREE:
                self._undo_free(address, size_bytes)
            elif kind == FREE_COMPLETED:
                self._undo_free(address, size_bytes)
                self.awaiting.add(address)
            elif kind == FREE_REQUESTED:
                if address not in self.awaiting:
                    raise TraceContradiction(
                        f"the block freed at {address:#x} is not waiting to be free after it"
                    )
                self.awaiting.discard(address)
            else:
                self._undo_segment(acts.word(index), address, size_bytes, stream)

    def _undo_settled(self, acts: Acts) -> int:
        """Undo the events that need no walk, all at once; returns how many are left.

        Only blocks that are older than the recording have sizes to be found: events after the last of them
        was freed tell no more than which blocks came and went.
        """
        ranges = [(start, start + self.segments[start].total_size_bytes) for start in self.starts]
        settled = None if self.awaiting else acts.settled(self.in_use, ranges)
        if settled is None:
            return len(acts.kinds)
        for address in settled.born:
            self.in_use.pop(address, None)
        for address, requested_bytes in settled.died.items():
            self.in_use[address] = (self.round_size(requested_bytes), requested_bytes)
        self.order[:] = sorted(self.in_use)
        for address, size_bytes in acts.segments_after(settled.stop):
            self._undo_segment("segment_alloc", address, size_bytes, 0)
        return settled.stop

    def _undo_segment(self, action: str, address: int, size_bytes: int, stream: int) -> None:
        if size_bytes == 0:
            raise TraceContradiction(f"the {action} at {address:#x} is empty")
        if action == "segment_alloc":
            segment = self.segments.pop(address, None)
            if segment is None or segment.total_size_bytes != size_bytes:
                raise TraceContradiction(f"the segment allocated at {address:#x} is not there afterwards")
            self.starts.remove(address)
        elif action == "segment_free":
            segment_type = "small" if size_bytes == SMALL_SEGMENT_BYTES else "large"
            self._add_segment(SegmentInfo(address, size_bytes, stream, segment_type, False, ()))
        elif action == "segment_map":
            self._cut_range(address, size_bytes)
        else:
            self._add_range(address, size_bytes, stream)

    def _segment_at(self, address: int) -> SegmentInfo | None:
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
        self.order.insert(index, address)
        self.inferred.add(address)
        if keeps_rests and index > 0 and (before := self.order[index - 1]) in self.inferred:
            before_bytes, before_requested_bytes = self.in_use[before]
            if before >= segment.address and address - before - before_bytes <= SMALL_SIZE_BYTES:
                self.in_use[before] = (address - before, before_requested_bytes)

    def _add_segment(self, segment: SegmentInfo) -> None:
        if segment.address in self.segments:
            raise TraceContradiction(f"the segment freed at {segment.address:#x} is still there afterwards")
        self.segments[segment.address] = segment
        insort(self.starts, segment.address)

    def _drop_segment(self, segment: SegmentInfo) -> None:
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
        segment = SegmentInfo(address, size_bytes, stream, segment_type, True, ())
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

    def tiled_segments(self) -> tuple[tuple[SegmentInfo, ...], int]:
        """The segments with their blocks, and how many block sizes are assumed."""
        result: list[SegmentInfo] = []
        ambiguous_blocks = position = 0
        for start in self.starts:
            segment = self.segments[start]
            if result and start < result[-1].address + result[-1].total_size_bytes:
                raise TraceContradiction(f"the segment at {start:#x} overlaps another before the first event")
            keeps_rests = segment.segment_type == "large" and not segment.is_expandable
            blocks: list[BlockInfo] = []
            at, end = start, start + segment.total_size_bytes
            while at < end:
                address = self.order[position] if position < len(self.order) else end
                if address < at:
                    raise TraceContradiction(f"blocks overlap at {address:#x} before the first event")
                if address > at:
                    gap_end = min(address, end)
                    ambiguous_blocks += keeps_rests and bool(blocks) and blocks[-1].address in self.inferred
                    blocks.append(BlockInfo(at, gap_end - at, 0, "inactive"))
                    at = gap_end
                else:
                    size_bytes, requested_bytes = self.in_use[address]
                    state = "active_awaiting_free" if address in self.awaiting else "active_allocated"
                    blocks.append(BlockInfo(address, size_bytes, requested_bytes, state))
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
    columns = device.events.columns()
    inside = (columns.addresses >= start) & (columns.addresses < end)
    inside &= columns.are("alloc", "free_completed")
    if inside.any():
        return "small" if columns.sizes[inside.argmax()] <= SMALL_SIZE_BYTES else "large"
    return "small" if (end - start) % settings.large_segment_size_bytes else "large"


def reservation_starts(
    device: DeviceSnapshot, settings: AllocatorSettings, start: Sequence[SegmentInfo]
) -> dict[tuple[int, str], int]:
    """Where expandable reservations begin below their first range, told by memory mapped there later."""
    first = {(each.stream, each.segment_type): each.address for each in reversed(start) if each.is_expandable}
    starts = dict(first)
    if not first:
        return starts
    columns = device.events.columns()
    for index in columns.are("segment_map").nonzero()[0].tolist():
        event = device.events[index]
        end = event.address + event.size_bytes
        key = (event.stream, _type_of_range(device, settings, event.address, end))
        chunk_bytes = settings.large_segment_size_bytes if key[1] == "large" else SMALL_SEGMENT_BYTES
        # Chunks of one reservation are aligned to each other.
        if key in first and (first[key] - event.address) % chunk_bytes == 0:
            starts[key] = min(starts[key], event.address)
    return starts


def initial_segments(
    device: DeviceSnapshot, settings: AllocatorSettings
) -> tuple[tuple[SegmentInfo, ...], int]:
    """The segments and blocks before the first recorded event, and how many block sizes had to be assumed.

    Raises TraceContradiction if the events do not lead to the final state.
    """
    return segments_before(device, settings, Acts(device.events))


def segments_before(
    device: DeviceSnapshot, settings: AllocatorSettings, acts: Acts
) -> tuple[tuple[SegmentInfo, ...], int]:
    """As `initial_segments`, of acts that are known already."""
    past = _Past(device, settings)
    past.undo_all(acts)
    return past.tiled_segments()
