"""What a program on the virtual GPU left (recording.inside.program), as one run a process and GPU."""

from __future__ import annotations

import json
from bisect import bisect_right
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
# Odd numbers, so that none of a row's bits is lost.
_MIXED = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
_STOPPED = "not whole: there was no room to write down what followed; set TMPDIR to a larger disk"
_AT_THE_END = "after the last phase"
_FIELDS = [  # struct record of stand_ins/events/stream.c
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
        note = _STOPPED if (folder / "stopped").exists() else ""
        run = replace(run, device=Device(VIRTUAL, gpu), name=" ".join(map(str, command)), note=note)
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
    import numpy as np

    kinds = records["kind"]
    of_blocks = np.flatnonzero((kinds == _ALLOCATED) | (kinds == _FREED))
    blocks = _Blocks(records[of_blocks], places)
    entries: list[Allocation | Free | Mark] = []
    reserved: list[int] = []
    refused: list[Refusal] = []
    segment_changes: dict[int, list[SegmentChange]] = {}
    others = np.flatnonzero((kinds != _ALLOCATED) & (kinds != _FREED))
    before = np.searchsorted(of_blocks, others)
    done = 0  # blocks
    for record, until, row in zip(others.tolist(), before.tolist(), records[others].tolist(), strict=True):
        address, size, requested, allocated, held, number, kind, *_ = row
        entries += blocks.entries(done, until)
        reserved += blocks.reserved(done, until)
        done = until
        if kind == _REFUSED:
            where, op = places[number - 1] if 0 < number <= len(places) else (None, "")
            refused.append(Refusal(requested or size, op, where, len(entries) - 1, allocated, held))
        elif kind != _MARKED:
            if record in changes:
                _add_change(segment_changes.setdefault(len(entries), []), changes[record])
        elif address <= len(marks):
            blocks.marks.append(until)
            _name_modules(entries, blocks, marks[address - 1])
            entries.append(_mark(marks[address - 1]))
            reserved.append(reserved[-1] if reserved else 0)
    entries += blocks.entries(done, len(of_blocks))
    reserved += blocks.reserved(done, len(of_blocks))
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


class _Blocks:
    """The allocations and frees of a stream as entries.

    A loop hands out the same blocks again and again: those that are alike are one object.

    `marks` is for the caller to fill: how many blocks came before each mark among the entries.
    """

    def __init__(self, records: np.ndarray, places: list[tuple[Place, str]]) -> None:
        import numpy as np

        self.marks: list[int] = []
        births = records["kind"] == _ALLOCATED
        columns = [np.where(births, records[name], 0) for name in ("size", "requested", "place")]
        rows = np.stack([records["address"], births, *columns], axis=1).astype(np.uint64)
        mixed = (rows * np.array(_MIXED, dtype=np.uint64)).sum(axis=1)  # wraps
        _, first, self._which = np.unique(mixed, return_index=True, return_inverse=True)
        if (rows[first][self._which] != rows).any():  # two that differ mix to one number
            first, self._which = np.arange(len(rows)), np.arange(len(rows))
        self._distinct = [_entry(row, places) for row in rows[first].tolist()]
        self._reserved = records["reserved"]
        self._addresses, rank = np.unique(records["address"], return_inverse=True)
        self._last = np.sort(rank * np.int64(len(records) + 1) + np.arange(len(records)))
        self._births = births

    def entries(self, start: int, end: int) -> list[Allocation | Free]:
        """Those from block `start` to `end`."""
        distinct = self._distinct
        return [distinct[number] for number in self._which[start:end].tolist()]

    def reserved(self, start: int, end: int) -> list[int]:
        """What the allocator held after each of them."""
        found: list[int] = self._reserved[start:end].tolist()
        return found

    def alive(self, address: int, before: int) -> int | None:
        """The position among the entries of the allocation that has the address before block `before`."""
        rank = int(self._addresses.searchsorted(address))
        if rank == len(self._addresses) or self._addresses[rank] != address:
            return None
        span = len(self._births) + 1
        place = int(self._last.searchsorted(rank * span + before)) - 1
        block = int(self._last[place]) - rank * span if place >= 0 else -1
        if block < 0 or not self._births[block]:
            return None
        return block + bisect_right(self.marks, block)


def _entry(row: list[int], places: list[tuple[Place, str]]) -> Allocation | Free:
    address, born, size, requested, number = row
    if not born:
        return Free(address)
    where, op = places[number - 1] if 0 < number <= len(places) else (None, "")
    return Allocation(address, size, requested or size, op, "", where)


def _name_modules(entries: list[Any], blocks: _Blocks, mark: dict[str, Any]) -> None:
    """A parameter is made outside of any call of its module, a gradient by autograd: whose they are is known
    at the end of the phase."""
    for module, addresses in mark["modules"].items():
        for address in addresses:
            position = blocks.alive(address, blocks.marks[-1])
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
