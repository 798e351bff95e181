"""Where a run's memory lies: the segments that the driver gave, and the blocks in them at any moment."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from profiler.gpu.allocator import SMALL_SEGMENT_BYTES, SMALL_SIZE_BYTES, BlockInfo, SegmentInfo
from profiler.trace.events import Allocation, Entries, Free

_MAPS = "segment_map"
SEGMENT_ACTIONS = ("segment_alloc", "segment_free", _MAPS, "segment_unmap")


class SegmentChange(NamedTuple):
    """Memory taken from the driver or given back: an event of PyTorch's snapshots.

    action: segment_alloc or segment_free; of expandable segments segment_map or segment_unmap.
    """

    action: str
    address: int
    size_bytes: int
    stream: int = 0

    @property
    def end(self) -> int:
        return self.address + self.size_bytes


# The changes before the entry at a position; those after the last entry stand at their number.
Changes = Mapping[int, Sequence[SegmentChange]]


@dataclass(frozen=True)
class Holes:
    """The free parts of the segments at one moment."""

    segments: int
    count: int
    bytes: int
    largest_bytes: int


class Held:
    """The memory that is held, as changes come."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._held: list[SegmentChange] = []

    def change(self, change: SegmentChange) -> None:
        """Take or give back; what was never taken is ignored."""
        place = bisect_right(self._starts, change.address)
        if change.action in ("segment_alloc", _MAPS):
            self._starts.insert(place, change.address)
            self._held.insert(place, change)
            return
        first = max(0, place - 1)
        last = bisect_right(self._starts, change.end - 1)
        rest = [part for each in self._held[first:last] for part in _without(each, change)]
        self._starts[first:last] = [each.address for each in rest]
        self._held[first:last] = rest

    def at(self, address: int) -> SegmentChange | None:
        """What was taken there and is held."""
        place = bisect_right(self._starts, address) - 1
        held = self._held[place] if place >= 0 else None
        return held if held is not None and address < held.end else None

    def spans(self) -> list[SegmentChange]:
        """By address; of an expandable segment each contiguous mapped range is one, as in a snapshot."""
        found: list[SegmentChange] = []
        for held in self._held:
            before = found[-1] if found else None
            mapped = before is not None and before.action == held.action == _MAPS
            if mapped and before is not None and before.end == held.address:
                found[-1] = before._replace(size_bytes=before.size_bytes + held.size_bytes)
            else:
                found.append(held)
        return found


def segments_at(entries: Entries, changes: Changes, position: int) -> tuple[SegmentInfo, ...]:
    """The segments just after the entry at `position`, by address, each tiled by its blocks."""
    held, alive = Held(), dict[int, Allocation]()
    for index in range(position + 1):
        for change in changes.get(index, ()):
            held.change(change)
        entry = entries[index]
        if isinstance(entry, Allocation):
            alive[entry.address] = entry
        elif isinstance(entry, Free):
            alive.pop(entry.address, None)
    blocks = sorted(alive.values(), key=lambda block: block.address)
    starts = [block.address for block in blocks]
    found = []
    for span in held.spans():
        inside = slice(bisect_right(starts, span.address - 1), bisect_right(starts, span.end - 1))
        found.append(_segment(span, blocks[inside]))
    return tuple(found)


def holes(segments: Sequence[SegmentInfo]) -> Holes:
    """What of the segments is free: fragmentation, where requests do not fit into it."""
    free = [b.size_bytes for each in segments for b in each.blocks if b.state == "inactive"]
    return Holes(len(segments), len(free), sum(free), max(free, default=0))


def _without(held: SegmentChange, given_back: SegmentChange) -> list[SegmentChange]:
    """What is left of what is held."""
    low, high = held.address, held.end
    parts = [(low, min(high, given_back.address)), (max(low, given_back.end), high)]
    return [held._replace(address=a, size_bytes=b - a) for a, b in parts if a < b]


def _segment(span: SegmentChange, inside: Sequence[Allocation]) -> SegmentInfo:
    """PyTorch's small segments are those of requests up to 1 MiB; a block of theirs is never larger."""
    parts: list[BlockInfo] = []
    at = span.address
    for block in inside:
        if at < block.address:
            parts.append(BlockInfo(at, block.address - at, 0, "inactive"))
        parts.append(BlockInfo(block.address, block.size_bytes, block.requested_bytes, "active_allocated"))
        at = block.address + block.size_bytes
    if at < span.end:
        parts.append(BlockInfo(at, span.end - at, 0, "inactive"))
    small = inside[0].size_bytes <= SMALL_SIZE_BYTES if inside else span.size_bytes == SMALL_SEGMENT_BYTES
    return SegmentInfo(
        span.address,
        span.size_bytes,
        span.stream,
        "small" if small else "large",
        span.action == _MAPS,
        tuple(parts),
    )
