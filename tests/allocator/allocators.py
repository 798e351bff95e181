"""Allocators for the tests: segments from a known address on, and what they hold."""

from typing import Any

from profiler.allocator import AllocatorSettings, CachingAllocator, rising_addresses

KIB, MIB, GIB = 1024, 1024**2, 1024**3
BASE = 0x1000_0000


def make(capacity_bytes: int | None = None, conf: str = "", **options: Any) -> CachingAllocator:
    settings = AllocatorSettings.parse(conf)
    return CachingAllocator(capacity_bytes, settings, segment_address=rising_addresses(BASE), **options)


def states(allocator: CachingAllocator) -> list[tuple[int, int, str]]:
    """(offset from BASE, size, state) of all blocks."""
    blocks = [block for segment in allocator.segments() for block in segment.blocks]
    return [(block.address - BASE, block.size_bytes, block.state) for block in blocks]
