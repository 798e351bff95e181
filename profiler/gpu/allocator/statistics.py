"""What torch.cuda.memory_stats counts, kept while the allocator model runs."""

from __future__ import annotations

STATISTICS = (
    "allocation",
    "segment",
    "active",
    "inactive_split",
    "allocated_bytes",
    "reserved_bytes",
    "active_bytes",
    "inactive_split_bytes",
    "requested_bytes",
)
# Of the allocator itself; the driver counts num_device_alloc and num_device_free.
COUNTERS = (
    "num_alloc_retries",
    "num_oom_rejections",
    "num_ooms",
    "num_sync_all_streams",
)


class Stat:
    """current, peak and historical increase of one statistic (c10/core/CachingDeviceAllocator.h)."""

    __slots__ = ("current", "increased", "peak")

    def __init__(self, current: int = 0, peak: int = 0, increased: int = 0) -> None:
        self.current = current
        self.peak = peak
        self.increased = increased

    def change(self, amount: int) -> None:
        self.current += amount
        if amount > 0:
            self.increased += amount
            self.peak = max(self.peak, self.current)

    def named(self, name: str) -> dict[str, int]:
        """The entries of torch.cuda.memory_stats() for the statistic of this name."""
        return {
            f"{name}.current": self.current,
            f"{name}.peak": self.peak,
            f"{name}.allocated": self.increased,
            f"{name}.freed": self.increased - self.current,
        }


class Statistics:
    """The nine statistics of one pool, or of both together.

    Those that change at every malloc and free are plain integers, for speed. Active blocks are those handed
    out and those that await another stream, which are few: `active_peak` and `active_bytes_peak` only note
    peaks reached while some wait.
    """

    __slots__ = (
        "active_bytes_peak",
        "active_peak",
        "allocated_bytes",
        "allocated_bytes_increased",
        "allocated_bytes_peak",
        "allocation",
        "allocation_increased",
        "allocation_peak",
        "awaiting",
        "awaiting_bytes",
        "inactive_split",
        "inactive_split_bytes",
        "inactive_split_bytes_increased",
        "inactive_split_bytes_peak",
        "inactive_split_increased",
        "inactive_split_peak",
        "requested_bytes",
        "requested_bytes_increased",
        "requested_bytes_peak",
        "reserved_bytes",
        "segment",
    )

    def __init__(self) -> None:
        self.allocation = self.allocation_peak = self.allocation_increased = 0
        self.allocated_bytes = self.allocated_bytes_peak = self.allocated_bytes_increased = 0
        self.requested_bytes = self.requested_bytes_peak = self.requested_bytes_increased = 0
        self.awaiting = self.awaiting_bytes = self.active_peak = self.active_bytes_peak = 0
        self.inactive_split = self.inactive_split_peak = self.inactive_split_increased = 0
        self.inactive_split_bytes = self.inactive_split_bytes_peak = 0
        self.inactive_split_bytes_increased = 0
        self.segment = Stat()
        self.reserved_bytes = Stat()

    def hand_out(self, size_bytes: int, requested_bytes: int) -> None:
        self.allocation_increased += 1
        self.allocated_bytes_increased += size_bytes
        self.requested_bytes_increased += requested_bytes
        self.allocation = current = self.allocation + 1
        self.allocation_peak = max(self.allocation_peak, current)
        self.allocated_bytes = current = self.allocated_bytes + size_bytes
        self.allocated_bytes_peak = max(self.allocated_bytes_peak, current)
        self.requested_bytes = current = self.requested_bytes + requested_bytes
        self.requested_bytes_peak = max(self.requested_bytes_peak, current)
        if self.awaiting:
            self.active_peak = max(self.active_peak, self.allocation + self.awaiting)
            self.active_bytes_peak = max(self.active_bytes_peak, self.allocated_bytes + self.awaiting_bytes)

    def take_back(self, size_bytes: int, requested_bytes: int) -> None:
        self.allocation -= 1
        self.allocated_bytes -= size_bytes
        self.requested_bytes -= requested_bytes

    def hold(self, size_bytes: int) -> None:
        """A block was freed, but stays active: another stream may still use it."""
        self.allocation -= 1
        self.allocated_bytes -= size_bytes
        self.awaiting += 1
        self.awaiting_bytes += size_bytes

    def take_back_held(self, size_bytes: int, requested_bytes: int) -> None:
        self.awaiting -= 1
        self.awaiting_bytes -= size_bytes
        self.requested_bytes -= requested_bytes

    def change_inactive_split(self, blocks: int, size_bytes: int) -> None:
        self.inactive_split_bytes = current = self.inactive_split_bytes + size_bytes
        if size_bytes > 0:
            self.inactive_split_bytes_increased += size_bytes
            self.inactive_split_bytes_peak = max(self.inactive_split_bytes_peak, current)
        self.inactive_split = current = self.inactive_split + blocks
        if blocks > 0:
            self.inactive_split_increased += blocks
            self.inactive_split_peak = max(self.inactive_split_peak, current)

    def stat(self, name: str) -> Stat:
        """The statistic of this name, as it is now."""
        if name in ("segment", "reserved_bytes"):
            stat: Stat = getattr(self, name)
            return stat
        if name in ("active", "active_bytes"):
            handed_out = self.stat("allocation" if name == "active" else "allocated_bytes")
            held = self.awaiting if name == "active" else self.awaiting_bytes
            peak = max(handed_out.peak, getattr(self, f"{name}_peak"))
            return Stat(handed_out.current + held, peak, handed_out.increased)
        return Stat(getattr(self, name), getattr(self, f"{name}_peak"), getattr(self, f"{name}_increased"))

    def reset_peaks(self) -> None:
        for name in STATISTICS:
            current = self.stat(name).current
            if name in ("segment", "reserved_bytes"):
                getattr(self, name).peak = current
            else:
                setattr(self, f"{name}_peak", current)
