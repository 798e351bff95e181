"""The allocator model against traces of real GPUs: every address, every segment, the end of memory."""

import pytest

from profiler.gpu.allocator import CachingAllocator, DeviceOutOfMemory, SegmentEvent
from profiler.gpu.allocator.addresses import ChosenAddresses
from profiler.gpu.replay import replay
from profiler.gpu.snapshot import load_snapshot
from tests.support.groundtruth import index_rows, load, needs_snapshots, snapshot_path


@needs_snapshots
@pytest.mark.parametrize("row", index_rows(), ids=lambda row: row["file"])
def test_every_address_and_segment_of_a_recorded_trace_is_reproduced(row: dict[str, str]) -> None:
    snapshot = load_snapshot(snapshot_path(row["file"]))
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


@needs_snapshots
def test_all_kinds_of_recordings_are_there() -> None:
    verdicts = [row["verdict"] for row in index_rows()]
    assert {verdict: verdicts.count(verdict) for verdict in ("exact", "diff", "expandable")} == {
        "exact": 65,
        "diff": 5,
        "expandable": 5,
    }


@needs_snapshots
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
        addresses=ChosenAddresses(lambda size_bytes: next(bases)),
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
