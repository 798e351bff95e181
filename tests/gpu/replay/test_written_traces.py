"""Short traces written by hand: what a replay finds, infers and refuses."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from profiler.gpu.allocator import AllocatorSettings, BlockInfo
from profiler.gpu.allocator.addresses import LinuxAddresses
from profiler.gpu.replay import initial_segments, replay_device, summary
from profiler.gpu.snapshot import DeviceSnapshot
from profiler.gpu.trace_events import TraceEvent, TraceEvents
from tests.support.traces import BASE, MIB, NO_OPTIONS, event, expandable, freed, large, run

ROOT = Path(__file__).resolve().parents[3]


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
    assert list(result.timeline.allocated_bytes) == [0, 5 * MIB, 0, 0, 3 * MIB]
    # The segment is taken within the allocation, after its event.
    assert list(result.timeline.reserved_bytes) == [0, 20 * MIB, 20 * MIB, 20 * MIB, 20 * MIB]


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


@pytest.mark.parametrize(
    ("taken", "rule"), [(BASE, "before torch 2.12"), (BASE + 64 * MIB, "from torch 2.12")]
)
def test_the_choice_among_equal_free_blocks_is_named(taken: int, rule: str) -> None:
    """Of two free segments of 12 MiB the lower one, which is the younger, or the older one."""
    older, younger = BASE + 64 * MIB, BASE
    states = {True: (12 * MIB, 12 * MIB, "active_allocated"), False: (12 * MIB, 0, "inactive")}
    end = tuple(large(at, states[at == taken]) for at in (younger, older))
    events = []
    for at in (older, younger):
        events += [event("segment_alloc", at, 12 * MIB), event("alloc", at, 12 * MIB)]
    for at in (older, younger):
        events += freed(at, 12 * MIB)
    recorded = DeviceSnapshot(0, end, TraceEvents((*events, event("alloc", taken, 12 * MIB))), False)
    result = replay_device(recorded, NO_OPTIONS, every_rule=True)
    assert (result.verdict, result.rule, result.rules_that_hold) == ("exact", rule, (rule,))
    assert dict(summary(result))["of equal free blocks"].endswith(f"as {rule}")
    before = DeviceSnapshot(0, (large(BASE, states[True]),), TraceEvents(events[2:4]), False)
    either = replay_device(before, NO_OPTIONS, every_rule=True)
    assert either.rules_that_hold == ("before torch 2.12", "from torch 2.12")


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
    start, ambiguous = initial_segments(
        DeviceSnapshot(0, (whole,), TraceEvents(events[:2]), False), NO_OPTIONS
    )
    assert start == (large(BASE, (12 * MIB, request, "active_allocated")),)
    assert ambiguous == 0


def test_an_older_block_before_much_free_memory_is_ambiguous() -> None:
    # A rest of up to 1 MiB may have belonged to the block: nothing recorded tells.
    end = large(BASE, (20 * MIB, 0, "inactive"))
    start, ambiguous = initial_segments(
        DeviceSnapshot(0, (end,), TraceEvents(freed(BASE, 3 * MIB)), False), NO_OPTIONS
    )
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
    device = DeviceSnapshot(0, (end,), TraceEvents(events), False)
    start, ambiguous = initial_segments(device, NO_OPTIONS)
    assert start[0].blocks[0] == BlockInfo(BASE, 3 * MIB + MIB // 2, 3 * MIB, "active_allocated")
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
    assert list(result.timeline.allocated_bytes) == [0, 3 * MIB, 0, 3 * MIB, 3 * MIB]


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
    assert list(result.timeline.allocated_bytes) == [0, 3 * MIB, 0, 4 * MIB, 0]


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
        ("peak requested", "3.0 MiB"),
        ("peak allocated", "3.0 MiB"),
        ("peak reserved", "20.0 MiB"),
        ("of equal free blocks", "either rule gives every address, before torch 2.12 and from torch 2.12"),
    ]
    differs = dict(summary(replace(result, verdict="differs", first_mismatch="event 1", ambiguous_blocks=2)))
    assert (differs["first mismatch"], differs["blocks of unrecorded size"]) == ("event 1", "2")


def test_memory_mapped_below_the_first_range_tells_where_the_reservation_begins() -> None:
    # Earlier, the first 40 MiB were returned to the driver; a new request maps there, not at the end.
    settings = AllocatorSettings(expandable_segments=True)
    end = [
        expandable(BASE, (30 * MIB, 30 * MIB, "active_allocated"), (10 * MIB, 0, "inactive")),
        expandable(BASE + 60 * MIB, (20 * MIB, 20 * MIB, "active_allocated")),
    ]
    events = (event("segment_map", BASE, 40 * MIB), event("alloc", BASE, 30 * MIB))
    result = replay_device(DeviceSnapshot(0, tuple(end), TraceEvents(events), False), settings)
    assert (result.verdict, result.first_mismatch) == ("exact", None)


def test_the_replay_needs_no_torch() -> None:
    code = "import sys, profiler.gpu.replay; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_segment_that_only_the_model_takes_lies_where_no_recorded_one_can() -> None:
    """A stream was recorded wrongly: the model takes a segment that the recording lacks, then one it has."""
    first = LinuxAddresses().take(20 * MIB)
    result = run(
        [large(BASE, (20 * MIB, 0, "inactive")), large(first, (20 * MIB, 0, "inactive"))],
        event("segment_alloc", BASE, 20 * MIB),
        event("alloc", BASE, 20 * MIB),
        *freed(BASE, 20 * MIB),
        event("alloc", BASE, 20 * MIB, stream=7),
        event("segment_alloc", first, 20 * MIB),
        event("alloc", first, 20 * MIB, stream=8),
        *freed(first, 20 * MIB),
        *freed(BASE, 20 * MIB),
    )
    assert (result.verdict, result.addresses_mismatched) == ("differs", 1)


def test_a_request_that_no_address_space_holds_is_a_difference() -> None:
    result = run(
        [large(BASE, (20 * MIB, 0, "inactive"))], event("alloc", BASE, 200 << 40), *freed(BASE, 200 << 40)
    )
    assert result.verdict in ("differs", "unsupported")
