# ruff: noqa: PLR1730 - max() takes longer than a comparison, and the replay spends its time here
"""A model of PyTorch's CUDA caching allocator in pure Python: the same addresses, sizes and statistics.

The rules are those of c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h (PyTorch 2.11 to
2.13). `profiler.replay` checks them against memory snapshots recorded on real GPUs.

Not modelled: private pools (CUDA graphs, `torch.cuda.MemPool`), several devices (make one allocator each),
and the free-memory callbacks of CUDA IPC.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

KIB, MIB, GIB = 1024, 1024**2, 1024**3

# c10/core/AllocatorConfig.h
MIN_BLOCK_SIZE_BYTES = 512
SMALL_SIZE_BYTES = 1 * MIB  # the largest request of the small pool
SMALL_SEGMENT_BYTES = 2 * MIB
MIN_LARGE_ALLOCATION_BYTES = 10 * MIB  # from here on a segment is as large as its request
ROUND_LARGE_BYTES = 2 * MIB
LARGE_SEGMENT_BYTES = 20 * MIB
ROUNDUP_INTERVALS = 16  # powers of two from 1 MiB to 64 GiB

# Address space of an expandable segment where the device's capacity is unknown.
_DEFAULT_RESERVATION_BYTES = 1024 * GIB
_UNLIMITED = sys.maxsize
_FIRST_ADDRESS = 0x7000_0000_0000


@dataclass(frozen=True)
class AllocatorSettings:
    """The options of PYTORCH_CUDA_ALLOC_CONF that change addresses or sizes.

    `max_split_size_bytes` None means unlimited. `max_non_split_rounding_bytes` None means
    `large_segment_size_bytes`, as PyTorch sets it. `roundup_power2_divisions` is empty (off) or holds one
    number for each power of two from 1 MiB to 64 GiB. `memory_fraction` is that of
    `torch.cuda.set_per_process_memory_fraction`.
    """

    max_split_size_bytes: int | None = None
    garbage_collection_threshold: float = 0.0
    roundup_power2_divisions: tuple[int, ...] = ()
    large_segment_size_bytes: int = LARGE_SEGMENT_BYTES
    max_non_split_rounding_bytes: int | None = None
    expandable_segments: bool = False
    memory_fraction: float = 1.0

    def __post_init__(self) -> None:
        large_segment_bytes = self.large_segment_size_bytes
        if large_segment_bytes <= MIN_LARGE_ALLOCATION_BYTES:
            raise ValueError(f"the large segment size must be > 10 MiB, got {large_segment_bytes} bytes")
        for name in ("max_split_size_bytes", "max_non_split_rounding_bytes"):
            value = getattr(self, name)
            if value is not None and value < large_segment_bytes:
                raise ValueError(
                    f"{name} must be >= the large segment size {large_segment_bytes}, got {value}"
                )
        if not 0.0 <= self.garbage_collection_threshold < 1.0:
            raise ValueError(
                f"garbage_collection_threshold must lie in (0, 1), got {self.garbage_collection_threshold}"
            )
        if not 0.0 <= self.memory_fraction <= 1.0:
            raise ValueError(f"the memory fraction must lie in [0, 1], got {self.memory_fraction}")
        if len(self.roundup_power2_divisions) not in (0, ROUNDUP_INTERVALS):
            raise ValueError(f"roundup_power2_divisions needs {ROUNDUP_INTERVALS} entries, or none")

    @classmethod
    def parse(cls, text: str) -> AllocatorSettings:
        """Read a string such as "expandable_segments:True,max_split_size_mb:128".

        Limits are those of AcceleratorAllocatorConfig::parseArgs (c10/core/AllocatorConfig.cpp). Raises
        ValueError for an unknown option or a value that PyTorch would refuse.
        """
        values = {}
        for key, value in _split_options(text):
            if key in _READERS:
                name, read = _READERS[key]
                values[name] = read(key, value)
            elif key == "backend" and value != "native":
                raise ValueError(f"backend:{value} is not modelled, only backend:native")
            elif key not in _OPTIONS_WITHOUT_EFFECT:
                raise ValueError(f"unknown allocator option {key!r}")
        return cls(**values)


# They concern pinned host memory, locking, or CUDA graphs: no device address depends on them.
_OPTIONS_WITHOUT_EFFECT = frozenset(
    {
        "backend",
        "graph_capture_record_stream_reuse",
        "pinned_free_catch_all",
        "pinned_max_cached_size_mb",
        "pinned_max_round_threshold_mb",
        "pinned_num_register_threads",
        "pinned_reserve_segment_size_mb",
        "pinned_use_background_threads",
        "pinned_use_cuda_host_register",
        "release_lock_on_cudamalloc",
        "throw_on_cudamalloc_oom",
    }
)


def _split_options(text: str) -> Iterator[tuple[str, str]]:
    """Yield (key, value) of "key:value,key:[a:1,b:2]"; white space means nothing."""
    depth, start = 0, 0
    compact = "".join(text.split())
    for position, character in enumerate(compact + ","):
        depth += (character == "[") - (character == "]")
        if character == "," and depth <= 0:
            if option := compact[start:position]:
                key, colon, value = option.partition(":")
                if not colon or not value:
                    raise ValueError(f"expected key:value in the allocator settings, got {option!r}")
                yield key, value
            start = position + 1
    if depth != 0:
        raise ValueError(f"unbalanced brackets in the allocator settings {text!r}")


def _mebibytes(key: str, value: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"{key} must be a whole number of MiB, got {value!r}")
    return int(value) * MIB


def _fraction(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ValueError(f"{key} must be a number, got {value!r}") from None


def _threshold(key: str, value: str) -> float:
    if (threshold := _fraction(key, value)) == 0.0:
        raise ValueError(f"{key} must be > 0; leave it out to collect no garbage")
    return threshold


def _boolean(key: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise ValueError(f"{key} must be True or False, got {value!r}")
    return value == "True"


def _divisions(key: str, value: str) -> tuple[int, ...]:
    """One number of divisions per power of two, from "4" or "[256:1,512:2,>:8]" (sizes in MiB)."""

    def power_of_two(text: str, *, or_zero: bool = False) -> int:
        number = int(text) if text.isdecimal() else -1
        if number < 0 or number & (number - 1) or (number == 0 and not or_zero):
            raise ValueError(f"{key} takes powers of two, got {text!r} in {value!r}")
        return number

    if not value.startswith("["):
        return (power_of_two(value),) * ROUNDUP_INTERVALS
    divisions, last = [0] * ROUNDUP_INTERVALS, -1
    for entry in value.strip("[]").split(","):
        boundary, _, text = entry.partition(":")
        number = power_of_two(text, or_zero=True)
        if boundary == ">":
            divisions[max(last, 0) + 1 :] = [number] * (ROUNDUP_INTERVALS - max(last, 0) - 1)
            continue
        index = min(power_of_two(boundary).bit_length() - 1, ROUNDUP_INTERVALS - 1)
        if last < 0:  # the first one holds for all smaller sizes too
            divisions[:index] = [number] * index
        divisions[index] = number
        last = index
    return tuple(divisions)


_READERS: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "expandable_segments": ("expandable_segments", _boolean),
    "garbage_collection_threshold": ("garbage_collection_threshold", _threshold),
    "large_segment_size_mb": ("large_segment_size_bytes", _mebibytes),
    "max_non_split_rounding_mb": ("max_non_split_rounding_bytes", _mebibytes),
    "max_split_size_mb": ("max_split_size_bytes", _mebibytes),
    "per_process_memory_fraction": ("memory_fraction", _fraction),
    "roundup_power2_divisions": ("roundup_power2_divisions", _divisions),
}


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


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a segment. `state` is that of `torch.cuda.memory_snapshot()`: "active_allocated",
    "active_awaiting_free" (freed, but another stream may still use it) or "inactive"."""

    address: int
    size_bytes: int
    requested_bytes: int
    state: str


@dataclass(frozen=True, slots=True)
class Segment:
    """Contiguous device memory that the allocator holds; its blocks tile it in address order."""

    address: int
    total_size_bytes: int
    stream: int
    segment_type: str  # "small" or "large"
    is_expandable: bool
    blocks: tuple[Block, ...]


# States of a _Block. Unmapped: address space of an expandable segment without memory behind it.
_ALLOCATED, _AWAITING, _FREE, _UNMAPPED = range(4)
_STATE_NAMES = {_ALLOCATED: "active_allocated", _AWAITING: "active_awaiting_free", _FREE: "inactive"}


_STATISTICS = (
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
_COUNTERS = (
    "num_alloc_retries",
    "num_device_alloc",
    "num_device_free",
    "num_oom_rejections",
    "num_ooms",
    "num_sync_all_streams",
)


class _Stat:
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


class _Statistics:
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
        self.segment = _Stat()
        self.reserved_bytes = _Stat()

    def hand_out(self, size_bytes: int, requested_bytes: int) -> None:
        self.allocation_increased += 1
        self.allocated_bytes_increased += size_bytes
        self.requested_bytes_increased += requested_bytes
        self.allocation = current = self.allocation + 1
        if current > self.allocation_peak:
            self.allocation_peak = current
        self.allocated_bytes = current = self.allocated_bytes + size_bytes
        if current > self.allocated_bytes_peak:
            self.allocated_bytes_peak = current
        self.requested_bytes = current = self.requested_bytes + requested_bytes
        if current > self.requested_bytes_peak:
            self.requested_bytes_peak = current
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
            if current > self.inactive_split_bytes_peak:
                self.inactive_split_bytes_peak = current
        self.inactive_split = current = self.inactive_split + blocks
        if blocks > 0:
            self.inactive_split_increased += blocks
            if current > self.inactive_split_peak:
                self.inactive_split_peak = current

    def stat(self, name: str) -> _Stat:
        """The statistic of this name, as it is now."""
        if name in ("segment", "reserved_bytes"):
            stat: _Stat = getattr(self, name)
            return stat
        if name in ("active", "active_bytes"):
            handed_out = self.stat("allocation" if name == "active" else "allocated_bytes")
            held = self.awaiting if name == "active" else self.awaiting_bytes
            peak = max(handed_out.peak, getattr(self, f"{name}_peak"))
            return _Stat(handed_out.current + held, peak, handed_out.increased)
        return _Stat(getattr(self, name), getattr(self, f"{name}_peak"), getattr(self, f"{name}_increased"))

    def reset_peaks(self) -> None:
        for name in _STATISTICS:
            current = self.stat(name).current
            if name in ("segment", "reserved_bytes"):
                getattr(self, name).peak = current
            else:
                setattr(self, f"{name}_peak", current)


class _ExpandableSegment:
    """A reservation of address space; physical memory is mapped into it in chunks."""

    __slots__ = ("address", "chunk_bytes", "size_bytes")

    def __init__(self, address: int, size_bytes: int, chunk_bytes: int) -> None:
        self.address = address
        self.size_bytes = size_bytes
        self.chunk_bytes = chunk_bytes


class _Block:
    __slots__ = (
        "address",
        "expandable",
        "next",
        "pending_streams",
        "pool",
        "prev",
        "requested_bytes",
        "searches_before",
        "size_bytes",
        "state",
        "stream",
    )

    def __init__(
        self, address: int, size: int, stream: int, pool: _Pool, expandable: _ExpandableSegment | None
    ) -> None:
        self.address = address
        self.size_bytes = size
        self.requested_bytes = 0
        self.stream = stream
        self.pool = pool
        self.state = _FREE
        self.prev: _Block | None = None
        self.next: _Block | None = None
        self.expandable = expandable
        self.pending_streams: set[int] | None = None  # other streams that use it (record_stream)
        self.searches_before: int  # of the pool when the block became free; its age, for garbage collection


class _Pool:
    """The blocks of the small or of the large pool that are not in use, per stream in search order."""

    __slots__ = ("free", "is_small", "searches", "statistics", "unmapped")

    def __init__(self, is_small: bool) -> None:
        self.is_small = is_small
        self.free: dict[int, list[tuple[int, int, _Block]]] = {}  # stream -> sorted (size, address, block)
        self.unmapped: dict[int, list[tuple[int, _Block]]] = {}  # stream -> sorted (address, block)
        self.statistics = _Statistics()
        self.searches = 0

    def insert(self, block: _Block) -> None:
        block.searches_before = self.searches
        free = self.free.get(block.stream)
        if free is None:
            free = self.free[block.stream] = []
        insort(free, (block.size_bytes, block.address, block))

    def remove(self, block: _Block) -> None:
        free = self.free[block.stream]
        del free[bisect_left(free, (block.size_bytes, block.address))]

    def insert_unmapped(self, block: _Block) -> None:
        block.state = _UNMAPPED
        insort(self.unmapped.setdefault(block.stream, []), (block.address, block))

    def remove_unmapped(self, block: _Block) -> None:
        unmapped = self.unmapped[block.stream]
        del unmapped[bisect_left(unmapped, (block.address,))]

    def free_blocks(self) -> list[_Block]:
        """All free blocks, in the order (stream, size, address) of PyTorch's set."""
        return [block for stream in sorted(self.free) for _, _, block in self.free[stream]]


# (action, address, size in bytes) of segment_alloc, segment_free, segment_map, segment_unmap.
SegmentEvent = tuple[str, int, int]


def rising_addresses(first_address: int = _FIRST_ADDRESS) -> Callable[[int], int]:
    """A driver that gives every new segment the next address, aligned to 2 MiB, and reuses none."""
    next_address = first_address

    def address(size_bytes: int) -> int:
        nonlocal next_address
        result = next_address
        next_address += _round_up(size_bytes, ROUND_LARGE_BYTES)
        return result

    return address


def _round_up(size_bytes: int, multiple: int) -> int:
    return -(-size_bytes // multiple) * multiple


class CachingAllocator:
    """One device's caching allocator.

    `capacity_bytes` is the memory that the driver can give to this process (None: no limit).
    `segment_address` chooses the address of each new segment from its size, as the driver does; by default
    they rise and never come back. `on_segment_event` is called with every (action, address, size in bytes)
    of memory taken from or returned to the driver, under the action names of a memory snapshot.
    """

    def __init__(
        self,
        capacity_bytes: int | None = None,
        settings: AllocatorSettings | None = None,
        *,
        segment_address: Callable[[int], int] | None = None,
        on_segment_event: Callable[[SegmentEvent], None] | None = None,
    ) -> None:
        self.settings = settings = settings or AllocatorSettings()
        self.capacity_bytes = capacity_bytes
        self._segment_address = segment_address or rising_addresses()
        self._on_segment_event = on_segment_event or (lambda event: None)
        self._capacity = _UNLIMITED if capacity_bytes is None else capacity_bytes
        self._allowed = _UNLIMITED  # the limit of set_per_process_memory_fraction
        if settings.memory_fraction < 1.0:
            if capacity_bytes is None:
                raise ValueError("a memory fraction needs capacity_bytes")
            self._allowed = int(settings.memory_fraction * capacity_bytes)
        self._collects_garbage = (
            settings.memory_fraction < 1.0 and settings.garbage_collection_threshold > 0.0
        )
        self._max_split = settings.max_split_size_bytes or _UNLIMITED
        self._max_rounding = settings.max_non_split_rounding_bytes or settings.large_segment_size_bytes
        self._divisions = settings.roundup_power2_divisions
        self._expandable = settings.expandable_segments
        self._small = _Pool(is_small=True)
        self._large = _Pool(is_small=False)
        self._total = _Statistics()
        self._oversize_allocations = _Stat()
        self._oversize_segments = _Stat()
        self._in_use: dict[int, _Block] = {}  # address -> allocated block
        self._awaiting: dict[int, _Block] = {}  # freed, but another stream may still use them
        self._heads: dict[int, _Block] = {}  # address -> first block of each segment
        self._counters = dict.fromkeys(_COUNTERS, 0)

    # ------------------------------------------------------------------ the interface

    @property
    def allocated_bytes(self) -> int:
        """torch.cuda.memory_allocated(): bytes of blocks handed out, rounding included."""
        return self._total.allocated_bytes

    @property
    def active_bytes(self) -> int:
        """Allocated bytes and those of freed blocks that another stream may still use."""
        return self._total.allocated_bytes + self._total.awaiting_bytes

    @property
    def requested_bytes(self) -> int:
        """Bytes asked for in active blocks, without rounding."""
        return self._total.requested_bytes

    @property
    def reserved_bytes(self) -> int:
        """torch.cuda.memory_reserved(): bytes taken from the driver."""
        return self._total.reserved_bytes.current

    def malloc(self, size_bytes: int, stream: int = 0) -> int:
        """Allocate on `stream` and return the address; 0 for size 0, which takes no block.

        Raises DeviceOutOfMemory where the GPU would, ValueError for a negative size.
        """
        if size_bytes <= 0:
            if size_bytes < 0:
                raise ValueError(f"cannot allocate {size_bytes} bytes")
            return 0
        size = self.round_size(size_bytes)
        pool = self._small if size <= SMALL_SIZE_BYTES else self._large
        block = self._find_free_block(pool, size, stream) or self._new_block(pool, size, stream)
        inactive_blocks = inactive_bytes = 0
        if block.prev is not None or block.next is not None:
            inactive_blocks, inactive_bytes = -1, -block.size_bytes
        if self._should_split(block, size):
            # The request takes the low addresses, the rest stays free.
            rest = _Block(block.address + size, block.size_bytes - size, stream, pool, block.expandable)
            _link_after(block, rest)
            block.size_bytes = size
            pool.insert(rest)
            inactive_blocks += 1
            inactive_bytes += rest.size_bytes
        block.state = _ALLOCATED
        block.requested_bytes = size_bytes
        self._in_use[block.address] = block
        pool.statistics.hand_out(block.size_bytes, size_bytes)
        self._total.hand_out(block.size_bytes, size_bytes)
        if inactive_bytes and block.expandable is None:
            pool.statistics.change_inactive_split(inactive_blocks, inactive_bytes)
            self._total.change_inactive_split(inactive_blocks, inactive_bytes)
        if block.size_bytes >= self._max_split:
            self._oversize_allocations.change(1)
        return block.address

    def free(self, address: int) -> None:
        """Free an address that `malloc` returned (0 is ignored, as a null pointer).

        A block with a recorded use on another stream stays active until `process_events`. Raises ValueError
        for an address that is not allocated.
        """
        if address == 0:
            return
        block = self._in_use.pop(address, None)
        if block is None:
            raise ValueError(f"address {address:#x} is not allocated")
        if block.size_bytes >= self._max_split:
            self._oversize_allocations.change(-1)
        pool = block.pool
        if block.pending_streams:
            pool.statistics.hold(block.size_bytes)
            self._total.hold(block.size_bytes)
            block.state = _AWAITING
            self._awaiting[address] = block
        else:
            pool.statistics.take_back(block.size_bytes, block.requested_bytes)
            self._total.take_back(block.size_bytes, block.requested_bytes)
            self._free_block(block)

    def record_stream(self, address: int, stream: int) -> None:
        """Note that `stream` uses the block: once freed, it stays active until `process_events`.

        Its own stream needs no note. Raises ValueError for an address that is not allocated.
        """
        block = self._in_use.get(address)
        if block is None:
            raise ValueError(f"address {address:#x} is not allocated")
        if stream != block.stream:
            block.pending_streams = (block.pending_streams or set()) | {stream}

    def process_events(self, addresses: Iterable[int] | None = None) -> None:
        """The GPU has finished the uses on other streams of these freed blocks (None: of all of them).

        PyTorch asks the GPU at each malloc; here the caller says when, for it alone knows the GPU's time.
        """
        for address in list(self._awaiting) if addresses is None else addresses:
            block = self._awaiting.pop(address, None)
            if block is None:
                continue  # empty_cache has already waited for it
            block.pending_streams = None
            block.pool.statistics.take_back_held(block.size_bytes, block.requested_bytes)
            self._total.take_back_held(block.size_bytes, block.requested_bytes)
            self._free_block(block)

    def empty_cache(self) -> None:
        """torch.cuda.empty_cache(): wait for other streams, return all wholly free segments or chunks."""
        self._counters["num_sync_all_streams"] += 1
        self.process_events()
        for pool in (self._large, self._small):
            blocks = pool.free_blocks()
            for block in blocks:
                if block.expandable is None and block.prev is None and block.next is None:
                    self._release_segment(block)
            for block in blocks:
                if block.expandable is not None:
                    self._unmap(block)

    def block_size(self, address: int) -> int:
        """Bytes of the block at this allocated address. Raises KeyError if there is none."""
        return self._in_use[address].size_bytes

    def reset_peak_memory_stats(self) -> None:
        """Set every peak to the current value."""
        for statistics in (self._total, self._small.statistics, self._large.statistics):
            statistics.reset_peaks()
        for stat in (self._oversize_allocations, self._oversize_segments):
            stat.peak = stat.current

    def memory_stats(self) -> dict[str, int]:
        """The statistics under the names of torch.cuda.memory_stats()."""
        result: dict[str, int] = {}

        def add(name: str, stat: _Stat) -> None:
            result[f"{name}.current"] = stat.current
            result[f"{name}.peak"] = stat.peak
            result[f"{name}.allocated"] = stat.increased
            result[f"{name}.freed"] = stat.increased - stat.current

        pools = {
            "all": self._total,
            "small_pool": self._small.statistics,
            "large_pool": self._large.statistics,
        }
        for name in _STATISTICS:
            for pool_name, statistics in pools.items():
                add(f"{name}.{pool_name}", statistics.stat(name))
        add("oversize_allocations", self._oversize_allocations)
        add("oversize_segments", self._oversize_segments)
        result.update(self._counters)
        result["max_split_size"] = self.settings.max_split_size_bytes or -1
        return dict(sorted(result.items()))

    def segments(self) -> tuple[Segment, ...]:
        """The segments by address, with their blocks, as torch.cuda.memory_snapshot() lists them.

        Of an expandable segment each contiguous mapped range is one.
        """
        result = []
        for head in self._heads.values():
            blocks: list[Block] = []
            block: _Block | None = head
            while block is not None:
                if block.state != _UNMAPPED:
                    view = Block(
                        block.address, block.size_bytes, block.requested_bytes, _STATE_NAMES[block.state]
                    )
                    blocks.append(view)
                following = block.next
                if blocks and (following is None or following.state == _UNMAPPED):
                    result.append(_segment_view(head, blocks))
                    blocks = []
                block = following
        return tuple(sorted(result, key=lambda segment: segment.address))

    def restore(
        self,
        segments: Iterable[Segment],
        reservation_starts: Mapping[tuple[int, str], int] | None = None,
    ) -> None:
        """Start from recorded segments (an empty allocator only); the inverse of `segments`.

        Their bytes count as current and peak, but not as events: the device counters stay at 0.
        The expandable ranges of a stream and pool are taken as one reservation that begins at the lowest, or
        at `reservation_starts[stream, segment_type]` where that is known to be lower still.
        Raises ValueError if the allocator is in use or the blocks of a segment do not tile it.
        """
        if self._heads:
            raise ValueError("only an allocator without segments can be restored")
        reservations: dict[tuple[int, str], list[Segment]] = {}
        for segment in sorted(segments, key=lambda each: each.address):
            if segment.is_expandable:
                reservations.setdefault((segment.stream, segment.segment_type), []).append(segment)
            else:
                self._restore_blocks(segment, None, None)
        for key, ranges in reservations.items():
            pool = self._small if ranges[0].segment_type == "small" else self._large
            first = ranges[0].address
            start = min((reservation_starts or {}).get(key, first), first)
            expandable = self._reserve(pool, start)
            last: _Block | None = None
            if start < first:
                last = self._heads[start] = _Block(start, first - start, key[0], pool, expandable)
                pool.insert_unmapped(last)
            for segment in ranges:
                if last is not None and segment.address > last.address + last.size_bytes:
                    end = last.address + last.size_bytes
                    gap = _Block(end, segment.address - end, segment.stream, pool, expandable)
                    _link_after(last, gap)
                    pool.insert_unmapped(gap)
                    last = gap
                last = self._restore_blocks(segment, expandable, last)
            assert last is not None
            end = last.address + last.size_bytes
            tail_bytes = expandable.address + expandable.size_bytes - end
            if tail_bytes > 0:
                tail = _Block(end, tail_bytes, last.stream, pool, expandable)
                _link_after(last, tail)
                pool.insert_unmapped(tail)

    # ------------------------------------------------------------------ the rules

    def round_size(self, size_bytes: int) -> int:
        """Bytes that a request is rounded up to (its block may still be larger, see `_should_split`)."""
        if size_bytes < MIN_BLOCK_SIZE_BYTES:
            return MIN_BLOCK_SIZE_BYTES
        if self._divisions:
            divisions = self._divisions[min(max(size_bytes.bit_length() - 21, 0), ROUNDUP_INTERVALS - 1)]
            if divisions > 1 and size_bytes > MIN_BLOCK_SIZE_BYTES * divisions:
                power_of_two = 1 << (size_bytes.bit_length() - 1)
                return _round_up(size_bytes, power_of_two // divisions)
        return (size_bytes + 511) & ~511

    def _segment_size(self, size: int) -> int:
        if size <= SMALL_SIZE_BYTES:
            return SMALL_SEGMENT_BYTES
        if size < MIN_LARGE_ALLOCATION_BYTES:
            return self.settings.large_segment_size_bytes
        return _round_up(size, ROUND_LARGE_BYTES)

    def _should_split(self, block: _Block, size: int) -> bool:
        rest = block.size_bytes - size
        if block.pool.is_small or self._expandable:
            return rest >= MIN_BLOCK_SIZE_BYTES
        return rest > SMALL_SIZE_BYTES and size < self._max_split

    def _find_free_block(self, pool: _Pool, size: int, stream: int) -> _Block | None:
        """Best fit: the smallest sufficient block of this stream, of equal ones the lowest address."""
        if self._collects_garbage:
            pool.searches += 1
        free = pool.free.get(stream)
        if not free:
            return None
        index = bisect_left(free, (size,))
        if index == len(free):
            return None
        block = free[index][2]
        if block.expandable is not None:
            index = self._best_expandable(free, index)
            if index == len(free):
                return None
            block = free[index][2]
        # A block too large to be split serves only requests that are as large, or nearly.
        if size < self._max_split:
            if block.size_bytes >= self._max_split:
                return None
        elif block.size_bytes >= size + self._max_rounding:
            return None
        del free[index]
        return block

    def _best_expandable(self, free: list[tuple[int, int, _Block]], index: int) -> int:
        """Compare blocks by the size that they could grow to, with the unmapped space behind them."""

        def reach(block: _Block) -> int:
            following = block.next
            return block.size_bytes + (
                following.size_bytes if following and following.state == _UNMAPPED else 0
            )

        if not self._expandable:  # restored expandable blocks, but the option is off: skip them
            while index < len(free) and free[index][2].expandable is not None:
                index += 1
            return index
        while (
            free[index][2].expandable is not None
            and index + 1 < len(free)
            and reach(free[index + 1][2]) < reach(free[index][2])
        ):
            index += 1
        return index

    def _new_block(self, pool: _Pool, size: int, stream: int) -> _Block:
        """Take memory from the driver; if it has none left, return cached segments to it and try again."""
        if self._collects_garbage:
            self._collect_garbage()
        segment_bytes = self._segment_size(size)
        block = self._device_block(pool, size, segment_bytes, stream)
        if block is None and self._release_oversize_blocks(pool, size, stream):
            block = self._device_block(pool, size, segment_bytes, stream)
        if block is None:
            self.empty_cache()
            self._counters["num_alloc_retries"] += 1
            block = self._device_block(pool, size, segment_bytes, stream)
        if block is None:
            self._counters["num_ooms"] += 1
            limit = min(self._allowed, self._capacity)
            raise DeviceOutOfMemory(segment_bytes, self.reserved_bytes, self.allocated_bytes, limit)
        return block

    def _device_block(self, pool: _Pool, size: int, segment_bytes: int, stream: int) -> _Block | None:
        reserved_bytes = self._total.reserved_bytes.current
        if reserved_bytes + segment_bytes > self._allowed:
            return None
        if self._expandable:
            return self._expand(pool, size, stream)
        if reserved_bytes + segment_bytes > self._capacity:
            return None
        address = self._segment_address(segment_bytes)
        block = _Block(address, segment_bytes, stream, pool, None)
        self._heads[address] = block
        for each in (pool.statistics, self._total):
            each.segment.change(1)
            each.reserved_bytes.change(segment_bytes)
        if segment_bytes >= self._max_split:
            self._oversize_segments.change(1)
        self._counters["num_device_alloc"] += 1
        self._on_segment_event(("segment_alloc", address, segment_bytes))
        return block

    def _free_block(self, block: _Block) -> None:
        """Give the block to its pool, merged with free neighbours."""
        pool = block.pool
        block.requested_bytes = 0
        block.state = _FREE
        freed_bytes = block.size_bytes
        block, merged_blocks = self._coalesce(block)
        pool.insert(block)
        if block.expandable is None:
            if block.prev is not None or block.next is not None:
                inactive_blocks, inactive_bytes = 1 - merged_blocks, freed_bytes
            else:
                inactive_blocks, inactive_bytes = -merged_blocks, freed_bytes - block.size_bytes
            pool.statistics.change_inactive_split(inactive_blocks, inactive_bytes)
            self._total.change_inactive_split(inactive_blocks, inactive_bytes)

    def _coalesce(self, block: _Block) -> tuple[_Block, int]:
        """Merge a free block with its free neighbours, taken out of the pool; how many they were."""
        merged_blocks = 0
        previous, following = block.prev, block.next
        if previous is not None and previous.state == _FREE:
            block.pool.remove(previous)
            block = _merge(previous, block)
            merged_blocks = 1
        if following is not None and following.state == _FREE:
            block.pool.remove(following)
            block = _merge(block, following)
            merged_blocks += 1
        return block, merged_blocks

    def _release_segment(self, block: _Block) -> None:
        pool = block.pool
        pool.remove(block)
        del self._heads[block.address]
        for each in (pool.statistics, self._total):
            each.segment.change(-1)
            each.reserved_bytes.change(-block.size_bytes)
        if block.size_bytes >= self._max_split:
            self._oversize_segments.change(-1)
        self._counters["num_device_free"] += 1
        self._on_segment_event(("segment_free", block.address, block.size_bytes))

    def _release_oversize_blocks(self, pool: _Pool, size: int, stream: int) -> bool:
        """Return oversize blocks to the driver, just enough for the request; True if that may help."""
        if self._max_split == _UNLIMITED:
            return False
        needed = max(size, self._max_split)
        free = pool.free.get(stream, [])
        index = bisect_left(free, (needed,))
        if index < len(free) and free[index][2].expandable is None:
            self._release_segment(free[index][2])
            return True
        released = 0
        for block in [entry[2] for entry in free[:index]][::-1]:
            if released >= needed or block.size_bytes < self._max_split:
                break
            if block.expandable is None:
                released += block.size_bytes
                self._release_segment(block)
        return released >= needed

    def _collect_garbage(self) -> None:
        """Return whole cached segments that were not reused for longest, down to the threshold."""
        threshold = int(self.settings.garbage_collection_threshold * self._allowed)
        to_reclaim = self.reserved_bytes - threshold
        if to_reclaim <= 0:
            return
        pool = self._large
        whole = [block for block in pool.free_blocks() if block.prev is None and block.next is None]
        reclaimed = 0
        while whole and reclaimed < to_reclaim:
            average_age = sum(pool.searches - block.searches_before for block in whole) / len(whole)
            old = [
                block
                for block in whole
                if block.expandable is None and pool.searches - block.searches_before >= average_age
            ]
            if not old:
                return
            for block in old:
                reclaimed += block.size_bytes
                self._release_segment(block)
            whole = [block for block in whole if block not in old]

    # ------------------------------------------------------------------ expandable segments

    def _reserve(self, pool: _Pool, address: int | None = None) -> _ExpandableSegment:
        """Reserve address space for 1 1/8 times the device's memory."""
        chunk_bytes = SMALL_SEGMENT_BYTES if pool.is_small else self.settings.large_segment_size_bytes
        total_bytes = self.capacity_bytes or _DEFAULT_RESERVATION_BYTES
        size_bytes = _round_up(total_bytes + total_bytes // 8, chunk_bytes)
        if address is None:
            address = self._segment_address(size_bytes)
        return _ExpandableSegment(address, size_bytes, chunk_bytes)

    def _expand(self, pool: _Pool, size: int, stream: int) -> _Block | None:
        """Map memory at the lowest address where free and unmapped space together hold the request."""
        block = self._find_expandable(pool, size, stream)
        if block.state == _UNMAPPED:
            mapped = self._map(block, min(block.size_bytes, size))
            if mapped is None:
                return None
            block = mapped
        while block.size_bytes < size:
            following = block.next
            assert following is not None
            mapped = self._map(following, min(size - block.size_bytes, following.size_bytes))
            if mapped is None:
                return None
            block = mapped
        pool.remove(block)
        return block

    def _find_expandable(self, pool: _Pool, size: int, stream: int) -> _Block:
        for _, unmapped in pool.unmapped.get(stream, ()):
            first = unmapped.prev if unmapped.prev is not None and unmapped.prev.state == _FREE else unmapped
            available, block = 0, first
            while block is not None and block.state in (_FREE, _UNMAPPED) and available < size:
                available += block.size_bytes
                block = block.next  # type: ignore[assignment]
            if available >= size:
                return first
        expandable = self._reserve(pool)
        block = _Block(expandable.address, expandable.size_bytes, stream, pool, expandable)
        self._heads[block.address] = block
        pool.insert_unmapped(block)
        return block

    def _map(self, block: _Block, size: int) -> _Block | None:
        """Back the first `size` bytes of an unmapped block, in whole chunks; None if memory is exhausted."""
        pool, expandable = block.pool, block.expandable
        assert expandable is not None
        mapped_bytes = _round_up(size, expandable.chunk_bytes)
        if self._total.reserved_bytes.current + mapped_bytes > self._capacity:
            return None
        pool.remove_unmapped(block)
        address = block.address
        if mapped_bytes < block.size_bytes:
            rest = _Block(
                address + mapped_bytes, block.size_bytes - mapped_bytes, block.stream, pool, expandable
            )
            _link_after(block, rest)
            block.size_bytes = mapped_bytes
            pool.insert_unmapped(rest)
        block.state = _FREE
        block, _ = self._coalesce(block)
        pool.insert(block)
        for each in (pool.statistics, self._total):
            each.reserved_bytes.change(mapped_bytes)
        self._counters["num_device_alloc"] += 1
        self._on_segment_event(("segment_map", address, mapped_bytes))
        return block

    def _unmap(self, block: _Block) -> None:
        """Return the whole chunks inside a free block to the driver, and the reservation if it is empty."""
        pool, expandable = block.pool, block.expandable
        assert expandable is not None
        base, chunk_bytes = expandable.address, expandable.chunk_bytes
        start = base + _round_up(block.address - base, chunk_bytes)
        end = base + (block.address + block.size_bytes - base) // chunk_bytes * chunk_bytes
        if start >= end:
            return
        pool.remove(block)
        after_bytes = block.address + block.size_bytes - end
        if after_bytes:
            after = _Block(end, after_bytes, block.stream, pool, expandable)
            _link_after(block, after)
            pool.insert(after)
        if start > block.address:
            middle = _Block(start, end - start, block.stream, pool, expandable)
            _link_after(block, middle)
            block.size_bytes = start - block.address
            pool.insert(block)
            block = middle
        else:
            block.size_bytes = end - start
        previous, following = block.prev, block.next
        if previous is not None and previous.state == _UNMAPPED:
            pool.remove_unmapped(previous)
            block = _merge(previous, block)
        if following is not None and following.state == _UNMAPPED:
            pool.remove_unmapped(following)
            block = _merge(block, following)
        pool.insert_unmapped(block)
        for each in (pool.statistics, self._total):
            each.reserved_bytes.change(start - end)
        self._counters["num_device_free"] += 1
        self._on_segment_event(("segment_unmap", start, end - start))
        if block.prev is None and block.next is None:
            pool.remove_unmapped(block)
            del self._heads[block.address]

    # ------------------------------------------------------------------ restoring

    def _restore_blocks(
        self, segment: Segment, expandable: _ExpandableSegment | None, previous: _Block | None
    ) -> _Block:
        """Build the blocks of a segment behind `previous`; return the last."""
        pool = self._small if segment.segment_type == "small" else self._large
        statistics = (pool.statistics, self._total)
        end = segment.address
        for view in segment.blocks:
            if view.address != end or view.size_bytes <= 0:
                raise ValueError(f"the blocks of segment {segment.address:#x} do not tile it")
            block = _Block(view.address, view.size_bytes, segment.stream, pool, expandable)
            if previous is not None:
                _link_after(previous, block)
            else:
                self._heads[view.address] = block
            previous, end = block, view.address + view.size_bytes
            if view.state == "inactive":
                pool.insert(block)
                if expandable is None and len(segment.blocks) > 1:
                    for each in statistics:
                        each.change_inactive_split(1, view.size_bytes)
            else:
                self._restore_active(block, view)
        if previous is None or end != segment.address + segment.total_size_bytes:
            raise ValueError(f"the blocks of segment {segment.address:#x} do not tile it")
        for each in statistics:
            each.reserved_bytes.change(segment.total_size_bytes)
            if expandable is None:
                each.segment.change(1)
        return previous

    def _restore_active(self, block: _Block, view: Block) -> None:
        awaits = view.state == "active_awaiting_free"
        block.requested_bytes = view.requested_bytes
        block.state = _AWAITING if awaits else _ALLOCATED
        (self._awaiting if awaits else self._in_use)[view.address] = block
        for each in (block.pool.statistics, self._total):
            each.hand_out(view.size_bytes, view.requested_bytes)
            if awaits:
                each.hold(view.size_bytes)


def _link_after(block: _Block, new: _Block) -> None:
    new.prev, new.next = block, block.next
    if block.next is not None:
        block.next.prev = new
    block.next = new


def _merge(left: _Block, right: _Block) -> _Block:
    """Join two adjacent blocks into the left one, so that the head of a segment stays the same."""
    left.size_bytes += right.size_bytes
    left.next = right.next
    if right.next is not None:
        right.next.prev = left
    return left


def _segment_view(head: _Block, blocks: list[Block]) -> Segment:
    return Segment(
        address=blocks[0].address,
        total_size_bytes=sum(block.size_bytes for block in blocks),
        stream=head.stream,
        segment_type="small" if head.pool.is_small else "large",
        is_expandable=head.expandable is not None,
        blocks=tuple(blocks),
    )
