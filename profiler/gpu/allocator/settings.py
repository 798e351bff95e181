"""The options of PYTORCH_CUDA_ALLOC_CONF: what they mean, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from profiler.errors import ProfilerError
from profiler.units import MIB

# c10/core/AllocatorConfig.h
MIN_LARGE_ALLOCATION_BYTES = 10 * MIB  # from here on a segment is as large as its request
LARGE_SEGMENT_BYTES = 20 * MIB
ROUNDUP_INTERVALS = 16  # powers of two from 1 MiB to 64 GiB


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
        ProfilerError for an unknown option or a value that PyTorch would refuse.
        """
        try:
            return cls._parsed(text)
        except ValueError as error:
            raise ProfilerError(f"allocator settings: {error}") from None

    @classmethod
    def _parsed(cls, text: str) -> AllocatorSettings:
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
