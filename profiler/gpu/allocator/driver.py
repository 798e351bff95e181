"""The driver's side: device memory taken and given back, and the end of memory."""

from __future__ import annotations

import sys
from collections.abc import Callable

from profiler.gpu.allocator.addresses import Addresses, LinuxAddresses
from profiler.gpu.allocator.blocks import BlockPool
from profiler.gpu.allocator.statistics import Statistics
from profiler.units import GIB, KIB, MIB

# (action, address, size in bytes) of segment_alloc, segment_free, segment_map, segment_unmap.
SegmentEvent = tuple[str, int, int]


class DeviceOutOfMemory(RuntimeError):
    """The device has no room for a request, even after every releasable cached segment was returned."""

    def __init__(
        self, requested_bytes: int, reserved_bytes: int, allocated_bytes: int, capacity_bytes: int
    ) -> None:
        self.requested_bytes = requested_bytes
        self.reserved_bytes = reserved_bytes
        self.allocated_bytes = allocated_bytes
        self.capacity_bytes = capacity_bytes
        super().__init__(
            f"CUDA out of memory. Tried to allocate {_format_size(requested_bytes)}. GPU has a total "
            f"capacity of {_format_size(capacity_bytes)} of which "
            f"{_format_size(max(capacity_bytes - reserved_bytes, 0))} is free. Of the allocated memory "
            f"{_format_size(allocated_bytes)} is allocated by PyTorch, and "
            f"{_format_size(reserved_bytes - allocated_bytes)} is reserved by PyTorch but unallocated."
        )


def _format_size(size_bytes: int) -> str:
    """PyTorch's format_size (c10/core/CachingDeviceAllocator.cpp)."""
    if size_bytes <= KIB:
        return f"{size_bytes} bytes"
    for unit, name in ((KIB, "KiB"), (MIB, "MiB")):
        if size_bytes <= unit * KIB:
            return f"{size_bytes / unit:.2f} {name}"
    return f"{size_bytes / GIB:.2f} GiB"


class Driver:
    """Counts what the allocator holds of the device, and tells of every change.

    `capacity_bytes` is what the driver can give (None: no limit), `memory_fraction` how much of it PyTorch
    allows itself (`torch.cuda.set_per_process_memory_fraction`). `addresses` says where new segments lie.
    """

    def __init__(
        self,
        capacity_bytes: int | None,
        memory_fraction: float,
        total: Statistics,
        addresses: Addresses | None,
        on_segment_event: Callable[[SegmentEvent], None] | None,
        oldest_first: bool,
    ) -> None:
        self._segments, self._oldest_first = 0, oldest_first
        self.addresses = addresses or LinuxAddresses()
        self.capacity_bytes = sys.maxsize if capacity_bytes is None else capacity_bytes
        self.allowed_bytes = sys.maxsize
        if memory_fraction < 1.0:
            if capacity_bytes is None:
                raise ValueError("a memory fraction needs capacity_bytes")
            self.allow(memory_fraction)
        self.allocations = self.frees = 0
        self._reserved_bytes = total.reserved_bytes
        self._on_segment_event = on_segment_event or (lambda event: None)

    def next_rank(self) -> int:
        """Of a new segment, above all addresses: its number; 0 where segments are not told apart."""
        self._segments += 1
        return self._segments << 64 if self._oldest_first else 0

    def allow(self, memory_fraction: float) -> None:
        """torch.cuda.set_per_process_memory_fraction. Raises ValueError outside of [0, 1]."""
        if not 0.0 <= memory_fraction <= 1.0:
            raise ValueError(f"Invalid fraction value: {memory_fraction}. Allowed range: 0~1")
        self.allowed_bytes = int(memory_fraction * self.capacity_bytes)

    def is_allowed(self, size_bytes: int) -> bool:
        """So many bytes more stay within the memory fraction."""
        return self._reserved_bytes.current + size_bytes <= self.allowed_bytes

    def has_room(self, size_bytes: int) -> bool:
        """The device has so many bytes more."""
        return self._reserved_bytes.current + size_bytes <= self.capacity_bytes

    def take(self, action: str, address: int, size_bytes: int, pool: BlockPool) -> None:
        """`segment_alloc` (cudaMalloc) or `segment_map` (cuMemMap)."""
        self.allocations += 1
        for statistics in pool.counted_in:
            statistics.reserved_bytes.change(size_bytes)
        self._on_segment_event((action, address, size_bytes))

    def give_back(self, action: str, address: int, size_bytes: int, pool: BlockPool) -> None:
        """`segment_free` (cudaFree) or `segment_unmap` (cuMemUnmap)."""
        self.frees += 1
        for statistics in pool.counted_in:
            statistics.reserved_bytes.change(-size_bytes)
        self._on_segment_event((action, address, size_bytes))
