"""The event stream of a process on the virtual GPU, read: what stand_ins/events/stream.c wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.recording.virtual.event_stream import Asked
from profiler.recording.workspaces import with_workspaces
from profiler.trace.events import Allocation, Entry, Free, Mark, Place
from profiler.trace.run import Refusal
from profiler.trace.segments import Held, SegmentChange

if TYPE_CHECKING:
    import numpy as np

ALLOCATED, _FREED, MARKED, REFUSED = 1, 2, 3, 4
_TAKEN, _GIVEN_BACK, _MAPPED, _UNMAPPED = 5, 6, 7, 8
_SEGMENTS = {
    _TAKEN: "segment_alloc",
    _GIVEN_BACK: "segment_free",
    _MAPPED: "segment_map",
    _UNMAPPED: "segment_unmap",
}
# Odd numbers, so that none of a row's bits is lost.
_MIXED = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
_FIELDS = [  # struct record of stand_ins/events/stream.c
    *((name, "<u8") for name in ("address", "size", "requested", "allocated", "reserved")),
    *(("place", "<u4"), ("kind", "u1"), ("device", "u1"), ("stream", "u1"), ("unused", "u1")),
]


class PhaseEnd(NamedTuple):
    """What a mark of the stream stands for. `modules` says whose an address is that no module's call made."""

    mark: Mark
    modules: Mapping[int, str]


@dataclass(frozen=True)
class Events:
    """The stream of one device, read.

    Attributes:
        entries: the blocks and the ends of phases, in order.
        reserved_bytes: what the allocator held after each entry.
        segment_changes: what it took and gave back, by the position of the entry after it.
        refusals: the requests without room.
    """

    entries: list[Entry]
    reserved_bytes: list[int]
    segment_changes: dict[int, list[SegmentChange]]
    refusals: list[Refusal]


def read_records(folder: Path) -> np.ndarray:
    """All whole records of a process."""
    import numpy as np

    file = np.memmap(folder / "events", dtype=np.dtype(_FIELDS), mode="r")
    return file[: int(np.count_nonzero(file["kind"]))]


def of_one_device(records: np.ndarray, device: int) -> np.ndarray:
    """Its records, and the marks, which are of all."""
    return records[(records["kind"] == MARKED) | (records["device"] == device)]


def segment_changes(records: np.ndarray) -> tuple[dict[int, SegmentChange], int]:
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
        elif kind == ALLOCATED:
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
    births = kinds == ALLOCATED
    telling = (kinds >= _TAKEN) | (births & np.isin(addresses, addresses[kinds == _TAKEN]))
    numbers = np.flatnonzero(births)
    after_pages = np.searchsorted(numbers, np.flatnonzero(kinds == _MAPPED))
    telling[numbers[after_pages[after_pages < len(numbers)]]] = True
    numbers = np.flatnonzero(telling)
    yield from zip(numbers.tolist(), records[numbers].tolist(), strict=True)


def events_of(
    records: np.ndarray,
    places: Sequence[Asked],
    ends: Sequence[PhaseEnd],
    changes: Mapping[int, SegmentChange],
) -> Events:
    """The records of one device in the ledger's terms; mark n of the stream is the nth of `ends`.

    `changes` are those of `segment_changes`.
    """
    import numpy as np

    kinds = records["kind"]
    of_blocks = np.flatnonzero((kinds == ALLOCATED) | (kinds == _FREED))
    blocks = _Blocks(records[of_blocks], places)
    entries: list[Entry] = []
    reserved_bytes: list[int] = []
    refusals: list[Refusal] = []
    found: dict[int, list[SegmentChange]] = {}
    others = np.flatnonzero((kinds != ALLOCATED) & (kinds != _FREED))
    before = np.searchsorted(of_blocks, others)
    done = 0  # blocks
    for record, until, row in zip(others.tolist(), before.tolist(), records[others].tolist(), strict=True):
        address, size, requested, allocated, held, number, kind, *_ = row
        entries += blocks.entries(done, until)
        reserved_bytes += blocks.reserved(done, until)
        done = until
        if kind == REFUSED:
            where, op = places[number - 1] if 0 < number <= len(places) else (None, "")
            refusals.append(Refusal(requested or size, op, where, len(entries) - 1, allocated, held))
        elif kind != MARKED:
            if record in changes:
                _add_change(found.setdefault(len(entries), []), changes[record])
        elif address <= len(ends):
            blocks.marks.append(until)
            mark, modules = ends[address - 1]
            _name_modules(entries, blocks, modules)
            entries.append(mark)
            reserved_bytes.append(reserved_bytes[-1] if reserved_bytes else 0)
    entries += blocks.entries(done, len(of_blocks))
    reserved_bytes += blocks.reserved(done, len(of_blocks))
    return Events(with_workspaces(entries), reserved_bytes, found, refusals)


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

    def __init__(self, records: np.ndarray, places: Sequence[Asked]) -> None:
        import numpy as np

        self.marks: list[int] = []
        births = records["kind"] == ALLOCATED
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

    def alive(self, addresses: Sequence[int], before: int) -> list[int]:
        """The positions among the entries of the allocations that have the addresses before block `before`.

        Less than 0 for an address that is no allocation's then.
        """
        import numpy as np

        if not len(self._births):
            return [-1] * len(addresses)
        wanted = np.array(addresses, dtype=np.uint64)
        rank = np.minimum(self._addresses.searchsorted(wanted), len(self._addresses) - 1)
        span = len(self._births) + 1
        place = self._last.searchsorted(rank * span + before) - 1
        block = np.where(place >= 0, self._last[place] - rank * span, -1)
        alive = (self._addresses[rank] == wanted) & (block >= 0) & self._births[block]
        marks = np.searchsorted(np.array(self.marks, dtype=np.int64), block, side="right")
        return np.where(alive, block + marks, -1).tolist()


def _entry(row: list[int], places: Sequence[Asked]) -> Allocation | Free:
    address, born, size, requested, number = row
    if not born:
        return Free(address)
    where, op = places[number - 1] if 0 < number <= len(places) else (None, "")
    return Allocation(address, size, requested or size, op, "", where)


def _name_modules(entries: list[Any], blocks: _Blocks, modules: Mapping[int, str]) -> None:
    """A parameter is made outside of any call of its module, a gradient by autograd: whose they are is known
    at the end of the phase."""
    positions = blocks.alive(list(modules), blocks.marks[-1])
    for position, module in zip(positions, modules.values(), strict=True):
        if position < 0:
            continue
        entry = entries[position]
        if not (entry.where and entry.where.module):
            line = entry.where.line if entry.where else ""
            entries[position] = replace(entry, where=Place(module, line))
