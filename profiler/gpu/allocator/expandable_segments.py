"""Segments that grow: address space reserved once, memory mapped into it chunk by chunk."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from profiler.gpu.allocator.blocks import (
    FREE,
    SMALL_SEGMENT_BYTES,
    UNMAPPED,
    Block,
    BlockPool,
    ExpandableSegment,
)
from profiler.gpu.allocator.driver import Driver
from profiler.gpu.allocator.state import AllocatorState, SegmentInfo
from profiler.units import round_up

# Address space of an expandable segment where the device's capacity is unknown.
_DEFAULT_RESERVATION_BYTES = 1024 * 1024**3


class ExpandableSegments:
    """The option expandable_segments:True, on the blocks of `state`."""

    def __init__(
        self,
        state: AllocatorState,
        driver: Driver,
        large_chunk_bytes: int,
    ) -> None:
        self._state = state
        self._driver = driver
        self._large_chunk_bytes = large_chunk_bytes

    def reserve(self, pool: BlockPool, address: int | None = None) -> ExpandableSegment:
        """Reserve address space for 1 1/8 times the device's memory."""
        chunk_bytes = SMALL_SEGMENT_BYTES if pool.is_small else self._large_chunk_bytes
        total_bytes = self._driver.capacity_bytes
        if total_bytes == sys.maxsize:
            total_bytes = _DEFAULT_RESERVATION_BYTES
        size_bytes = round_up(total_bytes + total_bytes // 8, chunk_bytes)
        if address is None:
            address = self._driver.addresses.take(size_bytes)
        return ExpandableSegment(address, size_bytes, chunk_bytes, self._driver.next_rank())

    def try_allocate_block(self, pool: BlockPool, size_bytes: int, stream: int) -> Block | None:
        """Map memory at the lowest address where free and unmapped space together hold the request."""
        block = self.find_block(pool, size_bytes, stream)
        if block.state == UNMAPPED:
            mapped = self.map_block(block, min(block.size_bytes, size_bytes))
            if mapped is None:
                return None
            block = mapped
        while block.size_bytes < size_bytes:
            following = block.next
            assert following is not None
            mapped = self.map_block(following, min(size_bytes - block.size_bytes, following.size_bytes))
            if mapped is None:
                return None
            block = mapped
        pool.remove(block)
        return block

    def find_block(self, pool: BlockPool, size_bytes: int, stream: int) -> Block:
        """The block where the request will begin, free or unmapped; a new reservation if there is none."""
        for _, unmapped in pool.unmapped.get(stream, ()):
            before = unmapped.prev
            first = before if before is not None and before.state == FREE else unmapped
            available_bytes = 0
            block: Block | None = first
            while block is not None and block.state in (FREE, UNMAPPED) and available_bytes < size_bytes:
                available_bytes += block.size_bytes
                block = block.next
            if available_bytes >= size_bytes:
                return first
        expandable = self.reserve(pool)
        new = Block(expandable.address, expandable.size_bytes, stream, pool, expandable, expandable.rank)
        self._state.heads[new.address] = new
        pool.insert_unmapped(new)
        return new

    def best_fit(self, free: Sequence[tuple[int, int, Block]], index: int) -> int:
        """Compare free blocks by the size that they could grow to, from `index` on in search order."""
        while (
            free[index][2].expandable is not None
            and index + 1 < len(free)
            and _size_with_unmapped(free[index + 1][2]) < _size_with_unmapped(free[index][2])
        ):
            index += 1
        return index

    def map_block(self, block: Block, size_bytes: int) -> Block | None:
        """Back the first bytes of an unmapped block, in whole chunks; None if memory is exhausted."""
        pool, expandable = block.pool, block.expandable
        assert expandable is not None
        mapped_bytes = round_up(size_bytes, expandable.chunk_bytes)
        if not self._driver.has_room(mapped_bytes):
            return None
        address = block.address
        pool.remove_unmapped(block)
        if mapped_bytes < block.size_bytes:
            pool.insert_unmapped(block.split(mapped_bytes))
        block.state = FREE
        block, _ = pool.insert_merged(block)
        self._driver.take("segment_map", address, mapped_bytes, pool)
        return block

    def unmap_block(self, block: Block) -> None:
        """Return the whole chunks inside a free block to the driver, and the reservation if it is empty."""
        pool, expandable = block.pool, block.expandable
        assert expandable is not None
        base, chunk_bytes = expandable.address, expandable.chunk_bytes
        start = base + round_up(block.address - base, chunk_bytes)
        end = base + (block.address + block.size_bytes - base) // chunk_bytes * chunk_bytes
        if start >= end:
            return
        pool.remove(block)
        if end < block.address + block.size_bytes:
            pool.insert(block.split(end - block.address))
        if start > block.address:
            chunks = block.split(start - block.address)
            pool.insert(block)
            block = chunks
        block = pool.insert_merged_unmapped(block)
        self._driver.give_back("segment_unmap", start, end - start, pool)
        if not block.is_split():
            pool.remove_unmapped(block)
            del self._state.heads[block.address]

    def restore(self, ranges: Sequence[SegmentInfo], start: int) -> None:
        """Build one reservation from address `start` on that holds the recorded ranges, sorted by address."""
        pool, stream = self._state.pool(ranges[0].segment_type), ranges[0].stream
        expandable = self.reserve(pool, start)
        last: Block | None = None

        def leave_unmapped(until: int) -> None:
            nonlocal last
            begin = start if last is None else last.address + last.size_bytes
            if begin >= until:
                return
            gap = Block(begin, until - begin, stream, pool, expandable, expandable.rank)
            if last is None:
                self._state.heads[begin] = gap
            else:
                last.link(gap)
            pool.insert_unmapped(gap)
            last = gap

        for segment in ranges:
            leave_unmapped(segment.address)
            last = self._state.restore_segment(segment, expandable, last)
        leave_unmapped(expandable.address + expandable.size_bytes)


def _size_with_unmapped(block: Block) -> int:
    following = block.next
    growth_bytes = following.size_bytes if following is not None and following.state == UNMAPPED else 0
    return block.size_bytes + growth_bytes
