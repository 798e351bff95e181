"""Blocks of device memory, and the pools of those that are not in use (`Block` and `BlockPool`)."""

from __future__ import annotations

from bisect import bisect_left, insort

from profiler.gpu.allocator.statistics import Statistics
from profiler.units import MIB

# c10/core/AllocatorConfig.h
MIN_BLOCK_SIZE_BYTES = 512
SMALL_SIZE_BYTES = 1 * MIB  # the largest request of the small pool
SMALL_SEGMENT_BYTES = 2 * MIB
ROUND_LARGE_BYTES = 2 * MIB  # a segment as large as its request is a multiple of this

# States of a block. Unmapped: address space of an expandable segment without memory behind it.
ALLOCATED, AWAITING_FREE, FREE, UNMAPPED = range(4)


class ExpandableSegment:
    """A reservation of address space; physical memory is mapped into it in chunks."""

    __slots__ = ("address", "chunk_bytes", "rank", "size_bytes")

    def __init__(self, address: int, size_bytes: int, chunk_bytes: int, rank: int) -> None:
        self.rank = rank
        self.address = address
        self.size_bytes = size_bytes
        self.chunk_bytes = chunk_bytes


class Block:
    """A part of a segment, linked to its neighbours there. A new one is free and in no pool."""

    __slots__ = (
        "address",
        "expandable",
        "next",
        "pending_streams",
        "pool",
        "prev",
        "rank",
        "requested_bytes",
        "searches_before",
        "size_bytes",
        "state",
        "stream",
    )

    def __init__(
        self,
        address: int,
        size_bytes: int,
        stream: int,
        pool: BlockPool,
        expandable: ExpandableSegment | None,
        rank: int = 0,
    ) -> None:
        self.address = address
        self.rank = rank  # of its segment: of free blocks of one size the least rank and address is taken
        self.size_bytes = size_bytes
        self.requested_bytes = 0
        self.stream = stream
        self.pool = pool
        self.state = FREE
        self.prev: Block | None = None
        self.next: Block | None = None
        self.expandable = expandable
        self.pending_streams: set[int] | None = None  # other streams that use it (record_stream)
        self.searches_before: int  # of the pool when the block became free; its age, for garbage collection

    def is_split(self) -> bool:
        """It shares its segment with other blocks."""
        return self.prev is not None or self.next is not None

    def split(self, size_bytes: int) -> Block:
        """Cut the block to this size; what is behind becomes the new block that is returned."""
        address, rest_bytes = self.address + size_bytes, self.size_bytes - size_bytes
        rest = Block(address, rest_bytes, self.stream, self.pool, self.expandable, self.rank)
        self.size_bytes = size_bytes
        self.link(rest)
        return rest

    def link(self, following: Block) -> None:
        """Put a new block behind this one."""
        following.prev, following.next = self, self.next
        if self.next is not None:
            self.next.prev = following
        self.next = following

    def absorb_next(self) -> None:
        """Join the block behind into this one, so that the head of a segment stays the same."""
        absorbed = self.next
        assert absorbed is not None
        self.size_bytes += absorbed.size_bytes
        self.next = absorbed.next
        if absorbed.next is not None:
            absorbed.next.prev = self


class BlockPool:
    """The blocks of the small or of the large pool that are not in use, per stream in search order.

    `counted_in` are the statistics of the pool and `total`, those of both pools together.
    """

    __slots__ = ("counted_in", "free", "is_small", "searches", "statistics", "unmapped")

    def __init__(self, is_small: bool, total: Statistics) -> None:
        self.is_small = is_small
        self.free: dict[
            int, list[tuple[int, int, Block]]
        ] = {}  # stream -> sorted (size, rank and address, block)
        self.unmapped: dict[int, list[tuple[int, Block]]] = {}  # stream -> sorted (address, block)
        self.statistics = Statistics()
        self.counted_in = (self.statistics, total)
        self.searches = 0

    def count_hand_out(self, block: Block, taken_bytes: int, rest: Block | None) -> None:
        """Count a block that was cut from `taken_bytes` of free memory, of which `rest` is left."""
        end = rest or block
        was_split = block.prev is not None or end.next is not None
        inactive_blocks = (rest is not None) - was_split
        inactive_bytes = (rest.size_bytes if rest is not None else 0) - taken_bytes * was_split
        for statistics in self.counted_in:
            statistics.hand_out(block.size_bytes, block.requested_bytes)
            if inactive_bytes and block.expandable is None:
                statistics.change_inactive_split(inactive_blocks, inactive_bytes)

    def count_merge(self, block: Block, freed_bytes: int, merged_blocks: int) -> None:
        """Count a block that grew out of `freed_bytes` and so many free neighbours."""
        is_split = block.is_split()
        inactive_bytes = freed_bytes if is_split else freed_bytes - block.size_bytes
        for statistics in self.counted_in:
            statistics.change_inactive_split(is_split - merged_blocks, inactive_bytes)

    def insert(self, block: Block) -> None:
        block.searches_before = self.searches
        free = self.free.get(block.stream)
        if free is None:
            free = self.free[block.stream] = []
        insort(free, (block.size_bytes, block.rank + block.address, block))

    def remove(self, block: Block) -> None:
        free = self.free[block.stream]
        del free[bisect_left(free, (block.size_bytes, block.rank + block.address))]

    def insert_unmapped(self, block: Block) -> None:
        block.state = UNMAPPED
        insort(self.unmapped.setdefault(block.stream, []), (block.address, block))

    def remove_unmapped(self, block: Block) -> None:
        unmapped = self.unmapped[block.stream]
        del unmapped[bisect_left(unmapped, (block.address,))]

    def insert_merged(self, block: Block) -> tuple[Block, int]:
        """Insert a free block, merged with its free neighbours (`try_merge_blocks`); and how many they were.

        Memory that is mapped merges with mapped memory only.
        """
        merged_blocks = 0
        previous, following = block.prev, block.next
        if previous is not None and previous.state == FREE:
            self.remove(previous)
            previous.absorb_next()
            block = previous
            merged_blocks = 1
        if following is not None and following.state == FREE:
            self.remove(following)
            block.absorb_next()
            merged_blocks += 1
        self.insert(block)
        return block, merged_blocks

    def insert_merged_unmapped(self, block: Block) -> Block:
        """The same for address space without memory behind it."""
        previous, following = block.prev, block.next
        if previous is not None and previous.state == UNMAPPED:
            self.remove_unmapped(previous)
            previous.absorb_next()
            block = previous
        if following is not None and following.state == UNMAPPED:
            self.remove_unmapped(following)
            block.absorb_next()
        self.insert_unmapped(block)
        return block

    def free_blocks(self) -> list[Block]:
        """All free blocks, in the order (stream, size, address) of PyTorch's set."""
        return [block for stream in sorted(self.free) for _, _, block in self.free[stream]]
