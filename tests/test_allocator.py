"""Each rule of the caching allocator on its own, with addresses and sizes worked out by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from profiler.allocator import (
    AllocatorSettings,
    CachingAllocator,
    DeviceOutOfMemory,
    SegmentEvent,
    rising_addresses,
)

KIB, MIB, GIB = 1024, 1024**2, 1024**3
BASE = 0x1000_0000


def make(capacity_bytes: int | None = None, conf: str = "", **options: Any) -> CachingAllocator:
    settings = AllocatorSettings.parse(conf)
    return CachingAllocator(capacity_bytes, settings, segment_address=rising_addresses(BASE), **options)


def states(allocator: CachingAllocator) -> list[tuple[int, int, str]]:
    """(offset from BASE, size, state) of all blocks."""
    blocks = [block for segment in allocator.segments() for block in segment.blocks]
    return [(block.address - BASE, block.size_bytes, block.state) for block in blocks]


# ---------------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("requested", "block"),
    [(1, 512), (511, 512), (512, 512), (513, 1024), (1000, 1024), (1 * MIB - 1, 1 * MIB), (1 * MIB, 1 * MIB)],
)
def test_requests_are_rounded_to_512_bytes(requested: int, block: int) -> None:
    allocator = make()
    address = allocator.malloc(requested)
    assert allocator.block_size(address) == block
    assert allocator.allocated_bytes == block
    assert allocator.requested_bytes == requested


def test_size_zero_takes_no_block() -> None:
    allocator = make()
    assert allocator.malloc(0) == 0
    allocator.free(0)
    assert allocator.reserved_bytes == 0
    assert allocator.memory_stats()["allocation.all.allocated"] == 0


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        make().malloc(-1)


@pytest.mark.parametrize(
    ("requested", "segment", "pool"),
    [
        (1, 2 * MIB, "small"),
        (1 * MIB, 2 * MIB, "small"),  # the boundary belongs to the small pool
        (1 * MIB + 1, 20 * MIB, "large"),
        (10 * MIB - 512, 20 * MIB, "large"),
        (10 * MIB - 511, 10 * MIB, "large"),  # rounds up to 10 MiB, which is no longer below it
        (10 * MIB, 10 * MIB, "large"),
        (10 * MIB + 1, 12 * MIB, "large"),
        (21 * MIB, 22 * MIB, "large"),
    ],
)
def test_segment_sizes(requested: int, segment: int, pool: str) -> None:
    allocator = make()
    allocator.malloc(requested)
    (only,) = allocator.segments()
    assert (only.address, only.total_size_bytes, only.segment_type) == (BASE, segment, pool)
    assert allocator.reserved_bytes == segment


@pytest.mark.parametrize(
    ("divisions", "requested", "block"),
    [
        (4, 1200 * KIB, 1280 * KIB),  # between 1 and 2 MiB: steps of 256 KiB
        (4, 1280 * KIB, 1280 * KIB),
        (4, 2 * MIB, 2 * MIB),
        (4, 2 * MIB + 1, 2 * MIB + 512 * KIB),
        (8, 100 * MIB, 104 * MIB),  # between 64 and 128 MiB: steps of 8 MiB
        (4, 2048, 2048),  # not above 512 x divisions: to 512 as ever
        (4, 2049, 2560),  # steps of 512
        (8, 1025, 1536),
        (1, 1200 * KIB + 1, 1200 * KIB + 512),  # one division is none
    ],
)
def test_roundup_power2_divisions(divisions: int, requested: int, block: int) -> None:
    assert make(conf=f"roundup_power2_divisions:{divisions}").round_size(requested) == block


def test_roundup_power2_divisions_by_interval() -> None:
    # 256 and smaller: none; 512: two; 1024: four; larger: eight.
    allocator = make(conf="roundup_power2_divisions:[256:1,512:2,1024:4,>:8]")
    assert allocator.round_size(300 * MIB + 1) == 300 * MIB + 512
    assert allocator.round_size(600 * MIB) == 768 * MIB
    assert allocator.round_size(1100 * MIB) == 1280 * MIB
    assert allocator.round_size(2100 * MIB) == 2304 * MIB


# ---------------------------------------------------------------------- splitting


def test_the_small_pool_splits_from_512_bytes() -> None:
    allocator = make()
    assert allocator.malloc(1 * MIB) == BASE
    assert allocator.malloc(1 * MIB - 512) == BASE + 1 * MIB
    assert allocator.malloc(512) == BASE + 2 * MIB - 512
    assert allocator.reserved_bytes == 2 * MIB


@pytest.mark.parametrize(
    ("requested", "block"),
    [
        (11 * MIB, 12 * MIB),  # a rest of exactly 1 MiB stays inside the block
        (11 * MIB - 512, 11 * MIB - 512),  # a rest of 1 MiB + 512 is split off
        (11 * MIB + 200 * KIB, 12 * MIB),
        (10 * MIB + 512 * KIB, 10 * MIB + 512 * KIB),
        (19 * MIB, 20 * MIB),
    ],
)
def test_the_large_pool_splits_above_1_mib(requested: int, block: int) -> None:
    allocator = make()
    address = allocator.malloc(requested)
    assert allocator.block_size(address) == block
    assert allocator.allocated_bytes == block
    assert allocator.requested_bytes == requested


def test_a_request_takes_the_low_part_of_a_split_block() -> None:
    allocator = make()
    assert [allocator.malloc(3 * MIB) for _ in range(3)] == [BASE, BASE + 3 * MIB, BASE + 6 * MIB]
    assert states(allocator)[-1] == (9 * MIB, 11 * MIB, "inactive")


# ---------------------------------------------------------------------- best fit


def holes(*sizes_mib: int) -> tuple[CachingAllocator, list[int]]:
    """An allocator with free blocks of these sizes, each between two allocated ones; their addresses."""
    allocator = make()
    addresses = []
    for size in sizes_mib:
        addresses.append(allocator.malloc(size * MIB))
        allocator.malloc(2 * MIB)
    for address in addresses:
        allocator.free(address)
    return allocator, addresses


def test_best_fit_takes_the_smallest_sufficient_block() -> None:
    allocator, (_, six, four, _) = holes(8, 6, 4, 3)
    assert allocator.malloc(5 * MIB) == six
    assert allocator.malloc(4 * MIB) == four


def test_best_fit_takes_the_lowest_address_among_equals() -> None:
    allocator, (first, second, third) = holes(4, 4, 4)
    assert [allocator.malloc(4 * MIB) for _ in range(3)] == [first, second, third]


def test_blocks_return_to_their_own_stream_only() -> None:
    allocator = make()
    first = allocator.malloc(4 * MIB, stream=0)
    allocator.free(first)
    other = allocator.malloc(4 * MIB, stream=7)
    assert other == BASE + 20 * MIB  # a second segment
    assert allocator.malloc(4 * MIB, stream=0) == first
    assert [segment.stream for segment in allocator.segments()] == [0, 7]


def test_pools_do_not_lend_to_each_other() -> None:
    allocator = make()
    allocator.free(allocator.malloc(5 * MIB))  # 20 MiB free in the large pool
    assert allocator.malloc(1 * MIB) == BASE + 20 * MIB


# ---------------------------------------------------------------------- merging


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 0, 2)])
def test_free_neighbours_merge_in_any_order(order: tuple[int, ...]) -> None:
    allocator = make()
    blocks = [allocator.malloc(4 * MIB) for _ in range(3)]
    for index in order:
        allocator.free(blocks[index])
    assert states(allocator) == [(0, 20 * MIB, "inactive")]
    assert allocator.malloc(20 * MIB) == BASE


def test_an_allocated_block_keeps_its_neighbours_apart() -> None:
    allocator = make()
    left, _, right = (allocator.malloc(4 * MIB) for _ in range(3))
    allocator.free(left)
    allocator.free(right)
    assert states(allocator) == [
        (0, 4 * MIB, "inactive"),
        (4 * MIB, 4 * MIB, "active_allocated"),
        (8 * MIB, 12 * MIB, "inactive"),
    ]


def test_freeing_what_is_not_allocated_is_an_error() -> None:
    allocator = make()
    address = allocator.malloc(512)
    allocator.free(address)
    with pytest.raises(ValueError, match="0x10000000 is not allocated"):
        allocator.free(address)
    with pytest.raises(ValueError, match="is not allocated"):
        allocator.record_stream(address, 1)


# ---------------------------------------------------------------------- other streams


def test_a_block_used_on_another_stream_stays_active_after_its_free() -> None:
    allocator = make()
    address = allocator.malloc(4 * MIB)
    allocator.record_stream(address, stream=3)
    allocator.free(address)
    assert (allocator.allocated_bytes, allocator.active_bytes) == (0, 4 * MIB)
    assert allocator.requested_bytes == 4 * MIB
    assert states(allocator)[0] == (0, 4 * MIB, "active_awaiting_free")
    assert allocator.malloc(4 * MIB) == BASE + 4 * MIB  # its memory is not available yet
    assert allocator.memory_stats()["active_bytes.all.peak"] == 8 * MIB
    assert allocator.memory_stats()["allocated_bytes.all.peak"] == 4 * MIB
    allocator.process_events()
    assert allocator.active_bytes == 4 * MIB
    assert allocator.malloc(4 * MIB) == address


def test_a_block_used_on_its_own_stream_is_free_at_once() -> None:
    allocator = make()
    address = allocator.malloc(4 * MIB, stream=3)
    allocator.record_stream(address, stream=3)
    allocator.free(address)
    assert allocator.active_bytes == 0


def test_empty_cache_waits_for_other_streams() -> None:
    allocator = make()
    address = allocator.malloc(4 * MIB)
    allocator.record_stream(address, stream=3)
    allocator.free(address)
    allocator.empty_cache()
    assert (allocator.active_bytes, allocator.reserved_bytes) == (0, 0)


# ---------------------------------------------------------------------- returning memory


def test_empty_cache_returns_whole_segments_only() -> None:
    events: list[SegmentEvent] = []
    allocator = make(on_segment_event=events.append)
    kept = allocator.malloc(4 * MIB)
    allocator.free(allocator.malloc(8 * MIB))
    allocator.free(allocator.malloc(40 * MIB))
    allocator.free(allocator.malloc(512))
    assert allocator.reserved_bytes == 62 * MIB
    allocator.empty_cache()
    assert allocator.reserved_bytes == 20 * MIB
    assert events[-2:] == [
        ("segment_free", BASE + 20 * MIB, 40 * MIB),  # the large pool first
        ("segment_free", BASE + 60 * MIB, 2 * MIB),
    ]
    assert allocator.block_size(kept) == 4 * MIB


def test_out_of_memory_comes_only_after_cached_segments_are_returned() -> None:
    allocator = make(capacity_bytes=100 * MIB)
    allocator.free(allocator.malloc(60 * MIB))
    kept = allocator.malloc(30 * MIB)  # a part of the 60 MiB
    allocator.free(allocator.malloc(40 * MIB))  # a segment of its own: 100 MiB are reserved now
    assert allocator.reserved_bytes == 100 * MIB
    # 35 MiB do not fit in the 30 MiB hole, but in the 40 MiB segment: nothing is returned for that.
    allocator.free(allocator.malloc(35 * MIB))
    assert allocator.memory_stats()["num_alloc_retries"] == 0
    # 41 MiB fit nowhere; returning the 40 MiB segment leaves room for 40 MiB, not for 42.
    with pytest.raises(DeviceOutOfMemory) as caught:
        allocator.malloc(41 * MIB)
    error = caught.value
    assert (error.requested_bytes, error.reserved_bytes) == (42 * MIB, 60 * MIB)
    assert (error.allocated_bytes, error.capacity_bytes) == (30 * MIB, 100 * MIB)
    assert str(error) == (
        "CUDA out of memory. Tried to allocate 42.00 MiB. GPU has a total capacity of 100.00 MiB of which "
        "40.00 MiB is free. Of the allocated memory 30.00 MiB is allocated by PyTorch, and 30.00 MiB is "
        "reserved by PyTorch but unallocated."
    )
    stats = allocator.memory_stats()
    assert (stats["num_alloc_retries"], stats["num_ooms"], stats["num_device_free"]) == (1, 1, 1)
    # The failure changed nothing else: what fits still fits.
    allocator.malloc(40 * MIB)
    allocator.free(kept)
    assert allocator.reserved_bytes == 100 * MIB


def test_a_retry_after_returning_segments_succeeds() -> None:
    allocator = make(capacity_bytes=100 * MIB)
    allocator.free(allocator.malloc(60 * MIB))
    assert allocator.malloc(80 * MIB) == BASE + 60 * MIB
    stats = allocator.memory_stats()
    assert (stats["num_alloc_retries"], stats["num_ooms"]) == (1, 0)
    assert (allocator.reserved_bytes, stats["reserved_bytes.all.peak"]) == (80 * MIB, 80 * MIB)


def test_the_memory_fraction_limits_reserved_bytes() -> None:
    allocator = make(capacity_bytes=100 * MIB, conf="per_process_memory_fraction:0.5")
    allocator.malloc(40 * MIB)
    with pytest.raises(DeviceOutOfMemory) as caught:
        allocator.malloc(12 * MIB)
    assert caught.value.capacity_bytes == 50 * MIB
    with pytest.raises(ValueError, match="needs capacity_bytes"):
        make(conf="per_process_memory_fraction:0.5")


# ---------------------------------------------------------------------- options


def test_blocks_above_max_split_size_are_kept_whole() -> None:
    allocator = make(conf="max_split_size_mb:40")
    big = allocator.malloc(60 * MIB)
    allocator.free(big)
    # A request below the limit may not cut up a block above it.
    assert allocator.malloc(30 * MIB) == BASE + 60 * MIB
    # One above it takes it whole if less than 20 MiB are lost.
    assert allocator.malloc(41 * MIB) == big
    assert allocator.block_size(big) == 60 * MIB
    allocator.free(big)
    assert allocator.malloc(40 * MIB) == BASE + 90 * MIB  # 20 MiB would be lost
    stats = allocator.memory_stats()
    assert stats["max_split_size"] == 40 * MIB
    assert stats["oversize_segments.current"] == 2
    assert stats["oversize_allocations.allocated"] == 3
    assert stats["oversize_allocations.current"] == 1


def test_with_max_split_size_just_enough_oversize_blocks_are_returned() -> None:
    events: list[SegmentEvent] = []
    allocator = make(150 * MIB, "max_split_size_mb:40", on_segment_event=events.append)
    blocks = [allocator.malloc(size * MIB) for size in (40, 50, 24)]
    for block in blocks:
        allocator.free(block)
    # 114 MiB are cached. 72 MiB need more than any cached block: the largest go first, until it is enough.
    allocator.malloc(72 * MIB)
    assert [event for event in events if event[0] == "segment_free"] == [
        ("segment_free", BASE + 40 * MIB, 50 * MIB),
        ("segment_free", BASE, 40 * MIB),
    ]
    assert allocator.memory_stats()["num_alloc_retries"] == 0
    assert allocator.reserved_bytes == 96 * MIB


def test_with_max_split_size_one_sufficient_block_is_returned() -> None:
    events: list[SegmentEvent] = []
    allocator = make(110 * MIB, "max_split_size_mb:40", on_segment_event=events.append)
    for block in [allocator.malloc(size * MIB) for size in (100, 10)]:
        allocator.free(block)
    allocator.malloc(60 * MIB)  # 100 >= 60 + 20: not used, but returned
    assert events[-2:] == [("segment_free", BASE, 100 * MIB), ("segment_alloc", BASE + 110 * MIB, 60 * MIB)]
    assert allocator.reserved_bytes == 70 * MIB


def test_garbage_collection_returns_the_segments_unused_for_longest() -> None:
    events: list[SegmentEvent] = []
    conf = "garbage_collection_threshold:0.6,per_process_memory_fraction:0.5"
    allocator = make(400 * MIB, conf, on_segment_event=events.append)  # 200 MiB allowed, 120 the threshold
    old, young = allocator.malloc(60 * MIB), allocator.malloc(70 * MIB)
    allocator.free(old)
    for _ in range(4):
        allocator.free(allocator.malloc(512, stream=0))  # small pool: does not age the large one
    young_again = allocator.malloc(65 * MIB)  # neither 60 nor anything else is free: ages `old`
    allocator.free(young)
    assert events[-1] == ("segment_alloc", young_again, 66 * MIB)
    assert ("segment_free", old, 60 * MIB) in events
    assert allocator.reserved_bytes == (70 + 2 + 66) * MIB


def test_no_garbage_is_collected_without_a_memory_fraction() -> None:
    events: list[SegmentEvent] = []
    allocator = make(200 * MIB, "garbage_collection_threshold:0.1", on_segment_event=events.append)
    allocator.free(allocator.malloc(60 * MIB))
    allocator.malloc(70 * MIB)
    assert [event[0] for event in events] == ["segment_alloc", "segment_alloc"]


def test_large_segment_size() -> None:
    allocator = make(conf="large_segment_size_mb:40")
    allocator.malloc(3 * MIB)
    assert allocator.reserved_bytes == 40 * MIB


# ---------------------------------------------------------------------- expandable segments


def test_expandable_segments_grow_in_chunks_and_pack_requests() -> None:
    events: list[SegmentEvent] = []
    allocator = make(8 * GIB, "expandable_segments:True", on_segment_event=events.append)
    addresses = [allocator.malloc(16 * MIB) for _ in range(5)]
    assert addresses == [BASE + index * 16 * MIB for index in range(5)]
    # 16 MiB fit in one chunk of 20; the second needs 12 more, so one more chunk; the fifth fits in four.
    assert events == [("segment_map", BASE + index * 20 * MIB, 20 * MIB) for index in range(4)]
    assert allocator.reserved_bytes == 80 * MIB
    assert states(allocator)[-1] == (64 * MIB, 16 * MIB, "active_allocated")
    stats = allocator.memory_stats()
    assert (stats["segment.all.current"], stats["inactive_split.all.current"]) == (0, 0)
    assert stats["num_device_alloc"] == 4


def test_expandable_segments_of_the_small_pool_have_chunks_of_2_mib() -> None:
    allocator = make(8 * GIB, "expandable_segments:True")
    small, large = allocator.malloc(1000), allocator.malloc(50 * MIB)
    assert allocator.reserved_bytes == 2 * MIB + 60 * MIB
    assert (allocator.block_size(small), allocator.block_size(large)) == (1024, 50 * MIB)
    # Each reserves 1 1/8 of the device: the large one begins 9 GiB behind the small one.
    assert large - small == 9 * GIB
    assert [(each.segment_type, each.is_expandable) for each in allocator.segments()] == [
        ("small", True),
        ("large", True),
    ]


def test_expandable_segments_split_large_blocks_from_512_bytes() -> None:
    allocator = make(8 * GIB, "expandable_segments:True")
    assert allocator.malloc(20 * MIB - 512) == BASE
    assert allocator.block_size(BASE) == 20 * MIB - 512
    assert allocator.malloc(2 * MIB) == BASE + 20 * MIB - 512


def test_expandable_segments_prefer_a_hole_to_the_growing_end() -> None:
    allocator = make(8 * GIB, "expandable_segments:True")
    first, _, last = (allocator.malloc(20 * MIB) for _ in range(3))
    allocator.free(last)  # 20 MiB at the end; with the unmapped space behind, the largest block of all
    allocator.free(first)
    assert allocator.malloc(10 * MIB) == first
    allocator.malloc(10 * MIB)
    assert allocator.malloc(10 * MIB) == last


def test_expandable_segments_compare_blocks_by_the_size_they_could_grow_to() -> None:
    allocator = make(8 * GIB, "expandable_segments:True")
    hole, _, end = allocator.malloc(30 * MIB), allocator.malloc(6 * MIB), allocator.malloc(24 * MIB)
    allocator.free(hole)
    allocator.free(end)
    # The end (24 MiB) is the smaller sufficient block, but it could grow: the hole (30 MiB) is taken.
    assert allocator.malloc(20 * MIB) == hole


def test_expandable_segments_return_whole_free_chunks() -> None:
    events: list[SegmentEvent] = []
    allocator = make(8 * GIB, "expandable_segments:True", on_segment_event=events.append)
    blocks = [allocator.malloc(10 * MIB) for _ in range(10)]  # five chunks
    for block in blocks[1:6]:
        allocator.free(block)
    allocator.empty_cache()
    # Free is [10, 60) MiB; the chunks wholly inside are [20, 60).
    assert events[-1] == ("segment_unmap", BASE + 20 * MIB, 40 * MIB)
    assert allocator.reserved_bytes == 60 * MIB
    ranges = [(each.address - BASE, each.total_size_bytes) for each in allocator.segments()]
    assert ranges == [(0, 20 * MIB), (60 * MIB, 40 * MIB)]
    # A request of 30 MiB starts in the free 10 MiB before the gap and maps just one chunk of it.
    assert allocator.malloc(30 * MIB) == BASE + 10 * MIB
    assert events[-1] == ("segment_map", BASE + 20 * MIB, 20 * MIB)


def test_an_expandable_segment_without_memory_gives_its_addresses_back() -> None:
    events: list[SegmentEvent] = []
    allocator = make(8 * GIB, "expandable_segments:True", on_segment_event=events.append)
    allocator.free(allocator.malloc(50 * MIB))
    allocator.empty_cache()
    assert (allocator.segments(), allocator.reserved_bytes) == ((), 0)
    assert events[-1] == ("segment_unmap", BASE, 60 * MIB)
    assert allocator.malloc(50 * MIB) == BASE + _up(9 * GIB, 20 * MIB)  # a new reservation


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def test_expandable_segments_run_out_of_memory_at_the_capacity() -> None:
    allocator = make(200 * MIB, "expandable_segments:True")  # 240 MiB of addresses
    blocks = [allocator.malloc(20 * MIB) for _ in range(10)]
    allocator.free(blocks[1])
    allocator.free(blocks[3])
    # 40 MiB are free, but not side by side. The holes are unmapped, and their memory goes to the end.
    assert allocator.malloc(40 * MIB) == BASE + 200 * MIB
    assert allocator.reserved_bytes == 200 * MIB
    assert allocator.memory_stats()["num_alloc_retries"] == 1
    with pytest.raises(DeviceOutOfMemory, match=r"Tried to allocate 20\.00 MiB"):
        allocator.malloc(2 * MIB)


def test_expandable_segments_reserve_again_where_the_addresses_run_out() -> None:
    allocator = make(100 * MIB, "expandable_segments:True")  # 112.5 MiB, in chunks of 20: 120
    blocks = [allocator.malloc(20 * MIB) for _ in range(5)]
    allocator.free(blocks[1])
    allocator.free(blocks[3])
    # Behind the last block are addresses for 20 MiB only.
    assert allocator.malloc(40 * MIB) == BASE + 120 * MIB
    assert allocator.reserved_bytes == 100 * MIB


# ---------------------------------------------------------------------- statistics


def test_statistics_of_a_short_run() -> None:
    allocator = make()
    first = allocator.malloc(3 * MIB - 100)
    second = allocator.malloc(700)
    allocator.malloc(11 * MIB)  # takes the 17 MiB rest of the first segment
    allocator.free(first)
    allocator.free(second)
    expected = {
        "allocation.all.current": 1,
        "allocation.all.peak": 3,
        "allocation.all.allocated": 3,
        "allocation.all.freed": 2,
        "allocation.small_pool.peak": 1,
        "allocation.large_pool.current": 1,
        "allocated_bytes.all.current": 11 * MIB,
        "allocated_bytes.all.peak": 14 * MIB + 1024,
        "allocated_bytes.all.allocated": 14 * MIB + 1024,
        "allocated_bytes.small_pool.freed": 1024,
        "active.all.current": 1,
        "active_bytes.all.peak": 14 * MIB + 1024,
        "requested_bytes.all.current": 11 * MIB,
        "requested_bytes.all.peak": 14 * MIB - 100 + 700,
        "requested_bytes.small_pool.peak": 700,
        "reserved_bytes.all.current": 22 * MIB,
        "reserved_bytes.small_pool.current": 2 * MIB,
        "segment.all.current": 2,
        "segment.large_pool.current": 1,
        # [3 MiB free][11 MiB used][6 MiB free]; the small segment is wholly free, hence not split.
        "inactive_split.all.current": 2,
        "inactive_split_bytes.all.current": 9 * MIB,
        "inactive_split.small_pool.current": 0,
        "inactive_split_bytes.small_pool.peak": 2 * MIB - 1024,
        "inactive_split_bytes.large_pool.peak": 17 * MIB,
        "num_alloc_retries": 0,
        "num_ooms": 0,
        "num_device_alloc": 2,
        "num_device_free": 0,
        "max_split_size": -1,
    }
    stats = allocator.memory_stats()
    assert {name: stats[name] for name in expected} == expected


def test_reset_peak_memory_stats_starts_from_the_current_values() -> None:
    allocator = make()
    kept = allocator.malloc(3 * MIB)
    allocator.free(allocator.malloc(5 * MIB))
    assert allocator.memory_stats()["allocated_bytes.all.peak"] == 8 * MIB
    allocator.reset_peak_memory_stats()
    stats = allocator.memory_stats()
    peaks = {name: value for name, value in stats.items() if name.endswith(".peak")}
    assert peaks == {name: stats[name.removesuffix("peak") + "current"] for name in peaks}
    assert stats["allocated_bytes.all.peak"] == 3 * MIB
    assert stats["active_bytes.all.peak"] == 3 * MIB
    allocator.free(kept)
    assert allocator.memory_stats()["allocated_bytes.all.peak"] == 3 * MIB


def test_the_names_of_the_statistics_are_those_of_pytorch() -> None:
    names = ["active", "allocation", "inactive_split", "segment"]
    names += ["active_bytes", "allocated_bytes", "inactive_split_bytes", "requested_bytes", "reserved_bytes"]
    pools = [
        f"{name}.{pool}.{metric}"
        for name in names
        for pool in ("all", "large_pool", "small_pool")
        for metric in ("allocated", "current", "freed", "peak")
    ]
    oversize = [
        f"oversize_{name}.{metric}"
        for name in ("allocations", "segments")
        for metric in ("allocated", "current", "freed", "peak")
    ]
    counters = ["max_split_size", "num_sync_all_streams"]
    counters += ["num_alloc_retries", "num_device_alloc", "num_device_free", "num_oom_rejections", "num_ooms"]
    assert sorted(make().memory_stats()) == sorted(pools + oversize + counters)


# ---------------------------------------------------------------------- restoring


def worked(conf: str = "") -> CachingAllocator:
    """An allocator with blocks of every state in both pools and on two streams."""
    allocator = make(8 * GIB, conf)
    blocks = [
        allocator.malloc(size, stream) for stream in (0, 5) for size in (3 * MIB, 700, 30 * MIB, 9 * MIB)
    ]
    allocator.free(blocks[0])
    allocator.free(blocks[6])
    allocator.record_stream(blocks[3], stream=5)
    allocator.free(blocks[3])
    return allocator


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_restored_segments_behave_like_the_original(conf: str) -> None:
    original, copy = worked(conf), make(8 * GIB, conf)
    copy.restore(original.segments())
    assert copy.segments() == original.segments()
    current = {name: value for name, value in original.memory_stats().items() if name.endswith(".current")}
    assert {name: copy.memory_stats()[name] for name in current} == current
    for allocator in (original, copy):
        allocator.process_events()
        for size in (2 * MIB, 512, 8 * MIB):
            allocator.malloc(size)
    assert copy.segments() == original.segments()
    with pytest.raises(ValueError, match="without segments"):
        copy.restore(original.segments())


# ---------------------------------------------------------------------- settings


def test_settings_are_parsed() -> None:
    settings = AllocatorSettings.parse(
        " expandable_segments:True, max_split_size_mb : 128,garbage_collection_threshold:0.8,"
        "max_non_split_rounding_mb:64,roundup_power2_divisions:[256:1,512:2,>:8],large_segment_size_mb:32,"
    )
    assert settings == AllocatorSettings(
        max_split_size_bytes=128 * MIB,
        garbage_collection_threshold=0.8,
        # up to 256 MiB (2^8): 1, 512 MiB: 2, beyond: 8
        roundup_power2_divisions=(1,) * 9 + (2,) + (8,) * 6,
        large_segment_size_bytes=32 * MIB,
        max_non_split_rounding_bytes=64 * MIB,
        expandable_segments=True,
    )
    assert AllocatorSettings.parse("") == AllocatorSettings()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max_split:1", "unknown allocator option 'max_split'"),
        ("max_split_size_mb", "expected key:value"),
        ("max_split_size_mb:", "expected key:value"),
        ("max_split_size_mb:x", "whole number of MiB, got 'x'"),
        ("backend:cudaMallocAsync", "not modelled"),
        ("roundup_power2_divisions:[256:2", "unbalanced brackets"),
        ("garbage_collection_threshold:many", "must be a number"),
        ("expandable_segments:true", "must be True or False, got 'true'"),
    ],
)
def test_bad_settings_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("[", r"\[")):
        AllocatorSettings.parse(text)


def _accepts(parse: Callable[[str], object], text: str) -> bool:
    try:
        parse(text)
    except (ValueError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(
    "text",
    [
        "max_split_size_mb:19",
        "max_split_size_mb:20",
        "large_segment_size_mb:40,max_split_size_mb:30",
        "max_split_size_mb:30,large_segment_size_mb:40",
        "max_split_size_mb:40,large_segment_size_mb:40",
        "large_segment_size_mb:10",
        "large_segment_size_mb:11",
        "max_non_split_rounding_mb:19",
        "max_non_split_rounding_mb:20",
        "garbage_collection_threshold:0",
        "garbage_collection_threshold:0.5",
        "garbage_collection_threshold:1.0",
        "roundup_power2_divisions:0",
        "roundup_power2_divisions:1",
        "roundup_power2_divisions:3",
        "roundup_power2_divisions:16",
        "roundup_power2_divisions:[256:3]",
        "roundup_power2_divisions:[100:2]",
        "roundup_power2_divisions:[256:0,>:2]",
        "expandable_segments:False",
    ],
)
def test_the_same_values_are_refused_as_by_pytorch(text: str) -> None:
    torch = pytest.importorskip("torch")
    parse = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if parse is None:
        pytest.skip("this version of PyTorch does not expose its parser")
    parse("large_segment_size_mb:20")  # PyTorch keeps the last value otherwise
    try:
        assert _accepts(AllocatorSettings.parse, text) == _accepts(parse, text)
    finally:
        parse("large_segment_size_mb:20,expandable_segments:False")
