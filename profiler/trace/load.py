"""One run from a file: a saved one (Parquet, profiler.trace.file), or a CUDA memory snapshot."""

from __future__ import annotations

from array import array
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from profiler.device import CUDA, UNKNOWN, Device
from profiler.errors import ProfilerError, first_line
from profiler.gpu.allocator import AllocatorSettings, SegmentInfo
from profiler.gpu.allocator.blocks import MIN_BLOCK_SIZE_BYTES
from profiler.gpu.replay import replay_device
from profiler.gpu.replay.acts import ALLOC, FREES, Acts
from profiler.gpu.snapshot import DeviceSnapshot, Snapshot, collecting_no_garbage, load_snapshot
from profiler.gpu.stacks import origin
from profiler.gpu.trace_events import Frame
from profiler.trace.events import Allocation, Entry, Free, Place
from profiler.trace.file import Content, read_content
from profiler.trace.file_metadata import said
from profiler.trace.run import (
    OF_A_PHASE,
    OF_A_RUN,
    VERSION,
    PhaseMeasurement,
    Refusal,
    Run,
    phases_told_by,
    until_last_phase,
)
from profiler.units import format_bytes, round_up

_PARQUET = b"PAR1"  # how such a file begins
_OLDER = "the file does not say where it ran, or what the allocator reserved"
_NOT_REPLAYED = "block sizes are the requests rounded up to 512 bytes: the trace cannot be replayed"

# Frames that profiler.views.memory_viz writes beside the line of Python.
OPERATION_FRAME, CATEGORY_FRAME, MODULE_FRAME = "operation", "category", "module"
_OWN_FRAMES = (OPERATION_FRAME, CATEGORY_FRAME, MODULE_FRAME)


def load(
    path: Path, device: int | None = None, on_progress: Callable[[int], object] = lambda read_bytes: None
) -> Run:
    """Read a file of `Run.save` (`profiler report --save`), or `torch.cuda.memory._dump_snapshot`.

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
        run = read_run(path)
        if not run.allocations:
            raise ProfilerError(f"{path}: no allocations; save a run that has some")
        end = until_last_phase(run.entries)  # older files go on
        name = run.name or path.name
        return replace(run, name=name, entries=run.entries[:end], reserved_bytes=run.reserved_bytes[:end])
    with collecting_no_garbage():
        snapshot = load_snapshot(path, on_progress)
        chosen = busiest(snapshot) if device is None else snapshot.device(device)
        told = _from_snapshot(chosen, snapshot.settings) if chosen is not None else None
    if chosen is None or told is None or not told.allocations:
        raise ProfilerError(f"{path}: no allocations; record with torch.cuda.memory._record_memory_history()")
    notes = filter(None, (which_device(snapshot, chosen), told.note))
    return replace(told, name=path.name, note="; ".join(notes))


def read_run(path: Path) -> Run:
    """The run in a file of `Run.save`, this version's or an older one's, whole.

    Raises ProfilerError for a file that is missing or not such a run.
    """
    content = read_content(path)
    try:
        return _from_content(content)
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ProfilerError(f"{path} is not a readable trace ({first_line(error)})") from error


def _from_content(content: Content) -> Run:
    told = phases_told_by(content.entries, content.reserved_bytes)
    phases = tuple(
        replace(phase, **said(PhaseMeasurement, words, OF_A_PHASE)) if words else phase
        for phase, words in zip(told, content.phase_words, strict=True)
    )
    if not content.run_words:
        return Run(Device(UNKNOWN), "", content.entries, phases, content.reserved_bytes, note=_OLDER)
    values = said(Run, content.run_words, OF_A_RUN, VERSION)
    run = Run(
        entries=content.entries,
        phases=phases,
        reserved_bytes=content.reserved_bytes,
        segment_changes=content.segment_changes,
        **values,
    )
    if any(refusal.position >= len(run.entries) for refusal in run.refusals):
        raise ValueError("a request was refused after the last entry")
    return run


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


def _from_snapshot(device: DeviceSnapshot, settings: AllocatorSettings) -> Run:
    """A snapshot says what was asked for; what the blocks then took is what the allocator model gives."""
    events, acts = device.events, Acts(device.events)
    replayed = replay_device(device, settings)
    timeline = replayed.timeline
    exact = len(timeline.allocated_bytes) == len(events)
    before = _requested_before(device, acts)
    sizes = {address: _rounded(requested_bytes) for address, requested_bytes in before.items()}
    sizes |= {block.address: block.size_bytes for each in replayed.start for block in each.blocks}
    entries: list[Entry] = [
        Allocation(address, sizes[address], requested_bytes, "before the recording")
        for address, requested_bytes in before.items()
    ]
    told = array("q", [-1]) * len(entries)  # the event that each entry is
    alive, origins = set(before), _Origins()
    frees: dict[int, Free] = {}  # of the few addresses that are handed out again and again
    at_start_bytes = sum(sizes[address] for address in before)
    for index, kind, address, requested_bytes, _ in acts:
        if kind == ALLOC:
            size_bytes = _rounded(requested_bytes)
            if exact:
                last_bytes = timeline.allocated_bytes[index - 1] if index else at_start_bytes
                size_bytes = timeline.allocated_bytes[index] - last_bytes
            op, category, where = origins.of(events.frames(index))
            entries.append(Allocation(address, size_bytes, requested_bytes, op, category, where))
            alive.add(address)
        elif kind in FREES and address in alive:
            free = frees.get(address)
            if free is None:
                free = frees[address] = Free(address)
            entries.append(free)
            alive.remove(address)
        else:
            continue
        told.append(index)
    note = "" if exact else _NOT_REPLAYED
    reserved_bytes = _reserved(timeline.reserved_bytes, told, replayed.start) if exact else ()
    refusals = tuple(
        Refusal(each.size_bytes, origin(each.frames), None, bisect(told, index) - 1, free_bytes=each.address)
        for index, each in device.out_of_memory
    )
    return Run(Device(CUDA), "", entries, (), reserved_bytes, refusals=refusals, note=note)


def _reserved(after_events: Sequence[int], told: Sequence[int], start: Sequence[SegmentInfo]) -> array[int]:
    """What was reserved after each entry."""
    at_start = sum(segment.total_size_bytes for segment in start)
    return array("q", (after_events[index] if index >= 0 else at_start for index in told))


def _requested_before(device: DeviceSnapshot, acts: Acts) -> dict[int, int]:
    """Address and requested bytes of the blocks handed out before the first event."""
    import numpy as np

    kinds, columns = acts.kinds, device.events.columns()
    at = np.flatnonzero(np.isin(kinds, (ALLOC, *FREES)))
    addresses, first = np.unique(columns.addresses[at], return_index=True)
    freed = np.sort(at[first[kinds[at[first]] != ALLOC]])
    before = dict(zip(columns.addresses[freed].tolist(), columns.sizes[freed].tolist(), strict=True))
    seen = set(addresses.tolist())
    for segment in device.segments:
        for block in segment.blocks:
            if block.state == "active_allocated" and block.address not in seen:
                before[block.address] = block.requested_bytes
    return before


def _rounded(size_bytes: int) -> int:
    return max(MIN_BLOCK_SIZE_BYTES, round_up(size_bytes, MIN_BLOCK_SIZE_BYTES))


class _Origins:
    """What stacks say: the operation, the category and the place. The same few stacks come again."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[str, str, Place | None]] = {}  # by identity, which the events keep

    def of(self, frames: Sequence[Frame]) -> tuple[str, str, Place | None]:
        found = self.known.get(id(frames))
        if found is None:
            found = self.known[id(frames)] = _said_by(frames)
        return found


def _said_by(frames: Sequence[Frame]) -> tuple[str, str, Place | None]:
    """What the frames name: those of our own export, or a recorded stack."""
    said = {frame.filename: frame.name for frame in frames if frame.filename in _OWN_FRAMES}
    if OPERATION_FRAME not in said:
        return "", "", Place("", origin(frames)) if frames else None
    lines = [f"{f.filename}:{f.line} {f.name}".rstrip() for f in frames if f.filename not in _OWN_FRAMES]
    place = Place(said.get(MODULE_FRAME, ""), lines[0] if lines else "")
    return said[OPERATION_FRAME], said.get(CATEGORY_FRAME, ""), place
