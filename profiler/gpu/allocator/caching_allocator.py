"""The policy of the caching allocator (`DeviceCachingAllocator`): which block serves a request."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping

from profiler.gpu.allocator.addresses import Addresses
from profiler.gpu.allocator.blocks import (
    ALLOCATED,
    AWAITING_FREE,
    FREE,
    MIN_BLOCK_SIZE_BYTES,
    ROUND_LARGE_BYTES,
    SMALL_SEGMENT_BYTES,
    SMALL_SIZE_BYTES,
    Block,
    BlockPool,
)
from profiler.gpu.allocator.driver import DeviceOutOfMemory, Driver, SegmentEvent
from profiler.gpu.allocator.expandable_segments import ExpandableSegments
from profiler.gpu.allocator.settings import MIN_LARGE_ALLOCATION_BYTES, ROUNDUP_INTERVALS, AllocatorSettings
from profiler.gpu.allocator.state import AllocatorState, SegmentInfo
from profiler.gpu.allocator.statistics import COUNTERS, STATISTICS, Stat
from profiler.units import round_up


class CachingAllocator:
    """One device's caching allocator.

    `capacity_bytes` is the memory that the driver can give to this process (None: no limit).
    `addresses` says where new segments lie, by default as the driver for Linux does. `on_segment_event` is
    told (action, address, size in bytes) of memory from and to the driver, in the words of a memory snapshot.
    `oldest_first`: equal free blocks are taken from the oldest segment, as since torch 2.12 (pull request
    183591), not by address. `counts=False` saves a third of the time: only reserved memory is counted.
    """

    def __init__(
        self,
        capacity_bytes: int | None = None,
        settings: AllocatorSettings | None = None,
        *,
        addresses: Addresses | None = None,
        on_segment_event: Callable[[SegmentEvent], None] | None = None,
        counts: bool = True,
        oldest_first: bool = True,
    ) -> None:
        self.settings = settings = settings or AllocatorSettings()
        self.capacity_bytes = capacity_bytes
        self._state = state = AllocatorState()
        self.driver = Driver(
            capacity_bytes, settings.memory_fraction, state.total, addresses, on_segment_event, oldest_first
        )
        self._expandable = ExpandableSegments(state, self.driver, settings.large_segment_size_bytes)
        self._max_split = settings.max_split_size_bytes or sys.maxsize
        self._max_rounding = settings.max_non_split_rounding_bytes or settings.large_segment_size_bytes
        self._divisions = settings.roundup_power2_divisions
        self._collects_garbage = (
            settings.memory_fraction < 1.0 and settings.garbage_collection_threshold > 0.0
        )
        self._oversize_allocations, self._oversize_segments = Stat(), Stat()
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._counts = counts
        # What every malloc and free looks up.
        self._small, self._large, self._total = state.small, state.large, state.total
        self._in_use = state.in_use

    # ------------------------------------------------------------------ the interface

    @property
    def allocated_bytes(self) -> int:
        """torch.cuda.memory_allocated(): bytes of blocks handed out, rounding included."""
        return self._total.allocated_bytes

    @property
    def active_bytes(self) -> int:
        """Allocated bytes and those of freed blocks that another stream may still use."""
        return self._total.allocated_bytes + self._total.awaiting_bytes

    @property
    def requested_bytes(self) -> int:
        """Bytes asked for in active blocks, without rounding."""
        return self._total.requested_bytes

    @property
    def reserved_bytes(self) -> int:
        """torch.cuda.memory_reserved(): bytes taken from the driver."""
        return self._total.reserved_bytes.current

    def malloc(self, size_bytes: int, stream: int = 0) -> int:
        """Allocate on `stream` and return the address; 0 for size 0, which takes no block.

        Raises DeviceOutOfMemory where the GPU would, ValueError for a negative size.
        """
        if size_bytes < 0:
            raise ValueError(f"cannot allocate {size_bytes} bytes")
        return self.allocate(size_bytes, stream).address if size_bytes else 0

    def allocate(self, size_bytes: int, stream: int = 0) -> Block:
        """As `malloc`, of at least one byte, but returns the block."""
        size = self.round_size(size_bytes)
        pool = self._small if size <= SMALL_SIZE_BYTES else self._large
        block = self._get_free_block(pool, size, stream) or self._new_block(pool, size, stream)
        taken_bytes, rest = block.size_bytes, None
        if taken_bytes > size and self._should_split(block, size):
            # The request takes the low addresses, the rest stays free.
            rest = block.split(size)
            pool.insert(rest)
        block.state = ALLOCATED
        block.requested_bytes = size_bytes
        self._in_use[block.address] = block
        if self._counts:
            pool.count_hand_out(block, taken_bytes, rest)
        if block.size_bytes >= self._max_split:
            self._oversize_allocations.change(1)
        return block

    def free(self, address: int) -> None:
        """Free an address that `malloc` returned (0 is ignored, as a null pointer).

        A block with a recorded use on another stream stays active until `process_events`. Raises ValueError
        for an address that is not allocated.
        """
        if address != 0:
            self.release(address)

    def release(self, address: int) -> int:
        """As `free`, of a block; returns its bytes."""
        block = self._in_use.pop(address, None)
        if block is None:
            raise ValueError(f"address {address:#x} is not allocated")
        size_bytes, pool = block.size_bytes, block.pool
        if size_bytes >= self._max_split:
            self._oversize_allocations.change(-1)
        if block.pending_streams:
            for statistics in pool.counted_in:
                statistics.hold(size_bytes)
            block.state = AWAITING_FREE
            self._state.awaiting[address] = block
        else:
            if self._counts:
                for statistics in pool.counted_in:
                    statistics.take_back(size_bytes, block.requested_bytes)
            self._free_block(block)
        return size_bytes

    def record_stream(self, address: int, stream: int) -> None:
        """Note that `stream` uses the block: once freed, it stays active until `process_events`.

        Its own stream needs no note. Raises ValueError for an address that is not allocated.
        """
        block = self._in_use.get(address)
        if block is None:
            raise ValueError(f"address {address:#x} is not allocated")
        if stream != block.stream:
            block.pending_streams = (block.pending_streams or set()) | {stream}

    def process_events(self, addresses: Iterable[int] | None = None) -> None:
        """The GPU has finished the uses on other streams of these freed blocks (None: of all of them).

        PyTorch asks the GPU at each malloc; here the caller says when, for it alone knows the GPU's time.
        """
        awaiting = self._state.awaiting
        for address in list(awaiting) if addresses is None else addresses:
            block = awaiting.pop(address, None)
            if block is None:
                continue  # empty_cache has already waited for it
            block.pending_streams = None
            for statistics in block.pool.counted_in:
                statistics.take_back_held(block.size_bytes, block.requested_bytes)
            self._free_block(block)

    def empty_cache(self) -> None:
        """torch.cuda.empty_cache(): wait for other streams, return all wholly free segments or chunks."""
        self._counters["num_sync_all_streams"] += 1
        self.process_events()
        for pool in (self._large, self._small):
            blocks = pool.free_blocks()
            for block in blocks:
                if block.expandable is None and not block.is_split():
                    self._release_block(block)
            for block in blocks:
                if block.expandable is not None:
                    self._expandable.unmap_block(block)

    def block_size(self, address: int) -> int:
        """Bytes of the block at this allocated address. Raises KeyError if there is none."""
        return self._in_use[address].size_bytes

    def reset_peak_memory_stats(self) -> None:
        """Set every peak to the current value."""
        for statistics in (self._total, self._small.statistics, self._large.statistics):
            statistics.reset_peaks()
        for stat in (self._oversize_allocations, self._oversize_segments):
            stat.peak = stat.current

    def memory_stats(self) -> dict[str, int]:
        """The statistics under the names of torch.cuda.memory_stats()."""
        small, large = self._small.statistics, self._large.statistics
        pools = {"all": self._total, "small_pool": small, "large_pool": large}
        result: dict[str, int] = {}
        for name in STATISTICS:
            for pool_name, statistics in pools.items():
                result |= statistics.stat(name).named(f"{name}.{pool_name}")
        result |= self._oversize_allocations.named("oversize_allocations")
        result |= self._oversize_segments.named("oversize_segments")
        result |= self._counters
        result["num_device_alloc"] = self.driver.allocations
        result["num_device_free"] = self.driver.frees
        result["max_split_size"] = self.settings.max_split_size_bytes or -1
        return dict(sorted(result.items()))

    def segments(self) -> tuple[SegmentInfo, ...]:
        """The segments by address, with their blocks, as torch.cuda.memory_snapshot() lists them.

        Of an expandable segment each contiguous mapped range is one.
        """
        return self._state.segments()

    def restore(
        self,
        segments: Iterable[SegmentInfo],
        reservation_starts: Mapping[tuple[int, str], int] | None = None,
    ) -> None:
        """Start from recorded segments (an empty allocator only); the inverse of `segments`.

        Their bytes count as current and peak, but not as events: the device counters stay at 0.
        The expandable ranges of a stream and pool are taken as one reservation that begins at the lowest, or
        at `reservation_starts[stream, segment_type]` where that is known to be lower still.
        Raises ValueError if the allocator is in use or the blocks of a segment do not tile it.
        """
        if self._state.heads:
            raise ValueError("only an allocator without segments can be restored")
        reservations: dict[tuple[int, str], list[SegmentInfo]] = {}
        for segment in sorted(segments, key=lambda each: each.address):
            if segment.is_expandable:
                reservations.setdefault((segment.stream, segment.segment_type), []).append(segment)
            else:
                self._state.restore_segment(segment, None, None)
        for key, ranges in reservations.items():
            first = ranges[0].address
            self._expandable.restore(ranges, min((reservation_starts or {}).get(key, first), first))

    # ------------------------------------------------------------------ the rules

    def round_size(self, size_bytes: int) -> int:
        """Bytes that a request is rounded up to (its block may still be larger, see `_should_split`)."""
        if size_bytes < MIN_BLOCK_SIZE_BYTES:
            return MIN_BLOCK_SIZE_BYTES
        if self._divisions:
            divisions = self._divisions[min(max(size_bytes.bit_length() - 21, 0), ROUNDUP_INTERVALS - 1)]
            if divisions > 1 and size_bytes > MIN_BLOCK_SIZE_BYTES * divisions:
                power_of_two = 1 << (size_bytes.bit_length() - 1)
                return round_up(size_bytes, power_of_two // divisions)
        return (size_bytes + 511) & ~511

    def _get_allocation_size(self, size: int) -> int:
        """Bytes of a new segment for a request of this rounded size."""
        if size <= SMALL_SIZE_BYTES:
            return SMALL_SEGMENT_BYTES
        if size < MIN_LARGE_ALLOCATION_BYTES:
            return self.settings.large_segment_size_bytes
        return round_up(size, ROUND_LARGE_BYTES)

    def _should_split(self, block: Block, size: int) -> bool:
        rest = block.size_bytes - size
        if block.pool.is_small or self.settings.expandable_segments:
            return rest >= MIN_BLOCK_SIZE_BYTES
        return rest > SMALL_SIZE_BYTES and size < self._max_split

    def _get_free_block(self, pool: BlockPool, size: int, stream: int) -> Block | None:
        """Best fit: the smallest sufficient block of this stream, of equal ones the lowest address."""
        if self._collects_garbage:
            pool.searches += 1
        free = pool.free.get(stream)
        if not free:
            return None
        index = bisect_left(free, (size,))
        if index == len(free):
            return None
        block = free[index][2]
        if block.expandable is not None:
            if self.settings.expandable_segments:
                index = self._expandable.best_fit(free, index)
            else:  # restored blocks, but the option is off
                while index < len(free) and free[index][2].expandable is not None:
                    index += 1
                if index == len(free):
                    return None
            block = free[index][2]
        # A block too large to be split serves only requests that are as large, or nearly.
        if size < self._max_split:
            if block.size_bytes >= self._max_split:
                return None
        elif block.size_bytes >= size + self._max_rounding:
            return None
        del free[index]
        return block

    def _new_block(self, pool: BlockPool, size: int, stream: int) -> Block:
        """Take memory from the driver; if it has none left, return cached segments to it and try again."""
        if self._collects_garbage:
            self._garbage_collect_cached_blocks()
        segment_bytes = self._get_allocation_size(size)
        block = self._alloc_block(pool, size, segment_bytes, stream)
        if block is None and self._release_available_cached_blocks(pool, size, stream):
            block = self._alloc_block(pool, size, segment_bytes, stream)
        if block is None:
            self.empty_cache()
            self._counters["num_alloc_retries"] += 1
            block = self._alloc_block(pool, size, segment_bytes, stream)
        if block is None:
            self._counters["num_ooms"] += 1
            limit = min(self.driver.allowed_bytes, self.driver.capacity_bytes)
            raise DeviceOutOfMemory(segment_bytes, self.reserved_bytes, self.allocated_bytes, limit)
        return block

    def _alloc_block(self, pool: BlockPool, size: int, segment_bytes: int, stream: int) -> Block | None:
        if not self.driver.is_allowed(segment_bytes):
            return None
        if self.settings.expandable_segments:
            return self._expandable.try_allocate_block(pool, size, stream)
        if not self.driver.has_room(segment_bytes):
            return None
        address = self.driver.addresses.take(segment_bytes)
        block = Block(address, segment_bytes, stream, pool, None, self.driver.next_rank())
        self._state.heads[address] = block
        for statistics in pool.counted_in:
            statistics.segment.change(1)
        if segment_bytes >= self._max_split:
            self._oversize_segments.change(1)
        self.driver.take("segment_alloc", address, segment_bytes, pool)
        return block

    def _free_block(self, block: Block) -> None:
        """Give the block to its pool, merged with free neighbours."""
        pool = block.pool
        block.requested_bytes = 0
        block.state = FREE
        freed_bytes = block.size_bytes
        block, merged_blocks = pool.insert_merged(block)
        if self._counts and block.expandable is None:
            pool.count_merge(block, freed_bytes, merged_blocks)

    def _release_block(self, block: Block) -> None:
        """Return a wholly free segment to the driver."""
        pool = block.pool
        pool.remove(block)
        del self._state.heads[block.address]
        for statistics in pool.counted_in:
            statistics.segment.change(-1)
        if block.size_bytes >= self._max_split:
            self._oversize_segments.change(-1)
        self.driver.give_back("segment_free", block.address, block.size_bytes, pool)
        self.driver.addresses.give_back(block.address, block.size_bytes)

    def _release_available_cached_blocks(self, pool: BlockPool, size: int, stream: int) -> bool:
        """Return oversize blocks to the driver, just enough for the request; True if that may help."""
        if self._max_split == sys.maxsize:
            return False
        needed = max(size, self._max_split)
        free = pool.free.get(stream, [])
        index = bisect_left(free, (needed,))
        if index < len(free) and free[index][2].expandable is None:
            self._release_block(free[index][2])
            return True
        released = 0
        for block in [entry[2] for entry in free[:index]][::-1]:
            if released >= needed or block.size_bytes < self._max_split:
                break
            if block.expandable is None:
                released += block.size_bytes
                self._release_block(block)
        return released >= needed

    def _garbage_collect_cached_blocks(self) -> None:
        """Return whole cached segments that were not reused for longest, down to the threshold."""
        threshold = int(self.settings.garbage_collection_threshold * self.driver.allowed_bytes)
        to_reclaim = self.reserved_bytes - threshold
        if to_reclaim <= 0:
            return
        pool = self._large
        whole = [block for block in pool.free_blocks() if not block.is_split()]
        reclaimed = 0
        while whole and reclaimed < to_reclaim:
            average_age = sum(pool.searches - block.searches_before for block in whole) / len(whole)
            old = [
                block
                for block in whole
                if block.expandable is None and pool.searches - block.searches_before >= average_age
            ]
            if not old:
                return
            for block in old:
                reclaimed += block.size_bytes
                self._release_block(block)
            whole = [block for block in whole if block not in old]
