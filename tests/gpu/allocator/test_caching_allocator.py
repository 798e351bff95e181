"""Each rule of the policy on its own, with addresses and sizes worked out by hand."""

import pytest

from profiler.gpu.allocator import CachingAllocator, DeviceOutOfMemory, SegmentEvent
from tests.support.allocators import BASE, KIB, MIB, make, states

pytestmark = pytest.mark.quick

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
