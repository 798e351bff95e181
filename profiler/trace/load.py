"""One run from a file: a saved one (Parquet, profiler.trace.file), or a CUDA memory snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from profiler.device import CUDA, Device
from profiler.errors import ProfilerError
from profiler.gpu.allocator import AllocatorSettings
from profiler.gpu.allocator.blocks import MIN_BLOCK_SIZE_BYTES
from profiler.gpu.replay import initial_segments, replay_device
from profiler.gpu.snapshot import DeviceSnapshot, Snapshot, load_snapshot
from profiler.gpu.stacks import origin
from profiler.gpu.trace_events import TraceEvent
from profiler.trace.events import Allocation, Free, Mark, Place
from profiler.trace.file import read_run
from profiler.trace.run import Refusal, Run, until_last_phase
from profiler.units import format_bytes, round_up

_PARQUET = b"PAR1"  # how such a file begins
_FREES = ("free_requested", "free_completed")
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
    snapshot = load_snapshot(path, on_progress)
    chosen = busiest(snapshot) if device is None else snapshot.device(device)
    if chosen is None or not (run := _from_snapshot(chosen, snapshot.settings)).allocations:
        raise ProfilerError(f"{path}: no allocations; record with torch.cuda.memory._record_memory_history()")
    notes = filter(None, (which_device(snapshot, chosen), run.note))
    return replace(run, name=path.name, note="; ".join(notes))


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
    refused: list[Refusal] = []
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
            asked = (event.size_bytes, origin(event.frames), None, len(entries) - 1)
            refused.append(Refusal(*asked, free_bytes=event.address))
        if replayed:
            allocated_bytes = timeline.allocated_bytes[index]
            reserved_bytes += [timeline.reserved_bytes[index]] * (len(entries) - len(reserved_bytes))
    note = "" if replayed else _NOT_REPLAYED
    return Run(Device(CUDA), "", entries, (), reserved_bytes, refusals=tuple(refused), note=note)


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
