"""Where the driver puts new segments: of free blocks of one size the allocator takes the lowest."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from profiler.units import MIB, round_up

_PAGE_BYTES = 2 * MIB
_CHUNK_BYTES = 32 * MIB
_END = 0x7800_0000_0000
_SPAN_BYTES = 0x7000_0000_0000


class Addresses(Protocol):
    """What the allocator asks of the driver beside memory: addresses for segments."""

    def take(self, size_bytes: int) -> int:
        """Of a new segment."""
        ...

    def give_back(self, address: int, size_bytes: int) -> None:
        """A segment was returned: its addresses may be given out again."""
        ...


@dataclass(frozen=True)
class ChosenAddresses:
    """Addresses that a function chooses from the size; none is given out twice by itself."""

    choose: Callable[[int], int]

    def take(self, size_bytes: int) -> int:
        """What the function says."""
        return self.choose(size_bytes)

    def give_back(self, address: int, size_bytes: int) -> None:
        """Nothing: the function is not told."""


class LinuxAddresses:
    """Chunks of 32 MiB, each below the earlier ones; what is left of a chunk is given out from the lowest on.

    A segment that is larger than a chunk takes as many as it needs together. Chunks of which all segments are
    returned are free again, and the highest that is large enough is taken first.

    Evidence: the addresses in recorded traces of Linux machines (docs/virtual_gpu.md): with this order 44 of
    46 recorded runs, and without it 38, reach both recorded peaks to the byte.
    """

    def __init__(self) -> None:
        self._holes: list[tuple[int, int]] = []  # start and size of what is left inside chunks, by start
        self._gaps: list[tuple[int, int]] = [(_END - _SPAN_BYTES, _SPAN_BYTES)]  # between chunks
        self._chunks: list[tuple[int, int]] = []

    def take(self, size_bytes: int) -> int:
        """The low end of the lowest hole that fits; else the high end of the highest gap."""
        size_bytes = round_up(size_bytes, _PAGE_BYTES)
        for index, (start, room) in enumerate(self._holes):
            if room >= size_bytes:
                self._holes[index : index + 1] = _pieces(start + size_bytes, room - size_bytes)
                return start
        chunk_bytes = round_up(size_bytes, _CHUNK_BYTES)
        index = next(i for i in reversed(range(len(self._gaps))) if self._gaps[i][1] >= chunk_bytes)
        start, room = self._gaps[index]
        self._gaps[index : index + 1] = _pieces(start, room - chunk_bytes)
        address = start + room - chunk_bytes
        insort(self._chunks, (address, chunk_bytes))
        for hole in _pieces(address + size_bytes, chunk_bytes - size_bytes):
            insort(self._holes, hole)
        return address

    def give_back(self, address: int, size_bytes: int) -> None:
        """The segment becomes a hole of its chunk, or the chunk a gap if nothing else lies in it."""
        index = bisect_right(self._chunks, (address, _SPAN_BYTES)) - 1
        if index < 0 or address >= sum(self._chunks[index]):
            return  # the segment of a restored state, which was not taken here
        chunk = self._chunks[index]
        end = sum(chunk)
        inside = [hole for hole in self._holes if chunk[0] <= hole[0] < end]
        self._holes = [hole for hole in self._holes if not chunk[0] <= hole[0] < end]
        inside = _merged(sorted([*inside, (address, round_up(size_bytes, _PAGE_BYTES))]))
        if inside == [chunk]:
            del self._chunks[index]
            self._gaps = _merged(sorted([*self._gaps, chunk]))
        else:
            for hole in inside:
                insort(self._holes, hole)


def _pieces(start: int, size_bytes: int) -> list[tuple[int, int]]:
    return [(start, size_bytes)] if size_bytes else []


def _merged(extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours become one; the extents are sorted."""
    found: list[tuple[int, int]] = []
    for start, size_bytes in extents:
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], found[-1][1] + size_bytes)
        else:
            found.append((start, size_bytes))
    return found
