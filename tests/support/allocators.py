"""Allocators for the tests: segments from a known address on, and what they hold."""

from typing import Any

from profiler.gpu.allocator import AllocatorSettings, CachingAllocator
from profiler.gpu.allocator.addresses import Addresses, ChosenAddresses

KIB, MIB, GIB = 1024, 1024**2, 1024**3
BASE = 0x1000_0000


def rising_addresses(first_address: int = BASE) -> Addresses:
    """Segments one behind the other, for addresses that are easy to read."""
    next_address = first_address

    def address(size_bytes: int) -> int:
        nonlocal next_address
        result = next_address
        next_address += -(-size_bytes // (2 * MIB)) * 2 * MIB
        return result

    return ChosenAddresses(address)


def make(capacity_bytes: int | None = None, conf: str = "", **options: Any) -> CachingAllocator:
    settings = AllocatorSettings.parse(conf)
    return CachingAllocator(capacity_bytes, settings, addresses=rising_addresses(), **options)


def states(allocator: CachingAllocator) -> list[tuple[int, int, str]]:
    """(offset from BASE, size, state) of all blocks."""
    blocks = [block for segment in allocator.segments() for block in segment.blocks]
    return [(block.address - BASE, block.size_bytes, block.state) for block in blocks]
