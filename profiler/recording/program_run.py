"""What a program on the virtual GPU left (recording.inside.program), as one run a process and GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.device import UNKNOWN, VIRTUAL, Device
from profiler.recording.workspaces import with_workspaces
from profiler.trace.events import Allocation, Free, Mark, Place
from profiler.trace.phase import Phase
from profiler.trace.run import Refusal, Run, phases_told_by, until_last_phase
from profiler.trace.segments import Held, SegmentChange

if TYPE_CHECKING:
    import numpy as np

    from profiler.gpu.cards import GPU

_ALLOCATED, _FREED, _MARKED, _REFUSED = 1, 2, 3, 4
_TAKEN, _GIVEN_BACK, _MAPPED, _UNMAPPED = 5, 6, 7, 8
_SEGMENTS = {
    _TAKEN: "segment_alloc",
    _GIVEN_BACK: "segment_free",
    _MAPPED: "segment_map",
    _UNMAPPED: "segment_unmap",
}
_AT_THE_END = "after the last phase"
_FIELDS = [  # struct record of stand_ins/events.c
    *((name, "<u8") for name in ("address", "size", "requested", "allocated", "reserved")),
    *(("place", "<u4"), ("kind", "u1"), ("device", "u1"), ("stream", "u1"), ("unused", "u1")),
]


@dataclass(frozen=True)
class ProgramProcess:
    """One process on one GPU.

    Attributes:
        pid, rank, device: the process, its RANK ("" without) and the GPU's number.
        command: the arguments of the Python process, [] where it did not come to say them.
        ended: what ended it, in words; "" for its own end, or if it was killed.
        run: its allocations; of what was not attributed, sizes asked for are those of the blocks.
        elsewhere_bytes: the most device memory that was taken past PyTorch's allocator.
    """

    pid: int
    rank: str
    device: int
    command: Sequence[str]
    ended: str
    run: Run
    elsewhere_bytes: int


def read_program(folder: Path, gpu: GPU) -> list[ProgramProcess]:
    """The processes that used a `gpu`, by rank and process."""
    found = [process for events in folder.glob("*/events") for process in _processes(events.parent, gpu)]
    return sorted(found, key=lambda process: (process.rank.zfill(6), process.pid, process.device))


def _processes(folder: Path, gpu: GPU) -> Iterator[ProgramProcess]:
    import numpy as np

    file = np.memmap(folder / "events", dtype=np.dtype(_FIELDS), mode="r")
    records: np.ndarray = file[: int(np.count_nonzero(file["kind"]))]
    places = [_place(line) for line in _lines(folder / "places.jsonl")]
    marks = list(_lines(folder / "marks.jsonl"))
    said: dict[str, Any] = next(_lines(folder / "process.json"), {})
    requests = (records["kind"] == _ALLOCATED) | (records["kind"] == _REFUSED)
    for device in np.unique(records["device"][requests]).tolist():
        of_device = records[(records["kind"] == _MARKED) | (records["device"] == device)]
        command = said.get("command", [])
        changes, elsewhere_bytes = _segment_changes(of_device)
        run = _run(of_device, places, marks, changes)
        run = replace(run, device=Device(VIRTUAL, gpu), name=" ".join(map(str, command)))
        words = (said.get("rank", ""), device, command, said.get("ended", ""))
        yield ProgramProcess(int(folder.name.partition("-")[0]), *words, run, elsewhere_bytes)


def _segment_changes(records: np.ndarray) -> tuple[dict[int, SegmentChange], int]:
    """What PyTorch's allocator took and gave back, by the record's number; the most bytes that others held.

    The allocator takes memory to hand out a block of it at once: one that begins where the memory does, or,
    where pages are mapped into an expandable segment, the next one of all. Its stream is the segment's.
    """
    found: dict[int, SegmentChange] = {}
    held, unclaimed, pages = Held(), dict[int, tuple[int, int]](), list[tuple[int, int, int]]()
    others: list[tuple[int, int]] = []  # record's number, bytes more

    def own(number: int, kind: int, address: int, size_bytes: int, stream: int) -> None:
        found[number] = SegmentChange(_SEGMENTS[kind], address, size_bytes, stream)
        held.change(found[number])

    for number, (address, size_bytes, *_, kind, _, stream, _) in _that_tell_of_segments(records):
        if kind == _TAKEN:
            unclaimed[address] = number, size_bytes
        elif kind == _MAPPED:
            pages.append((number, address, size_bytes))
        elif kind == _ALLOCATED:
            for page in pages:
                own(page[0], _MAPPED, *page[1:], stream)
            pages.clear()
            if address in unclaimed:
                taken, taken_bytes = unclaimed.pop(address)
                own(taken, _TAKEN, address, taken_bytes, stream)
        elif address in unclaimed:
            others += [(unclaimed.pop(address)[0], size_bytes), (number, -size_bytes)]
        else:
            before = held.at(address)
            own(number, kind, address, size_bytes, before.stream if before is not None else 0)
    others += unclaimed.values()
    return found, max(accumulate((change for _, change in sorted(others)), initial=0))


def _that_tell_of_segments(records: np.ndarray) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The changes of segments and the blocks that claim them, with the records' numbers."""
    import numpy as np

    kinds, addresses = records["kind"], records["address"]
    births = kinds == _ALLOCATED
    telling = (kinds >= _TAKEN) | (births & np.isin(addresses, addresses[kinds == _TAKEN]))
    numbers = np.flatnonzero(births)
    after_pages = np.searchsorted(numbers, np.flatnonzero(kinds == _MAPPED))
    telling[numbers[after_pages[after_pages < len(numbers)]]] = True
    numbers = np.flatnonzero(telling)
    yield from zip(numbers.tolist(), records[numbers].tolist(), strict=True)


def _run(
    records: np.ndarray,
    places: list[tuple[Place, str]],
    marks: list[dict[str, Any]],
    changes: dict[int, SegmentChange],
) -> Run:
    entries: list[Allocation | Free | Mark] = []
    reserved: list[int] = []
    refused: list[Refusal] = []
    alive: dict[int, int] = {}
    segment_changes: dict[int, list[SegmentChange]] = {}
    for record, (address, size, requested, allocated, held, number, kind, *_) in enumerate(records.tolist()):
        if kind >= _TAKEN:
            if record in changes:
                _add_change(segment_changes.setdefault(len(entries), []), changes[record])
            continue
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
            refused.append(Refusal(requested or size, op, where, len(entries) - 1, allocated, held))
        elif address <= len(marks):
            _name_modules(entries, alive, marks[address - 1])
            entries.append(_mark(marks[address - 1]))
            reserved.append(reserved[-1] if reserved else 0)
    end = until_last_phase(entries)
    unfinished = end == len(entries) and not isinstance(entries[-1], Mark)
    if (
        unfinished
        or any(isinstance(entry, Allocation) for entry in entries[end:])
        or any(request.position + 1 >= end for request in refused)
    ):
        last = next((entry.phase.step for entry in reversed(entries) if isinstance(entry, Mark)), 0)
        entries.append(Mark(Phase(last, _AT_THE_END), {}))
        reserved.append(reserved[-1] if reserved else 0)
    else:
        del entries[end:], reserved[end:]
    entries = with_workspaces(entries)
    return Run(
        Device(UNKNOWN),
        "",
        entries,
        phases_told_by(entries, reserved),
        reserved,
        segment_changes={at: found for at, found in segment_changes.items() if at < len(entries)},
        refusals=tuple(refused),
    )


def _add_change(changes: list[SegmentChange], change: SegmentChange) -> None:
    """The driver maps memory page by page: pages beside each other are one change, as in a snapshot."""
    before = changes[-1] if changes else None
    paged = change.action in ("segment_map", "segment_unmap")
    if before is not None and paged and before.action == change.action and before.end == change.address:
        changes[-1] = before._replace(size_bytes=before.size_bytes + change.size_bytes)
    else:
        changes.append(change)


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
