"""Measuring a real run: one recorder a kind of device, all giving the same PhaseMeasurement."""

from __future__ import annotations

from dataclasses import dataclass

from profiler.trace.ledger import Account


@dataclass(frozen=True)
class PhaseMeasurement:
    """What was read when a phase ended.

    Attributes:
        account: bytes by category at the end and at the peak, from the allocation events.
        seconds: duration of the phase, device synchronized, reading excluded.
        reading_seconds: what the recorder itself took at the boundary.
        device_used_bytes: in use on the whole device (CUDA: mem_get_info, context and other processes
            included; CPU: resident memory of this process); None where the system does not tell.
        memory_stats: the allocator's own statistics under torch's names, for the phase; empty on the CPU,
            which has no caching allocator.
    """

    account: Account
    seconds: float
    reading_seconds: float
    device_used_bytes: int | None
    memory_stats: dict[str, int]
