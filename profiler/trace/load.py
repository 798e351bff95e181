"""One run read back from a file: a saved simulation or recording (Parquet), or a CUDA memory snapshot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.gpu.allocator import AllocatorSettings
from profiler.gpu.allocator.blocks import MIN_BLOCK_SIZE_BYTES
from profiler.gpu.replay import initial_segments, replay_device
from profiler.gpu.snapshot import DeviceSnapshot, Snapshot, load_snapshot
from profiler.gpu.stacks import origin
from profiler.gpu.trace_events import TraceEvent
from profiler.trace.events import Allocation, Free, Mark, Place
from profiler.trace.file import read_trace
from profiler.trace.moments import Entries, Moment, peaks
from profiler.trace.phase import Phase
from profiler.trace.segments import Changes
from profiler.units import format_bytes, round_up

_PARQUET = b"PAR1"  # how such a file begins
_FREES = ("free_requested", "free_completed")
_NOT_REPLAYED = "block sizes are the requests rounded up to 512 bytes: the trace cannot be replayed"

# Frames that profiler.views.memory_viz writes beside the line of Python.
OPERATION_FRAME, CATEGORY_FRAME, MODULE_FRAME = "operation", "category", "module"
_OWN_FRAMES = (OPERATION_FRAME, CATEGORY_FRAME, MODULE_FRAME)


@dataclass(frozen=True)
class FailedRequest:
    """A request that ran out of memory, after the entry at `position` (-1: before all)."""

    requested_bytes: int
    free_bytes: int
    origin: str
    position: int


@dataclass(frozen=True)
class SavedRun:
    """What a file says of a run.

    Attributes:
        entries: allocations and frees in order, with the ends of the phases where the file has them.
        reserved_bytes: what the allocator held after each entry; empty where the file does not say.
        note: what the file leaves open, in words, or "".
        out_of_memory: the requests that the device had no room for.
        segment_changes: memory taken from the driver and given back; empty where that is not known.
    """

    entries: Entries
    reserved_bytes: Sequence[int]
    note: str
    out_of_memory: tuple[FailedRequest, ...] = ()
    segment_changes: Changes = field(default_factory=dict)

    def peak(self) -> Moment:
        """The first moment with the most allocated; of a run without phases, that of the whole recording."""
        entries, reserved = self.entries, self.reserved_bytes or [0] * len(self.entries)
        if not any(isinstance(entry, Mark) for entry in entries):
            entries, reserved = [*entries, Mark(Phase(0, "the recording"), {})], [*reserved, 0]
        return max(peaks(entries, reserved), key=lambda moment: moment.allocated_bytes)


def until_last_phase(entries: Entries) -> int:
    """How many entries there are to the end of the last phase: what follows is the program's end.

    All of them, where there are no phases.
    """
    return max((i + 1 for i, e in enumerate(entries) if isinstance(e, Mark)), default=len(entries))


def load(
    path: Path, device: int | None = None, on_progress: Callable[[int], object] = lambda read_bytes: None
) -> SavedRun:
    """Read a file of `profiler report --save`, `Recording.save`, or `torch.cuda.memory._dump_snapshot`.

    Args:
        path: the file.
        device: which device of a snapshot; of several the one with the most events, which `note` then names.
        on_progress: told now and then how many bytes of a snapshot are read.

    Raises ProfilerError, in one line, for anything else.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_PARQUET))
    except OSError as error:
        raise ProfilerError(f"{path}: {error.strerror}") from error
    if start == _PARQUET:
        if device is not None:
            raise ProfilerError(f"--device is for snapshots; {path} is a saved run, of one device")
        entries = read_trace(path)
        if not any(isinstance(entry, Allocation) for entry in entries):
            raise ProfilerError(f"{path}: no allocations; save a run that has some")
        return SavedRun(entries[: until_last_phase(entries)], (), "")
    snapshot = load_snapshot(path, on_progress)
    chosen = busiest(snapshot) if device is None else snapshot.device(device)
    run = _from_snapshot(chosen, snapshot.settings) if chosen else None
    if chosen is None or run is None or not any(isinstance(entry, Allocation) for entry in run.entries):
        raise ProfilerError(f"{path}: no allocations; record with torch.cuda.memory._record_memory_history()")
    return replace(run, note="; ".join(filter(None, (which_device(snapshot, chosen), run.note))))


def busiest(snapshot: Snapshot) -> DeviceSnapshot | None:
    """The device with the most events, and of equal ones with the most reserved."""
    return max(snapshot.devices, key=lambda each: (len(each.events), each.reserved_bytes), default=None)


def which_device(snapshot: Snapshot, chosen: DeviceSnapshot) -> str:
    """Which device of several a snapshot is shown of, and what the others hold; "" where there is one."""
    others = [
        f"device {each.device} ({len(each.events):,} events, {format_bytes(each.reserved_bytes)} reserved)"
        for each in snapshot.devices
        if each is not chosen and (each.events or each.segments)
    ]
    return f"shown is device {chosen.device}; there is also {', '.join(others)}: --device" if others else ""


def _from_snapshot(device: DeviceSnapshot, settings: AllocatorSettings) -> SavedRun:
    """A snapshot says what was asked for; what the blocks then took is what the allocator model gives."""
    timeline = replay_device(device, settings).timeline
    replayed = len(timeline.allocated_bytes) == len(device.events)
    before = _requested_before(device)
    sizes = {address: _rounded(requested_bytes) for address, requested_bytes in before.items()}
    reserved_bytes: list[int] = []
    if replayed:
        segments, _ = initial_segments(device, replace(settings, memory_fraction=1.0))
        sizes |= {block.address: block.size_bytes for each in segments for block in each.blocks}
        reserved_bytes = [sum(segment.total_size_bytes for segment in segments)] * len(before)
    entries: list[Allocation | Free | Mark] = [
        Allocation(address, sizes[address], requested_bytes, "before the recording")
        for address, requested_bytes in before.items()
    ]
    alive = set(before)
    failed: list[FailedRequest] = []
    allocated_bytes = sum(sizes[address] for address in before)
    for index, event in enumerate(device.events):
        if event.action == "alloc":
            size_bytes = _rounded(event.size_bytes)
            if replayed:
                size_bytes = timeline.allocated_bytes[index] - allocated_bytes
            entries.append(_allocation(event, size_bytes))
            alive.add(event.address)
        elif event.action in _FREES and event.address in alive:
            entries.append(Free(event.address))
            alive.remove(event.address)
        elif event.action == "oom":
            asked = (event.size_bytes, event.address, origin(event.frames))
            failed.append(FailedRequest(*asked, len(entries) - 1))
        if replayed:
            allocated_bytes = timeline.allocated_bytes[index]
            reserved_bytes += [timeline.reserved_bytes[index]] * (len(entries) - len(reserved_bytes))
    return SavedRun(entries, reserved_bytes, "" if replayed else _NOT_REPLAYED, tuple(failed))


def _requested_before(device: DeviceSnapshot) -> dict[int, int]:
    """Address and requested bytes of the blocks handed out before the first event."""
    before: dict[int, int] = {}
    seen: set[int] = set()
    for event in device.events:
        if event.action in _FREES and event.address not in seen:
            before[event.address] = event.size_bytes
        if event.action == "alloc" or event.action in _FREES:
            seen.add(event.address)
    for segment in device.segments:
        for block in segment.blocks:
            if block.state == "active_allocated" and block.address not in seen:
                before[block.address] = block.requested_bytes
    return before


def _rounded(size_bytes: int) -> int:
    return max(MIN_BLOCK_SIZE_BYTES, round_up(size_bytes, MIN_BLOCK_SIZE_BYTES))


def _allocation(event: TraceEvent, size_bytes: int) -> Allocation:
    """With what the frames name: those of our own export, or a recorded stack."""
    said = {frame.filename: frame.name for frame in event.frames if frame.filename in _OWN_FRAMES}
    if OPERATION_FRAME not in said:
        where = Place("", origin(event.frames)) if event.frames else None
        return Allocation(event.address, size_bytes, event.size_bytes, "", "", where)
    lines = [
        f"{f.filename}:{f.line} {f.name}".rstrip() for f in event.frames if f.filename not in _OWN_FRAMES
    ]
    return Allocation(
        event.address,
        size_bytes,
        event.size_bytes,
        said[OPERATION_FRAME],
        said.get(CATEGORY_FRAME, ""),
        Place(said.get(MODULE_FRAME, ""), lines[0] if lines else ""),
    )
