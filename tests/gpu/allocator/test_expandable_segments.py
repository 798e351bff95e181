"""Segments that grow, with addresses and chunks worked out by hand."""

import pytest

from profiler.gpu.allocator import DeviceOutOfMemory, SegmentEvent
from tests.support.allocators import BASE, GIB, MIB, make, states

pytestmark = pytest.mark.quick


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
