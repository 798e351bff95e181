"""The numbers of torch.cuda.memory_stats, counted by hand."""

import pytest

from tests.support.allocators import MIB, make

pytestmark = pytest.mark.quick


def test_statistics_of_a_short_run() -> None:
    allocator = make()
    first = allocator.malloc(3 * MIB - 100)
    second = allocator.malloc(700)
    allocator.malloc(11 * MIB)  # takes the 17 MiB rest of the first segment
    allocator.free(first)
    allocator.free(second)
    expected = {
        "allocation.all.current": 1,
        "allocation.all.peak": 3,
        "allocation.all.allocated": 3,
        "allocation.all.freed": 2,
        "allocation.small_pool.peak": 1,
        "allocation.large_pool.current": 1,
        "allocated_bytes.all.current": 11 * MIB,
        "allocated_bytes.all.peak": 14 * MIB + 1024,
        "allocated_bytes.all.allocated": 14 * MIB + 1024,
        "allocated_bytes.small_pool.freed": 1024,
        "active.all.current": 1,
        "active_bytes.all.peak": 14 * MIB + 1024,
        "requested_bytes.all.current": 11 * MIB,
        "requested_bytes.all.peak": 14 * MIB - 100 + 700,
        "requested_bytes.small_pool.peak": 700,
        "reserved_bytes.all.current": 22 * MIB,
        "reserved_bytes.small_pool.current": 2 * MIB,
        "segment.all.current": 2,
        "segment.large_pool.current": 1,
        # [3 MiB free][11 MiB used][6 MiB free]; the small segment is wholly free, hence not split.
        "inactive_split.all.current": 2,
        "inactive_split_bytes.all.current": 9 * MIB,
        "inactive_split.small_pool.current": 0,
        "inactive_split_bytes.small_pool.peak": 2 * MIB - 1024,
        "inactive_split_bytes.large_pool.peak": 17 * MIB,
        "num_alloc_retries": 0,
        "num_ooms": 0,
        "num_device_alloc": 2,
        "num_device_free": 0,
        "max_split_size": -1,
    }
    stats = allocator.memory_stats()
    assert {name: stats[name] for name in expected} == expected


def test_reset_peak_memory_stats_starts_from_the_current_values() -> None:
    allocator = make()
    kept = allocator.malloc(3 * MIB)
    allocator.free(allocator.malloc(5 * MIB))
    assert allocator.memory_stats()["allocated_bytes.all.peak"] == 8 * MIB
    allocator.reset_peak_memory_stats()
    stats = allocator.memory_stats()
    peaks = {name: value for name, value in stats.items() if name.endswith(".peak")}
    assert peaks == {name: stats[name.removesuffix("peak") + "current"] for name in peaks}
    assert stats["allocated_bytes.all.peak"] == 3 * MIB
    assert stats["active_bytes.all.peak"] == 3 * MIB
    allocator.free(kept)
    assert allocator.memory_stats()["allocated_bytes.all.peak"] == 3 * MIB


def test_the_names_of_the_statistics_are_those_of_pytorch() -> None:
    names = ["active", "allocation", "inactive_split", "segment"]
    names += ["active_bytes", "allocated_bytes", "inactive_split_bytes", "requested_bytes", "reserved_bytes"]
    pools = [
        f"{name}.{pool}.{metric}"
        for name in names
        for pool in ("all", "large_pool", "small_pool")
        for metric in ("allocated", "current", "freed", "peak")
    ]
    oversize = [
        f"oversize_{name}.{metric}"
        for name in ("allocations", "segments")
        for metric in ("allocated", "current", "freed", "peak")
    ]
    counters = ["max_split_size", "num_sync_all_streams"]
    counters += ["num_alloc_retries", "num_device_alloc", "num_device_free", "num_oom_rejections", "num_ooms"]
    assert sorted(make().memory_stats()) == sorted(pools + oversize + counters)
