"""What a program on the virtual GPU left (recording.inside.program), as one run a process and GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.device import UNKNOWN, VIRTUAL, Device
from profiler.recording.virtual.event_stream import Asked
from profiler.recording.virtual.reading import (
    ALLOCATED,
    REFUSED,
    PhaseEnd,
    events_of,
    of_one_device,
    read_records,
    segment_changes,
)
from profiler.trace.events import Allocation, Mark, Place
from profiler.trace.phase import Phase
from profiler.trace.run import Run, phases_told_by, until_last_phase
from profiler.trace.segments import SegmentChange

if TYPE_CHECKING:
    import numpy as np

    from profiler.gpu.cards import GPU

_STOPPED = "not whole: there was no room to write down what followed; set TMPDIR to a larger disk"
_AT_THE_END = "after the last phase"


@dataclass(frozen=True)
class ProgramProcess:
    """One process on one GPU.

    Attributes:
        pid, rank, device: the process, its rank ("" without a process group) and the GPU's number.
        command: the arguments of the Python process, [] where it did not come to say them.
        ended: what ended it, in words; "" for its own end, or if it was killed.
        failed: whether that was an error of the program's.
        run: its allocations; of what was not attributed, sizes asked for are those of the blocks.
        elsewhere_bytes: the most device memory that was taken past PyTorch's allocator.
    """

    pid: int
    rank: str
    device: int
    command: Sequence[str]
    ended: str
    failed: bool
    run: Run
    elsewhere_bytes: int


def read_program(folder: Path, gpu: GPU) -> list[ProgramProcess]:
    """The processes that used a `gpu`, by rank and process."""
    found = [process for events in folder.glob("*/events") for process in _processes(events.parent, gpu)]
    return sorted(found, key=lambda process: (process.rank.zfill(6), process.pid, process.device))


def _processes(folder: Path, gpu: GPU) -> Iterator[ProgramProcess]:
    import numpy as np

    records = read_records(folder)
    places = [_asked(line) for line in _lines(folder / "places.jsonl")]
    ends = [_phase_end(line) for line in _lines(folder / "marks.jsonl")]
    said: dict[str, Any] = next(_lines(folder / "process.json"), {})
    requests = np.isin(records["kind"], (ALLOCATED, REFUSED))
    for device in np.unique(records["device"][requests]).tolist():
        of_device = of_one_device(records, device)
        command = said.get("command", [])
        changes, elsewhere_bytes = segment_changes(of_device)
        run = _run(of_device, places, ends, changes)
        note = _STOPPED if (folder / "stopped").exists() else ""
        run = replace(run, device=Device(VIRTUAL, gpu), name=" ".join(map(str, command)), note=note)
        words = (said.get("rank", ""), device, command, said.get("ended", ""), said.get("failed", False))
        yield ProgramProcess(int(folder.name.partition("-")[0]), *words, run, elsewhere_bytes)


def _run(
    records: np.ndarray,
    places: list[Asked],
    ends: list[PhaseEnd],
    changes: Mapping[int, SegmentChange],
) -> Run:
    events = events_of(records, places, ends, changes)
    entries, reserved = events.entries, events.reserved_bytes
    end = until_last_phase(entries)
    unfinished = end == len(entries) and not isinstance(entries[-1], Mark)
    if (
        unfinished
        or any(isinstance(entry, Allocation) for entry in entries[end:])
        or any(request.position + 1 >= end for request in events.refusals)
    ):
        last = next((entry.phase.step for entry in reversed(entries) if isinstance(entry, Mark)), 0)
        entries.append(Mark(Phase(last, _AT_THE_END), {}))
        reserved.append(reserved[-1] if reserved else 0)
    else:
        del entries[end:], reserved[end:]
    return Run(
        Device(UNKNOWN),
        "",
        entries,
        phases_told_by(entries, reserved),
        reserved,
        segment_changes={at: found for at, found in events.segment_changes.items() if at < len(entries)},
        refusals=tuple(events.refusals),
    )


def _phase_end(said: dict[str, Any]) -> PhaseEnd:
    labels = {address: category for category, found in said["labels"].items() for address in found}
    modules = {address: module for module, found in said["modules"].items() for address in found}
    return PhaseEnd(Mark(Phase(said["step"], said["phase"], said["micro_batch"]), labels), modules)


def _asked(line: list[str]) -> Asked:
    module, where, op = line
    return Asked(Place(module, where), op)


def _lines(path: Path) -> Iterator[Any]:
    """Each line's JSON; one that was cut off by a crash ends them."""
    try:
        text = path.read_text()
    except OSError:
        return
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return
