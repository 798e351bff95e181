"""Recordings cut at any point, and traces of any events."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from profiler.gpu.allocator import AllocatorSettings, CachingAllocator, SegmentInfo
from profiler.gpu.replay import initial_segments, replay_device
from profiler.gpu.snapshot import DeviceSnapshot
from profiler.gpu.trace_events import TraceEvent, TraceEvents
from tests.support.traces import BASE, MIB, event, freed, large, run


class Recorder:
    """Makes the trace that PyTorch would record, with the model in the place of PyTorch."""

    def __init__(self, conf: str) -> None:
        self.events: list[TraceEvent] = []
        self.settings = AllocatorSettings.parse(conf)
        self.allocator = CachingAllocator(
            settings=self.settings,
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
    cuts: list[tuple[int, tuple[SegmentInfo, ...]]] = []
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
    device = DeviceSnapshot(0, recorder.allocator.segments(), TraceEvents(events), False)
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


# Whole frees and new segments alone: what is undone without a walk.
_PLAIN = _EVENTS.map(
    lambda each: {
        "alloc": (each,),
        "segment_alloc": (each,),
        "free_requested": freed(each.address, each.size_bytes),
    }.get(each.action, ())
)
_TRACES = st.one_of(
    st.lists(_EVENTS, min_size=1, max_size=12),
    st.lists(_PLAIN, min_size=1, max_size=24).map(lambda groups: [e for group in groups for e in group]),
)


@settings(max_examples=600, deadline=None)
@given(_TRACES, st.booleans(), st.integers(0, 5))
def test_no_trace_makes_the_replay_raise(events: list[TraceEvent], is_expandable: bool, used: int) -> None:
    blocks = [(4 * MIB, 4 * MIB, "active_allocated")] * used + [(20 * MIB - used * 4 * MIB, 0, "inactive")]
    segment = replace(large(BASE, *(block for block in blocks if block[0])), is_expandable=is_expandable)
    result = run([segment], *events)
    assert result.verdict in ("exact", "differs", "unsupported", "empty")
    assert (result.first_mismatch is None) == (result.verdict in ("exact", "empty"))
