"""Proof that the recorded traces would notice a wrong rule: each one here must fail on them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from profiler.gpu.allocator import AllocatorSettings, CachingAllocator, caching_allocator
from profiler.gpu.allocator.blocks import BlockPool
from profiler.gpu.allocator.expandable_segments import ExpandableSegments
from profiler.gpu.replay import replay
from tests.support.groundtruth import load, needs_snapshots

pytestmark = needs_snapshots

MIB = 1024**2
PLAIN_FILES = (
    "kkaitlyn111+cs336-a2-systems/memory_small_forward.740a7f24.pickle",
    "HugePandaCoder+octree-nca-groupeq/my_snapshot.1e496ac8.pickle",
    "HugePandaCoder+octree-nca-groupeq/mem_snapshots__inference2_peso_oct.e024498d.pickle",
    "Maphsge4+select_n/snapshot.5a601013.pickle",
    "Da1sypetals+tomi/snapshots__snapshot.91c77ee1.pickle",
)
EXPANDABLE_FILES = ("Constructor-Sun+code_location/memory_snapshot.b5ef67ce.pickle",)

Method = Callable[..., Any]


def all_exact(files: Sequence[str]) -> bool:
    results = [result for name in files for result in replay(load(name)) if result.events]
    return all(result.verdict == "exact" for result in results)


def test_the_right_rules_reproduce_these_files() -> None:
    assert all_exact(PLAIN_FILES)
    assert all_exact(EXPANDABLE_FILES)


def sufficient(pool: BlockPool, size: int, stream: int) -> list[Any]:
    return [entry for entry in pool.free.get(stream, []) if entry[0] >= size]


def take(pool: BlockPool, stream: int, chosen: Any) -> Any:
    pool.free[stream].remove(chosen)
    return chosen[2]


def splits_above(small_rest: int, large_rest: int) -> Method:
    return lambda self, block, size: (
        block.size_bytes - size >= (small_rest if block.pool.is_small else large_rest)
    )


def worst_fit(self: Any, pool: BlockPool, size: int, stream: int) -> Any:
    found = sufficient(pool, size, stream)
    return take(pool, stream, found[-1]) if found else None


def highest_address_among_equals(self: Any, pool: BlockPool, size: int, stream: int) -> Any:
    found = sufficient(pool, size, stream)
    equals = [entry for entry in found if entry[0] == found[0][0]]
    return take(pool, stream, max(equals, key=lambda each: each[1])) if found else None


def first_fit(self: Any, pool: BlockPool, size: int, stream: int) -> Any:
    found = sufficient(pool, size, stream)
    return take(pool, stream, min(found, key=lambda each: each[1])) if found else None


def never_merges(self: BlockPool, block: Any) -> tuple[Any, int]:
    self.insert(block)
    return block, 0


def merges_only(neighbour: str, original: Method = BlockPool.insert_merged) -> Method:
    """The other neighbour is hidden while the block is inserted."""
    hidden = "prev" if neighbour == "next" else "next"

    def insert_merged(self: BlockPool, block: Any) -> tuple[Any, int]:
        other = getattr(block, hidden)
        if other is None or other.state != 2:  # free
            return original(self, block)
        other.state = 0  # allocated
        result = original(self, block)
        other.state = 2
        return result

    return insert_merged


PLAIN_RULES: dict[str, tuple[type, str, Method]] = {
    "splits off small rests": (CachingAllocator, "_should_split", splits_above(512, 512)),
    "splits from 2 MiB": (CachingAllocator, "_should_split", splits_above(512, 2 * MIB)),
    "splits the large pool only": (CachingAllocator, "_should_split", splits_above(4 * MIB, MIB + 512)),
    "never splits": (CachingAllocator, "_should_split", lambda self, block, size: False),
    "worst fit": (CachingAllocator, "_get_free_block", worst_fit),
    "highest address among equals": (CachingAllocator, "_get_free_block", highest_address_among_equals),
    "first fit": (CachingAllocator, "_get_free_block", first_fit),
    "never reuses": (CachingAllocator, "_get_free_block", lambda self, pool, size, stream: None),
    "never merges": (BlockPool, "insert_merged", never_merges),
    "merges with the block behind only": (BlockPool, "insert_merged", merges_only("next")),
    "merges with the block before only": (BlockPool, "insert_merged", merges_only("prev")),
    "rounds to 256": (CachingAllocator, "round_size", lambda self, size: max(512, -(-size // 256) * 256)),
    "rounds to 1024": (CachingAllocator, "round_size", lambda self, size: -(-size // 1024) * 1024),
    "keeps cached segments": (CachingAllocator, "empty_cache", lambda self: None),
}


WRONG_CONSTANTS = (
    ("SMALL_SIZE_BYTES", MIB // 2),
    ("SMALL_SIZE_BYTES", 2 * MIB),
    ("SMALL_SEGMENT_BYTES", 4 * MIB),
    ("MIN_LARGE_ALLOCATION_BYTES", 8 * MIB),
    ("MIN_LARGE_ALLOCATION_BYTES", 14 * MIB),
    ("ROUND_LARGE_BYTES", 1 * MIB),
    ("ROUND_LARGE_BYTES", 4 * MIB),
)


@pytest.mark.parametrize("name", PLAIN_RULES)
def test_a_wrong_rule_fails_on_real_traces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*PLAIN_RULES[name])
    assert not all_exact(PLAIN_FILES)


@pytest.mark.parametrize(("constant", "value"), WRONG_CONSTANTS)
def test_a_wrong_constant_fails_on_real_traces(
    constant: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching_allocator, constant, value)
    assert not all_exact(PLAIN_FILES)


def test_a_wrong_segment_size_fails_on_real_traces() -> None:
    snapshot = load(PLAIN_FILES[1])
    wrong = replace(snapshot, settings=AllocatorSettings(large_segment_size_bytes=32 * MIB))
    assert [result.verdict for result in replay(wrong)] == ["differs"]


def maps_whole_segments(
    self: Any,
    pool: BlockPool,
    size: int,
    stream: int,
    original: Method = ExpandableSegments.try_allocate_block,
) -> Any:
    return original(self, pool, CachingAllocator()._get_allocation_size(size), stream)


def maps_behind_the_end(
    self: Any, pool: BlockPool, size: int, stream: int, original: Method = ExpandableSegments.find_block
) -> Any:
    for _, unmapped in pool.unmapped.get(stream, ()):
        if unmapped.size_bytes >= size:
            return unmapped
    return original(self, pool, size, stream)


def small_chunks(
    self: Any, pool: BlockPool, address: int | None = None, original: Method = ExpandableSegments.reserve
) -> Any:
    reservation = original(self, pool, address)
    reservation.chunk_bytes = 2 * MIB
    return reservation


EXPANDABLE_RULES: dict[str, tuple[type, str, Method]] = {
    "maps whole segments": (ExpandableSegments, "try_allocate_block", maps_whole_segments),
    "maps behind the end": (ExpandableSegments, "find_block", maps_behind_the_end),
    "compares mapped sizes": (ExpandableSegments, "best_fit", lambda self, free, index: index),
    "small chunks": (ExpandableSegments, "reserve", small_chunks),
    "splits like plain segments": (CachingAllocator, "_should_split", splits_above(512, MIB + 512)),
    "keeps cached segments": PLAIN_RULES["keeps cached segments"],
    "worst fit": PLAIN_RULES["worst fit"],
}


@pytest.mark.parametrize("name", EXPANDABLE_RULES)
def test_a_wrong_rule_for_expandable_segments_fails_on_real_traces(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*EXPANDABLE_RULES[name])
    assert not all_exact(EXPANDABLE_FILES)
