"""What a program on the virtual GPU left (recording.inside.program), as one run a process and GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.recording.workspaces import with_workspaces
from profiler.trace.events import Allocation, Free, Mark, Place
from profiler.trace.load import SavedRun, until_last_phase
from profiler.trace.phase import Phase

if TYPE_CHECKING:
    import numpy as np

_ALLOCATED, _FREED, _MARKED, _REFUSED = 1, 2, 3, 4
_AT_THE_END = "after the last phase"
_FIELDS = [  # struct record of stand_ins/events.c
    *((name, "<u8") for name in ("address", "size", "requested", "allocated", "reserved")),
    *(("place", "<u4"), ("kind", "u1"), ("device", "u1"), ("unused", "<u2")),
]


@dataclass(frozen=True)
class Refused:
    """A request that the GPU had no room for; bytes as they were at it."""

    phase: Phase
    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int
    where: Place | None
    op: str


@dataclass(frozen=True)
class ProgramRun:
    """One process on one GPU.

    Attributes:
        pid, rank, device: the process, its RANK ("" without) and the GPU's number.
        command: the arguments of the Python process, [] where it did not come to say them.
        ended: what ended it, in words; "" for its own end, or if it was killed.
        run: its allocations; of what was not attributed, sizes asked for are those of the blocks.
        refused: requests that found no room, in order; a program may go on after one.
    """

    pid: int
    rank: str
    device: int
    command: Sequence[str]
    ended: str
    run: SavedRun
    refused: Sequence[Refused]


def read_program(folder: Path) -> list[ProgramRun]:
    """The processes that used a GPU, by rank and process."""
    runs = [run for events in folder.glob("*/events") for run in _process(events.parent)]
    return sorted(runs, key=lambda run: (run.rank.zfill(6), run.pid, run.device))


def _process(folder: Path) -> Iterator[ProgramRun]:
    import numpy as np

    file = np.memmap(folder / "events", dtype=np.dtype(_FIELDS), mode="r")
    records: np.ndarray = file[: int(np.count_nonzero(file["kind"]))]
    places = [_place(line) for line in _lines(folder / "places.jsonl")]
    marks = list(_lines(folder / "marks.jsonl"))
    said: dict[str, Any] = next(_lines(folder / "process.json"), {})
    for device in np.unique(records["device"][records["kind"] != _MARKED]).tolist():
        of_device = records[(records["kind"] == _MARKED) | (records["device"] == device)]
        run, refused = _run(of_device, places, marks)
        pid = int(folder.name.partition("-")[0])
        yield ProgramRun(
            pid, said.get("rank", ""), device, said.get("command", []), said.get("ended", ""), run, refused
        )


def _run(
    records: np.ndarray, places: list[tuple[Place, str]], marks: list[dict[str, Any]]
) -> tuple[SavedRun, list[Refused]]:
    entries: list[Allocation | Free | Mark] = []
    reserved: list[int] = []
    refused: list[tuple[int, Refused]] = []
    alive: dict[int, int] = {}
    for address, size, requested, allocated, held, number, kind, *_ in records.tolist():
        where, op = places[number - 1] if 0 < number <= len(places) else (None, "")
        if kind == _ALLOCATED:
            alive[address] = len(entries)
            entries.append(Allocation(address, size, requested or size, op, "", where))
            reserved.append(held)
        elif kind == _FREED:
            alive.pop(address, None)
            entries.append(Free(address))
            reserved.append(held)
        elif kind == _REFUSED:
            request = Refused(Phase(0, _AT_THE_END), requested or size, allocated, held, where, op)
            refused.append((len(entries), request))
        elif address <= len(marks):
            _name_modules(entries, alive, marks[address - 1])
            entries.append(_mark(marks[address - 1]))
            reserved.append(reserved[-1] if reserved else 0)
    end = until_last_phase(entries)
    unfinished = end == len(entries) and not isinstance(entries[-1], Mark)
    if (
        unfinished
        or any(isinstance(entry, Allocation) for entry in entries[end:])
        or any(position >= end for position, _ in refused)
    ):
        last = next((entry.phase.step for entry in reversed(entries) if isinstance(entry, Mark)), 0)
        entries.append(Mark(Phase(last, _AT_THE_END), {}))
        reserved.append(reserved[-1] if reserved else 0)
    return SavedRun(with_workspaces(entries), reserved, ""), [_in_phase(entries, *each) for each in refused]


def _name_modules(entries: list[Any], alive: dict[int, int], mark: dict[str, Any]) -> None:
    """A parameter is made outside of any call of its module, a gradient by autograd: whose they are is known
    at the end of the phase."""
    for module, addresses in mark["modules"].items():
        for address in addresses:
            position = alive.get(address)
            if position is None:
                continue
            entry = entries[position]
            if not (entry.where and entry.where.module):
                entries[position] = replace(
                    entry, where=Place(module, entry.where.line if entry.where else "")
                )


def _mark(said: dict[str, Any]) -> Mark:
    labels = {address: category for category, found in said["labels"].items() for address in found}
    return Mark(Phase(said["step"], said["phase"], said["micro_batch"]), labels)


def _in_phase(entries: list[Any], position: int, request: Refused) -> Refused:
    mark = next(entry for entry in entries[position:] if isinstance(entry, Mark))
    return replace(request, phase=mark.phase)


def _place(line: list[str]) -> tuple[Place, str]:
    module, where, op = line
    return Place(module, where), op


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
