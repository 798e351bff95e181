"""The allocator model against real traces, and proof that a wrong rule would be noticed."""

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import profiler.allocator
from profiler.allocator import (
    AllocatorSettings,
    Block,
    CachingAllocator,
    DeviceOutOfMemory,
    Segment,
    SegmentEvent,
    rising_addresses,
)
from profiler.replay import ReplayResult, initial_segments, replay, replay_device, summary
from profiler.snapshot import DeviceSnapshot, Snapshot, TraceEvent, load_snapshot

MIB = 1024**2
BASE = 0x1000_0000

ROOT = Path(__file__).resolve().parent.parent
GROUNDTRUTH = Path(os.environ.get("PROFILER_GROUNDTRUTH", ROOT / "../shared/groundtruth")) / "snapshots"
needs_groundtruth = pytest.mark.skipif(
    not (GROUNDTRUTH / "index.csv").exists(),
    reason=f"no recorded snapshots in {GROUNDTRUTH}; set PROFILER_GROUNDTRUTH to the folder that has them",
)


def index_rows() -> list[dict[str, str]]:
    if not (GROUNDTRUTH / "index.csv").exists():
        return []
    with (GROUNDTRUTH / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=16)
def load(name: str) -> Snapshot:
    return load_snapshot(GROUNDTRUTH / f"{name}.xz")


# ---------------------------------------------------------------------- real traces


@needs_groundtruth
@pytest.mark.parametrize("row", index_rows(), ids=lambda row: row["file"])
def test_every_address_and_segment_of_a_recorded_trace_is_reproduced(row: dict[str, str]) -> None:
    snapshot = load_snapshot(GROUNDTRUTH / f"{row['file']}.xz")
    results = replay(snapshot)
    assert sum(device.allocated_bytes for device in snapshot.devices) == int(row["allocated_end"])
    recorded = [result for result in results if result.events]
    for result in recorded:
        assert result.first_mismatch is None
        assert result.verdict == "exact"
        assert result.final_state_matched
        assert (result.addresses_matched, result.addresses_mismatched) == (result.allocations, 0)
        assert result.segments_mismatched == 0
        assert len(result.timeline.allocated_bytes) == len(result.timeline.reserved_bytes) == result.events
        last = snapshot.devices[result.device]
        assert result.timeline.allocated_bytes[-1] == last.allocated_bytes
        assert result.timeline.reserved_bytes[-1] == last.reserved_bytes
    if row["verdict"]:
        longest = max(recorded, key=lambda result: result.events)
        assert longest.events == int(row["n_events"])
        assert longest.allocations == int(row["n_alloc"])
    if row["complete_from_empty"] == "1" and int(row["n_segment_alloc"]):
        assert longest.peak_reserved_bytes == int(row["trace_peak_reserved"])


@needs_groundtruth
def test_all_kinds_of_recordings_are_there() -> None:
    verdicts = [row["verdict"] for row in index_rows()]
    assert {verdict: verdicts.count(verdict) for verdict in ("exact", "diff", "expandable")} == {
        "exact": 65,
        "diff": 5,
        "expandable": 5,
    }


@needs_groundtruth
def test_memory_runs_out_at_the_recorded_request_and_not_before() -> None:
    """An 80 GB GPU, from empty until it is full: the model gets its capacity, and no hint when to give up.

    The recording first returns six ranges to the driver to serve a request of 5 GB, and fails later at a
    second one, when the driver says that 95,682,560 bytes are free.
    """
    snapshot = load("Constructor-Sun+code_location/memory_snapshot.b5ef67ce.pickle")
    events = snapshot.devices[1].events
    full = next(index for index, event in enumerate(events) if event.action == "oom")
    mapped = sum(event.size_bytes for event in events[:full] if event.action == "segment_map")
    unmapped = sum(event.size_bytes for event in events[:full] if event.action == "segment_unmap")
    capacity_bytes = mapped - unmapped + events[full].address
    assert capacity_bytes == 84_298_432_512

    # The two reservations begin where the large and the small pool map their first range.
    bases = iter([events[0].address, next(each.address for each in events if each.address >= 0x48_0000_0000)])
    made: list[SegmentEvent] = []
    model = CachingAllocator(
        capacity_bytes,
        snapshot.settings,
        segment_address=lambda size_bytes: next(bases),
        on_segment_event=made.append,
    )
    for event in events[:full]:
        if event.action == "alloc":
            assert model.malloc(event.size_bytes, event.stream) == event.address
        elif event.action == "free_requested":
            model.free(event.address)
    recorded = [
        tuple(event[:3]) for event in events[:full] if event.action in ("segment_map", "segment_unmap")
    ]
    assert made == recorded
    assert [action for action, _, _ in made].count("segment_unmap") == 6
    assert model.memory_stats()["num_alloc_retries"] == 1
    with pytest.raises(DeviceOutOfMemory):
        model.malloc(events[full].size_bytes, events[full].stream)
    assert model.reserved_bytes == mapped - unmapped
    assert made == recorded  # nothing was left to return


# ---------------------------------------------------------------------- wrong rules are noticed

PLAIN_FILES = (
    "kkaitlyn111+cs336-a2-systems/memory_small_forward.740a7f24.pickle",
    "HugePandaCoder+octree-nca-groupeq/my_snapshot.1e496ac8.pickle",
    "HugePandaCoder+octree-nca-groupeq/mem_snapshots__inference2_peso_oct.e024498d.pickle",
    "Maphsge4+select_n/snapshot.5a601013.pickle",
    "Da1sypetals+tomi/snapshots__snapshot.91c77ee1.pickle",
)
EXPANDABLE_FILES = ("Constructor-Sun+code_location/memory_snapshot.b5ef67ce.pickle",)


def all_exact(files: Sequence[str], allocator: type[CachingAllocator] = CachingAllocator) -> bool:
    results = [result for name in files for result in replay(load(name), allocator) if result.events]
    return all(result.verdict == "exact" for result in results)


@needs_groundtruth
def test_the_right_rules_reproduce_the_files_of_the_mutation_check() -> None:
    assert all_exact(PLAIN_FILES)
    assert all_exact(EXPANDABLE_FILES)


class SplitsSmallRests(CachingAllocator):
    def _should_split(self, block: Any, size: int) -> bool:
        return block.size_bytes - size >= 512


class SplitsFrom2MiB(CachingAllocator):
    def _should_split(self, block: Any, size: int) -> bool:
        return block.size_bytes - size >= (512 if block.pool.is_small else 2 * MIB)


class SplitsLargeOnly(CachingAllocator):
    def _should_split(self, block: Any, size: int) -> bool:
        return not block.pool.is_small and super()._should_split(block, size)


class NeverSplits(CachingAllocator):
    def _should_split(self, block: Any, size: int) -> bool:
        return False


class WorstFit(CachingAllocator):
    def _find_free_block(self, pool: Any, size: int, stream: int) -> Any:
        free = pool.free.get(stream)
        return free.pop()[2] if free and free[-1][0] >= size else None


class HighestAddressAmongEquals(CachingAllocator):
    def _find_free_block(self, pool: Any, size: int, stream: int) -> Any:
        sufficient = [entry for entry in pool.free.get(stream, []) if entry[0] >= size]
        if not sufficient:
            return None
        chosen = max(
            (entry for entry in sufficient if entry[0] == sufficient[0][0]), key=lambda each: each[1]
        )
        pool.free[stream].remove(chosen)
        return chosen[2]


class FirstFit(CachingAllocator):
    def _find_free_block(self, pool: Any, size: int, stream: int) -> Any:
        sufficient = [entry for entry in pool.free.get(stream, []) if entry[0] >= size]
        if not sufficient:
            return None
        chosen = min(sufficient, key=lambda each: each[1])
        pool.free[stream].remove(chosen)
        return chosen[2]


class NeverReuses(CachingAllocator):
    def _find_free_block(self, pool: Any, size: int, stream: int) -> Any:
        return None


class NeverMerges(CachingAllocator):
    def _coalesce(self, block: Any) -> tuple[Any, int]:
        return block, 0


class MergesForwardOnly(CachingAllocator):
    def _coalesce(self, block: Any) -> tuple[Any, int]:
        previous, block.prev = block.prev, None
        result = super()._coalesce(block)
        block.prev = previous
        return result


class MergesBackwardOnly(CachingAllocator):
    def _coalesce(self, block: Any) -> tuple[Any, int]:
        following = block.next
        if following is None or following.state != 2:  # free
            return super()._coalesce(block)
        following.state = 0
        result = super()._coalesce(block)
        following.state = 2
        return result


class RoundsTo256(CachingAllocator):
    def round_size(self, size_bytes: int) -> int:
        return max(512, -(-size_bytes // 256) * 256)


class RoundsTo1024(CachingAllocator):
    def round_size(self, size_bytes: int) -> int:
        return -(-size_bytes // 1024) * 1024


class KeepsCachedSegments(CachingAllocator):
    def empty_cache(self) -> None:
        pass


PLAIN_MUTANTS = [
    SplitsSmallRests,
    SplitsFrom2MiB,
    SplitsLargeOnly,
    NeverSplits,
    WorstFit,
    HighestAddressAmongEquals,
    FirstFit,
    NeverReuses,
    NeverMerges,
    MergesForwardOnly,
    MergesBackwardOnly,
    RoundsTo256,
    RoundsTo1024,
    KeepsCachedSegments,
]


@needs_groundtruth
@pytest.mark.parametrize("mutant", PLAIN_MUTANTS)
def test_a_wrong_rule_fails_on_real_traces(mutant: type[CachingAllocator]) -> None:
    assert not all_exact(PLAIN_FILES, mutant)


@needs_groundtruth
@pytest.mark.parametrize(
    ("constant", "value"),
    [
        ("SMALL_SIZE_BYTES", MIB // 2),
        ("SMALL_SIZE_BYTES", 2 * MIB),
        ("SMALL_SEGMENT_BYTES", 4 * MIB),
        ("MIN_LARGE_ALLOCATION_BYTES", 8 * MIB),
        ("MIN_LARGE_ALLOCATION_BYTES", 14 * MIB),
        ("ROUND_LARGE_BYTES", 1 * MIB),
        ("ROUND_LARGE_BYTES", 4 * MIB),
    ],
)
def test_a_wrong_constant_fails_on_real_traces(
    constant: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiler.allocator, constant, value)
    assert not all_exact(PLAIN_FILES)


@needs_groundtruth
def test_a_wrong_segment_size_fails_on_real_traces() -> None:
    snapshot = load(PLAIN_FILES[1])
    wrong = replace(snapshot, settings=AllocatorSettings(large_segment_size_bytes=32 * MIB))
    assert [result.verdict for result in replay(wrong)] == ["differs"]


class MapsWholeSegments(CachingAllocator):
    def _expand(self, pool: Any, size: int, stream: int) -> Any:
        return super()._expand(pool, self._segment_size(size), stream)


class MapsBehindTheEnd(CachingAllocator):
    """Ignores free memory before the unmapped space."""

    def _find_expandable(self, pool: Any, size: int, stream: int) -> Any:
        for _, unmapped in pool.unmapped.get(stream, ()):
            if unmapped.size_bytes >= size:
                return unmapped
        return super()._find_expandable(pool, size, stream)


class ComparesMappedSizes(CachingAllocator):
    def _best_expandable(self, free: Any, index: int) -> int:
        return index


class SplitsLikePlainSegments(CachingAllocator):
    def _should_split(self, block: Any, size: int) -> bool:
        return block.size_bytes - size >= (512 if block.pool.is_small else MIB + 512)


class SmallChunks(CachingAllocator):
    def _reserve(self, pool: Any, address: int | None = None) -> Any:
        reservation = super()._reserve(pool, address)
        reservation.chunk_bytes = 2 * MIB
        return reservation


@needs_groundtruth
@pytest.mark.parametrize(
    "mutant",
    [
        MapsWholeSegments,
        MapsBehindTheEnd,
        ComparesMappedSizes,
        SplitsLikePlainSegments,
        SmallChunks,
        KeepsCachedSegments,
        WorstFit,
    ],
)
def test_a_wrong_rule_for_expandable_segments_fails_on_real_traces(mutant: type[CachingAllocator]) -> None:
    assert not all_exact(EXPANDABLE_FILES, mutant)


# ---------------------------------------------------------------------- traces written by hand

NO_OPTIONS = AllocatorSettings()


def event(action: str, address: int, size_bytes: int, stream: int = 0) -> TraceEvent:
    return TraceEvent(action, address, size_bytes, stream, 0, ())


def freed(address: int, size_bytes: int) -> tuple[TraceEvent, TraceEvent]:
    return event("free_requested", address, size_bytes), event("free_completed", address, size_bytes)


def large(address: int, *blocks: tuple[int, int, str]) -> Segment:
    """A large segment from (size, requested, state) of its blocks."""
    views, at = [], address
    for size_bytes, requested_bytes, state in blocks:
        views.append(Block(at, size_bytes, requested_bytes, state))
        at += size_bytes
    return Segment(address, at - address, 0, "large", False, tuple(views))


def run(segments: Sequence[Segment], *events: TraceEvent, private_pools: bool = False) -> ReplayResult:
    return replay_device(DeviceSnapshot(0, tuple(segments), tuple(events), private_pools), NO_OPTIONS)


def test_a_short_trace_from_empty() -> None:
    result = run(
        [large(BASE, (3 * MIB, 3 * MIB, "active_allocated"), (17 * MIB, 0, "inactive"))],
        event("segment_alloc", BASE, 20 * MIB),
        event("alloc", BASE, 5 * MIB),
        *freed(BASE, 5 * MIB),
        event("alloc", BASE, 3 * MIB),
    )
    assert (result.verdict, result.allocations, result.addresses_matched) == ("exact", 2, 2)
    assert (result.segments_matched, result.ambiguous_blocks) == (1, 0)
    assert (result.peak_allocated_bytes, result.peak_reserved_bytes) == (5 * MIB, 20 * MIB)
    assert result.timeline.allocated_bytes == (0, 5 * MIB, 0, 0, 3 * MIB)
    # The segment is taken within the allocation, after its event.
    assert result.timeline.reserved_bytes == (0, 20 * MIB, 20 * MIB, 20 * MIB, 20 * MIB)


def test_a_wrong_address_is_found_and_described() -> None:
    result = run(
        [
            large(
                BASE,
                (3 * MIB, 3 * MIB, "active_allocated"),
                (4 * MIB, 0, "inactive"),
                (2 * MIB, 2 * MIB, "active_allocated"),
                (11 * MIB, 0, "inactive"),
            )
        ],
        event("alloc", BASE + 7 * MIB, 2 * MIB),  # best fit would take the hole at 3 MiB
    )
    assert (result.verdict, result.addresses_matched, result.addresses_mismatched) == ("differs", 0, 1)
    assert result.first_mismatch == (
        f"event 0: recorded alloc of {2 * MIB} bytes at {BASE + 7 * MIB:#x}, model {BASE + 3 * MIB:#x}"
    )


def test_a_missing_segment_is_found_and_described() -> None:
    result = run(
        [
            large(BASE, (20 * MIB, 0, "inactive")),
            large(BASE + 64 * MIB, (12 * MIB, 12 * MIB, "active_allocated")),
        ],
        event("segment_alloc", BASE + 64 * MIB, 12 * MIB),  # the free segment would have done
        event("alloc", BASE + 64 * MIB, 12 * MIB),
    )
    assert (result.verdict, result.segments_matched, result.segments_mismatched) == ("differs", 0, 1)
    assert result.first_mismatch is not None
    assert result.first_mismatch.endswith("model []")


def test_the_size_of_an_older_block_is_found_from_its_neighbour() -> None:
    # Before the recording 11.5 MiB were asked for in a segment of 12 MiB; the rest was not split off.
    whole = large(BASE, (12 * MIB, 0, "inactive"))
    request = 11 * MIB + MIB // 2
    events = (*freed(BASE, request), event("segment_alloc", BASE + 64 * MIB, 12 * MIB))
    start, ambiguous = initial_segments(DeviceSnapshot(0, (whole,), events[:2], False), NO_OPTIONS)
    assert start == (large(BASE, (12 * MIB, request, "active_allocated")),)
    assert ambiguous == 0


def test_an_older_block_before_much_free_memory_is_ambiguous() -> None:
    # A rest of up to 1 MiB may have belonged to the block: nothing recorded tells.
    end = large(BASE, (20 * MIB, 0, "inactive"))
    start, ambiguous = initial_segments(DeviceSnapshot(0, (end,), freed(BASE, 3 * MIB), False), NO_OPTIONS)
    assert start == (large(BASE, (3 * MIB, 3 * MIB, "active_allocated"), (17 * MIB, 0, "inactive")),)
    assert ambiguous == 1


def test_a_later_neighbour_settles_the_size_of_an_older_block() -> None:
    # While the old block (3 MiB asked) lived, another was allocated 3.5 MiB behind its start.
    new = BASE + 3 * MIB + MIB // 2
    end = large(
        BASE,
        (3 * MIB + MIB // 2, 0, "inactive"),
        (5 * MIB, 5 * MIB, "active_allocated"),
        (11 * MIB + MIB // 2, 0, "inactive"),
    )
    events = (event("alloc", new, 5 * MIB), *freed(BASE, 3 * MIB))
    device = DeviceSnapshot(0, (end,), events, False)
    start, ambiguous = initial_segments(device, NO_OPTIONS)
    assert start[0].blocks[0] == Block(BASE, 3 * MIB + MIB // 2, 3 * MIB, "active_allocated")
    assert replay_device(device, NO_OPTIONS).verdict == "exact"
    assert ambiguous == 1  # still more might have belonged to it, for all the recording tells


def test_a_free_that_completes_later_keeps_its_block_active() -> None:
    end = large(
        BASE, (3 * MIB, 0, "inactive"), (3 * MIB, 3 * MIB, "active_allocated"), (14 * MIB, 0, "inactive")
    )
    result = run(
        [end],
        event("segment_alloc", BASE, 20 * MIB),
        event("alloc", BASE, 3 * MIB),
        event("free_requested", BASE, 3 * MIB),
        event("alloc", BASE + 3 * MIB, 3 * MIB),  # the memory at BASE is not available yet
        event("free_completed", BASE, 3 * MIB),
    )
    assert result.verdict == "exact"
    assert result.timeline.allocated_bytes == (0, 3 * MIB, 0, 3 * MIB, 3 * MIB)


def test_a_recording_may_begin_or_end_within_a_free() -> None:
    begins = run([large(BASE, (20 * MIB, 0, "inactive"))], event("free_completed", BASE, 20 * MIB))
    assert begins.verdict == "exact"
    awaiting = large(BASE, (20 * MIB, 20 * MIB, "active_awaiting_free"))
    ends = run([awaiting], event("free_requested", BASE, 20 * MIB))
    assert ends.verdict == "exact"


def test_requests_to_free_may_be_left_out_of_the_recording() -> None:
    # torch.cuda.memory._record_memory_history(skip_actions=["free_requested"])
    result = run(
        [large(BASE, (20 * MIB, 0, "inactive"))],
        event("segment_alloc", BASE, 20 * MIB),
        event("alloc", BASE, 3 * MIB),
        event("free_completed", BASE, 3 * MIB),
        event("alloc", BASE, 4 * MIB),
        event("free_completed", BASE, 4 * MIB),
    )
    assert result.verdict == "exact"
    assert result.timeline.allocated_bytes == (0, 3 * MIB, 0, 4 * MIB, 0)


def test_segments_returned_to_the_driver_must_be_the_free_ones() -> None:
    held = large(BASE, (12 * MIB, 12 * MIB, "active_allocated"))
    result = run([held], event("segment_free", BASE + 64 * MIB, 20 * MIB))
    assert (result.verdict, result.segments_matched) == ("exact", 1)
    both = run(
        [held, large(BASE + 128 * MIB, (12 * MIB, 0, "inactive"))],
        event("segment_free", BASE + 64 * MIB, 20 * MIB),
    )
    assert (both.verdict, both.segments_matched, both.segments_mismatched) == ("differs", 1, 1)


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (event("alloc", BASE, 3 * MIB), "the block allocated at 0x10000000 is not there afterwards"),
        (event("segment_alloc", BASE + MIB, 2 * MIB), "the segment allocated at 0x10100000 is not there"),
        (event("free_requested", BASE, 3 * MIB), "the block freed at 0x10000000 is not waiting"),
        (event("free_completed", 4096, 3 * MIB), "the block freed at 0x1000 is not free afterwards"),
        (event("free_completed", BASE, 21 * MIB), "the block freed at 0x10000000 overlaps another"),
        (event("segment_free", BASE, 20 * MIB), "the segment freed at 0x10000000 is still there"),
        (event("segment_map", 4096, 20 * MIB), "the memory mapped at 0x1000 is not there"),
    ],
)
def test_a_trace_that_contradicts_the_final_state_is_not_replayed(last: TraceEvent, reason: str) -> None:
    result = run([large(BASE, (20 * MIB, 0, "inactive"))], last)
    assert result.verdict == "unsupported"
    assert result.first_mismatch is not None
    assert result.first_mismatch.startswith(reason)


def test_private_pools_are_not_replayed() -> None:
    result = run([], event("alloc", BASE, 512), private_pools=True)
    assert (result.verdict, result.events) == ("unsupported", 1)


def test_a_snapshot_without_events_is_empty() -> None:
    result = run([large(BASE, (20 * MIB, 20 * MIB, "active_allocated"))])
    assert (result.verdict, result.first_mismatch) == ("empty", None)
    assert (result.peak_allocated_bytes, result.peak_reserved_bytes) == (20 * MIB, 20 * MIB)


def test_the_summary_is_readable() -> None:
    result = run(
        [large(BASE, (3 * MIB, 3 * MIB, "active_allocated"), (17 * MIB, 0, "inactive"))],
        event("segment_alloc", BASE, 20 * MIB),
        event("alloc", BASE, 3 * MIB),
    )
    assert summary(result) == [
        ("device", "0"),
        ("verdict", "exact"),
        ("events", "2"),
        ("addresses matched", "1 of 1"),
        ("segments matched", "1 of 1"),
        ("final state", "matched"),
        ("peak allocated", "3.0 MiB"),
        ("peak reserved", "20.0 MiB"),
    ]
    differs = dict(summary(replace(result, verdict="differs", first_mismatch="event 1", ambiguous_blocks=2)))
    assert (differs["first mismatch"], differs["blocks of unrecorded size"]) == ("event 1", "2")


def expandable(address: int, *blocks: tuple[int, int, str]) -> Segment:
    return replace(large(address, *blocks), is_expandable=True)


def test_memory_mapped_below_the_first_range_tells_where_the_reservation_begins() -> None:
    # Earlier, the first 40 MiB were returned to the driver; a new request maps there, not at the end.
    settings = AllocatorSettings(expandable_segments=True)
    end = [
        expandable(BASE, (30 * MIB, 30 * MIB, "active_allocated"), (10 * MIB, 0, "inactive")),
        expandable(BASE + 60 * MIB, (20 * MIB, 20 * MIB, "active_allocated")),
    ]
    events = (event("segment_map", BASE, 40 * MIB), event("alloc", BASE, 30 * MIB))
    result = replay_device(DeviceSnapshot(0, tuple(end), events, False), settings)
    assert (result.verdict, result.first_mismatch) == ("exact", None)


# ---------------------------------------------------------------------- recordings cut at any point


class Recorder:
    """Makes the trace that PyTorch would record, with the model in the place of PyTorch."""

    def __init__(self, conf: str) -> None:
        self.events: list[TraceEvent] = []
        self.settings = AllocatorSettings.parse(conf)
        self.allocator = CachingAllocator(
            settings=self.settings,
            segment_address=rising_addresses(BASE),
            on_segment_event=lambda each: self.events.append(event(*each)),
        )

    def malloc(self, size_bytes: int) -> tuple[int, int]:
        address = self.allocator.malloc(size_bytes)
        self.events.append(event("alloc", address, size_bytes))
        return address, size_bytes

    def free(self, address: int, size_bytes: int) -> None:
        self.allocator.free(address)
        self.events.extend(freed(address, size_bytes))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("mmfme"), st.integers(1, 40 * MIB)), min_size=5, max_size=60),
    st.floats(0, 1),
    st.sampled_from(["", "expandable_segments:True"]),
)
def test_the_state_at_the_start_of_a_cut_recording_is_found(
    calls: list[tuple[str, int]], cut: float, conf: str
) -> None:
    recorder = Recorder(conf)
    live: list[tuple[int, int]] = []
    cuts: list[tuple[int, tuple[Segment, ...]]] = []
    for call, value in calls:
        cuts.append((len(recorder.events), recorder.allocator.segments()))
        if call == "m":
            live.append(recorder.malloc(value if value % 3 else value % MIB + 1))
        elif call == "f" and live:
            recorder.free(*live.pop(value % len(live)))
        elif call == "e":
            recorder.allocator.empty_cache()
    first, before = cuts[int(cut * (len(cuts) - 1))]
    events = tuple(recorder.events[first:])
    device = DeviceSnapshot(0, recorder.allocator.segments(), events, False)
    start, ambiguous = initial_segments(device, recorder.settings)
    assert [(each.address, each.total_size_bytes) for each in start] == [
        (each.address, each.total_size_bytes) for each in before
    ]
    if ambiguous == 0:
        assert start == before
        assert not events or replay_device(device, recorder.settings).verdict == "exact"


_ACTIONS = ["alloc", "free_requested", "free_completed", "segment_alloc", "segment_free", "segment_map"]
_ACTIONS += ["segment_unmap", "snapshot", "oom", "unheard_of"]
_EVENTS = st.builds(
    event,
    st.sampled_from(_ACTIONS),
    st.integers(0, 12).map(lambda index: BASE + index * 4 * MIB),
    st.sampled_from([0, 1, 512, MIB, 2 * MIB, 4 * MIB, 12 * MIB, 20 * MIB]),
    st.integers(0, 1),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_EVENTS, min_size=1, max_size=12), st.booleans(), st.integers(0, 5))
def test_no_trace_makes_the_replay_raise(events: list[TraceEvent], is_expandable: bool, used: int) -> None:
    blocks = [(4 * MIB, 4 * MIB, "active_allocated")] * used + [(20 * MIB - used * 4 * MIB, 0, "inactive")]
    segment = replace(large(BASE, *(block for block in blocks if block[0])), is_expandable=is_expandable)
    result = run([segment], *events)
    assert result.verdict in ("exact", "differs", "unsupported")
    assert (result.first_mismatch is None) == (result.verdict == "exact")


def test_the_replay_needs_no_torch() -> None:
    code = "import sys, profiler.replay; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
