"""What must hold after any sequence of calls, and agreement with a second, naive allocator."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.gpu.allocator import AllocatorSettings, CachingAllocator, DeviceOutOfMemory
from tests.support.allocators import rising_addresses

pytestmark = pytest.mark.quick

MIB = 1024**2
BASE = 0x1000_0000

# Sizes around every boundary of the rules, and any in between.
_BOUNDARIES = [1, 512, 1 * MIB, 2 * MIB, 10 * MIB, 11 * MIB, 12 * MIB, 19 * MIB, 20 * MIB, 40 * MIB]
sizes = st.one_of(
    st.builds(lambda size, off: max(size + off, 0), st.sampled_from(_BOUNDARIES), st.integers(-513, 513)),
    st.integers(0, 4096),
    st.integers(0, 64 * MIB),
)
# (operation, size or choice, stream)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("malloc"), sizes, st.integers(0, 2)),
        st.tuples(st.just("free"), st.integers(0, 999), st.just(0)),
        st.tuples(st.just("record_stream"), st.integers(0, 999), st.integers(0, 2)),
        st.tuples(st.sampled_from(["process_events", "empty_cache"]), st.just(0), st.just(0)),
    ),
    min_size=10,
    max_size=80,
)
configurations = st.sampled_from(
    [
        "",
        "expandable_segments:True",
        "max_split_size_mb:30",
        "max_split_size_mb:20,max_non_split_rounding_mb:24",
        "roundup_power2_divisions:4",
        "garbage_collection_threshold:0.3,per_process_memory_fraction:0.8",
        "expandable_segments:True,per_process_memory_fraction:0.5",
    ]
)


def check_invariants(allocator: CachingAllocator, live: list[int], splits_small_rests: bool) -> None:
    segments = allocator.segments()
    blocks = [block for segment in segments for block in segment.blocks]
    end = 0
    for segment in segments:
        assert segment.address >= end  # no overlap, in address order
        end = segment.address
        for block in segment.blocks:
            assert block.address == end  # blocks tile the segment
            assert block.size_bytes > 0
            assert block.size_bytes % 512 == 0
            end += block.size_bytes
        assert end == segment.address + segment.total_size_bytes
        adjacent = zip(segment.blocks, segment.blocks[1:], strict=False)
        assert not any(left.state == right.state == "inactive" for left, right in adjacent)
        if segment.segment_type == "large" and not splits_small_rests:
            assert min(block.size_bytes for block in segment.blocks) > 1 * MIB
    by_state = {
        state: [block for block in blocks if block.state == state]
        for state in ("active_allocated", "active_awaiting_free", "inactive")
    }
    allocated_bytes = sum(block.size_bytes for block in by_state["active_allocated"])
    awaiting_bytes = sum(block.size_bytes for block in by_state["active_awaiting_free"])
    active = by_state["active_allocated"] + by_state["active_awaiting_free"]
    assert {block.address for block in by_state["active_allocated"]} == set(live)
    assert allocator.allocated_bytes == allocated_bytes
    assert allocator.active_bytes == allocated_bytes + awaiting_bytes
    assert allocator.requested_bytes == sum(block.requested_bytes for block in active)
    assert allocator.reserved_bytes == sum(segment.total_size_bytes for segment in segments)
    assert allocator.requested_bytes <= allocator.active_bytes <= allocator.reserved_bytes
    stats = allocator.memory_stats()
    plain = [segment for segment in segments if not segment.is_expandable]
    split = [segment for segment in plain if len(segment.blocks) > 1]
    inactive = [block for segment in split for block in segment.blocks if block.state == "inactive"]
    assert stats["segment.all.current"] == len(plain)
    assert stats["inactive_split.all.current"] == len(inactive)
    assert stats["inactive_split_bytes.all.current"] == sum(block.size_bytes for block in inactive)
    assert stats["allocation.all.current"] == len(by_state["active_allocated"])
    assert stats["active.all.current"] == len(active)
    for name, value in stats.items():
        if ".all." in name:
            assert value >= 0
            pools = [stats[name.replace(".all.", f".{pool}.")] for pool in ("small_pool", "large_pool")]
            assert value <= sum(pools) if name.endswith(".peak") else value == sum(pools)
        if name.endswith(".current"):
            assert value <= stats[name.replace(".current", ".peak")]


def malloc_or_none(allocator: CachingAllocator, size_bytes: int, stream: int) -> int | None:
    try:
        return allocator.malloc(size_bytes, stream)
    except DeviceOutOfMemory:
        return None


@settings(max_examples=300, deadline=None)
@given(operations, configurations)
def test_invariants_hold_after_every_call(calls: list[tuple[str, int, int]], conf: str) -> None:
    capacity_bytes = 256 * MIB
    allocator = CachingAllocator(capacity_bytes, AllocatorSettings.parse(conf))
    limit = capacity_bytes
    if "fraction" in conf:
        limit = int(capacity_bytes * float(conf.rpartition(":")[2]))
    live: list[int] = []
    peaks = dict.fromkeys(("allocated_bytes", "active_bytes", "requested_bytes"), 0)
    for operation, value, stream in calls:
        if operation == "malloc":
            address = malloc_or_none(allocator, value, stream)
            assert address not in live
            if address:
                assert allocator.block_size(address) >= max(value, 512)
                live.append(address)
        elif operation == "free" and live:
            allocator.free(live.pop(value % len(live)))
        elif operation == "record_stream" and live:
            allocator.record_stream(live[value % len(live)], stream)
        elif operation == "process_events":
            allocator.process_events()
        elif operation == "empty_cache":
            allocator.empty_cache()
        assert allocator.reserved_bytes <= limit or "expandable" in conf
        assert allocator.reserved_bytes <= capacity_bytes
        check_invariants(allocator, live, splits_small_rests="expandable" in conf)
        for name in peaks:
            peaks[name] = max(peaks[name], getattr(allocator, name))
    stats = allocator.memory_stats()
    assert {name: stats[f"{name}.all.peak"] for name in peaks} == peaks

    for address in live:
        allocator.free(address)
    allocator.empty_cache()
    stats = allocator.memory_stats()
    assert allocator.segments() == ()
    current = {name: value for name, value in stats.items() if name.endswith(".current")}
    assert current == dict.fromkeys(current, 0)
    assert stats["num_device_alloc"] >= stats["num_device_free"] or "expandable" in conf


@dataclass
class Naive:
    """The default rules in their plainest form: every segment is a list of [address, size, is free]."""

    segments: list[tuple[int, bool, list[list[int]]]] = field(default_factory=list)  # (stream, small, blocks)
    next_address: int = BASE

    def malloc(self, request: int, stream: int) -> int:
        if request == 0:
            return 0
        size = max(512, (request + 511) // 512 * 512)
        small = size <= 1 * MIB
        candidates = [
            (block[1], block[0], blocks, block)
            for owner, is_small, blocks in self.segments
            for block in blocks
            if owner == stream and is_small == small and block[2] and block[1] >= size
        ]
        if not candidates:
            total = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            block = [self.next_address, total, 1]
            self.next_address += total
            self.segments.append((stream, small, [block]))
            candidates = [(total, block[0], self.segments[-1][2], block)]
        _, _, blocks, block = min(candidates, key=lambda each: each[:2])
        rest = block[1] - size
        if rest >= 512 if small else rest > 1 * MIB:
            blocks.insert(blocks.index(block) + 1, [block[0] + size, rest, 1])
            block[1] = size
        block[2] = 0
        return block[0]

    def free(self, address: int) -> None:
        for _, _, blocks in self.segments:
            for block in blocks:
                if block[0] == address:
                    block[2] = 1
            merged: list[list[int]] = []
            for block in blocks:
                if merged and merged[-1][2] and block[2]:
                    merged[-1][1] += block[1]
                else:
                    merged.append(block)
            blocks[:] = merged

    def empty_cache(self) -> None:
        self.segments = [each for each in self.segments if len(each[2]) > 1 or not each[2][0][2]]


@settings(max_examples=300, deadline=None)
@given(operations)
def test_addresses_agree_with_a_naive_allocator(calls: list[tuple[str, int, int]]) -> None:
    allocator, naive = CachingAllocator(addresses=rising_addresses()), Naive()
    live: list[int] = []
    for operation, value, stream in calls:
        if operation == "malloc":
            address = allocator.malloc(value, stream)
            assert address == naive.malloc(value, stream)
            live += [address] if address else []
        elif operation == "free" and live:
            address = live.pop(value % len(live))
            allocator.free(address)
            naive.free(address)
        elif operation == "empty_cache":
            allocator.empty_cache()
            naive.empty_cache()
        blocks = [block for segment in allocator.segments() for block in segment.blocks]
        expected = sorted(tuple(block) for _, _, blocks in naive.segments for block in blocks)
        assert [(each.address, each.size_bytes, int(each.state == "inactive")) for each in blocks] == expected


@settings(max_examples=150, deadline=None)
@given(operations, st.sampled_from(["", "expandable_segments:True"]))
def test_a_restored_allocator_goes_on_like_the_original(calls: list[tuple[str, int, int]], conf: str) -> None:
    parsed = AllocatorSettings.parse(conf)
    original = CachingAllocator(settings=parsed, addresses=rising_addresses())
    live: list[int] = []
    for operation, value, stream in calls:
        if operation == "malloc" and value:
            live.append(original.malloc(value, stream))
        elif operation == "free" and live:
            original.free(live.pop(value % len(live)))
    if not original.segments():
        return
    copy = CachingAllocator(settings=parsed, addresses=rising_addresses())
    copy.restore(original.segments())
    assert copy.segments() == original.segments()
    for address in live:
        original.free(address)
        copy.free(address)
        assert copy.segments() == original.segments()


def test_restoring_segments_with_a_hole_is_refused() -> None:
    allocator = CachingAllocator(addresses=rising_addresses())
    allocator.malloc(3 * MIB)
    (segment,) = allocator.segments()
    broken = type(segment)(
        **{name: getattr(segment, name) for name in segment.__slots__ if name != "blocks"},
        blocks=segment.blocks[1:],
    )
    with pytest.raises(ValueError, match="do not tile it"):
        CachingAllocator().restore([broken])
