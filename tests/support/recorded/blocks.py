"""What the simulated device reports, kept in order; and the simplest allocator."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile


@dataclass
class Ledger:
    """Every event in order: bytes requested, negative for a free. Scratch of kernels is in `ops`
    by its name.
    """

    events: list[int] = field(default_factory=list)
    ops: list[str] = field(default_factory=list)
    live: dict[int, int] = field(default_factory=dict)
    peak_bytes: int = 0

    def allocated(self, address: int, size_bytes: int, requested_bytes: int, op: str) -> None:
        assert address not in self.live
        self.events.append(requested_bytes)
        self.ops.append(op)
        self.live[address] = requested_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def freed(self, address: int) -> None:
        self.events.append(-self.live.pop(address))

    def refused(self, requested_bytes: int, op: str) -> None:
        pass

    @property
    def live_bytes(self) -> int:
        return sum(self.live.values())

    def clear(self) -> None:
        self.events.clear()
        self.ops.clear()
        self.peak_bytes = self.live_bytes


class BumpAllocator:
    def __init__(self) -> None:
        self.next_address = 1 << 40
        self.sizes: dict[int, int] = {}

    def malloc(self, size_bytes: int, stream: int = 0) -> int:
        address, rounded_bytes = self.next_address, -(-size_bytes // 512) * 512
        self.next_address += rounded_bytes
        self.sizes[address] = rounded_bytes
        return address

    def free(self, address: int) -> None:
        del self.sizes[address]

    def block_size(self, address: int) -> int:
        return self.sizes[address]


def cpu_events(step: Callable[[], object]) -> list[int]:
    """Bytes of each allocation (positive) and free (negative) of `step`, in order, from the CPU allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    found = []

    def walk(events):
        for event in events:
            if event.tag == _EventType.Allocation:
                found.append((event.start_time_ns, event.extra_fields.alloc_size))
            walk(event.children)

    walk(profiler.profiler.kineto_results.experimental_event_tree())
    return [size for _, size in sorted(found, key=lambda pair: pair[0])]
