"""A run as the requests it makes of the allocator, how they change with the batch, and whether they fit.

For a given model each request's size is a constant and a term proportional to the batch, and the order of
requests and frees is the same for any batch. So two simulated batches tell the requests of any other, and the
allocator model, which is quick, tells whether these fit in a device, its retries included. Where a kernel's
scratch space does not follow the rule, the nearer the two batches, the smaller the error.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from profiler.gpu.allocator import AllocatorSettings, CachingAllocator, DeviceOutOfMemory
from profiler.trace.events import Allocation, Entries, Free

# In order: n >= 0 is a request of n bytes, -n the free of the block of the n-th request (from 1).
Requests = Sequence[int]


def requests_of(entries: Entries) -> array[int]:
    """The requests and frees of a run."""
    found, alive = array("q"), dict[int, int]()
    count = 0
    for entry in entries:
        if isinstance(entry, Allocation):
            count += 1
            alive[entry.address] = count
            found.append(entry.requested_bytes)
        elif isinstance(entry, Free) and entry.address in alive:
            found.append(-alive.pop(entry.address))
    return found


def same_order(first: Requests, second: Requests) -> bool:
    """Whether two runs make and free as many requests, in the same order, whatever their sizes."""
    return len(first) == len(second) and all(
        a == b if a < 0 or b < 0 else True for a, b in zip(first, second, strict=True)
    )


def at_batch(batch: int, first: tuple[int, Requests], second: tuple[int, Requests]) -> list[int]:
    """The requests of a batch on the line through those of two others, which must be in the same order.

    Args:
        batch: which.
        first, second: two different batches with the requests of each.
    """
    (low, before), (high, after) = first, second
    along, span = batch - low, high - low
    return [a if a == b else max(0, a + (b - a) * along // span) for a, b in zip(before, after, strict=True)]


def fit_in(requests: Requests, memory_bytes: int, settings: AllocatorSettings) -> bool:
    """Whether an allocator that may take `memory_bytes` can serve all requests."""
    allocator = CachingAllocator(memory_bytes, settings, counts=False)
    addresses = [0]
    try:
        for request in requests:
            if request >= 0:
                addresses.append(allocator.malloc(request))
            else:
                allocator.free(addresses[-request])
    except DeviceOutOfMemory:
        return False
    return True
