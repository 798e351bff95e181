"""Where segments lie."""

import pytest

from profiler.gpu.allocator import CachingAllocator
from tests.support.allocators import MIB


def test_by_default_new_segments_lie_in_chunks_below_the_earlier_ones() -> None:
    allocator = CachingAllocator()
    older, younger = allocator.malloc(20 * MIB), allocator.malloc(21 * MIB)
    assert older - younger == 32 * MIB
    assert allocator.malloc(1) == younger + 22 * MIB  # in what is left of the lower chunk
    assert allocator.malloc(20 * MIB) == younger - 32 * MIB


@pytest.mark.parametrize(("oldest_first", "order"), [(True, [0, 1, 2]), (False, [2, 1, 0])])
def test_equal_blocks_are_taken_from_the_oldest_segment_or_by_address(oldest_first, order) -> None:
    """Since torch 2.12 the oldest, in which order ever they were freed; before, the lowest: the youngest."""
    allocator = CachingAllocator(oldest_first=oldest_first)
    made = [allocator.malloc(30 * MIB) for _ in range(3)]
    for index in (1, 2, 0):
        allocator.free(made[index])
    assert [allocator.malloc(30 * MIB) for _ in range(3)] == [made[index] for index in order]


def test_rests_of_one_segment_are_taken_by_address() -> None:
    """Ten blocks of 2 MiB fill a segment of 20: of the older one first, there the lowest first."""
    allocator = CachingAllocator()
    made = [allocator.malloc(2 * MIB) for _ in range(20)]
    for index in (3, 5, 1, 13, 15, 11):
        allocator.free(made[index])
    assert [made.index(allocator.malloc(2 * MIB)) for _ in range(6)] == [1, 3, 5, 11, 13, 15]


def test_chunks_whose_segments_are_returned_are_given_out_again() -> None:
    """Two chunks become one gap of 64 MiB, which a segment of 40 MiB takes whole: 24 MiB are left."""
    allocator = CachingAllocator()
    first, second = allocator.malloc(20 * MIB), allocator.malloc(21 * MIB)
    allocator.free(first)
    allocator.free(second)
    allocator.empty_cache()
    large = allocator.malloc(40 * MIB)
    assert large == second
    assert allocator.malloc(24 * MIB) == large + 40 * MIB
