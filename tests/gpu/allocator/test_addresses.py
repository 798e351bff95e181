"""Where segments lie."""

from profiler.gpu.allocator import CachingAllocator
from tests.support.allocators import MIB


def test_by_default_new_segments_lie_in_chunks_below_the_earlier_ones() -> None:
    """So that of two equal free blocks the younger one is taken, as on real GPUs."""
    allocator = CachingAllocator()
    older, younger = allocator.malloc(20 * MIB), allocator.malloc(21 * MIB)
    assert older - younger == 32 * MIB
    assert allocator.malloc(1) == younger + 22 * MIB  # in what is left of the lower chunk
    equal = allocator.malloc(20 * MIB)
    assert equal == younger - 32 * MIB
    allocator.free(older)
    allocator.free(equal)
    assert allocator.malloc(20 * MIB) == equal


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
