"""The events of this process's CUDA allocator on the virtual GPU, and who asked for each.

The stream itself is written by gpu/virtual/stand_ins/events/stream.c, preloaded; this tells it the places,
which Python knows, and reads it.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.recording.workspaces import with_workspaces
from profiler.trace.events import Allocation, Free, Mark, Place

if TYPE_CHECKING:
    import numpy as np

# Variables of a process: where each keeps its stream, and the stand-in that writes it.
FOLDER, LIBRARY = "PROFILER_EVENTS", "PROFILER_EVENTS_LIBRARY"

_PLACE_OF = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_size_t, ctypes.c_char_p)


class Asked(NamedTuple):
    """Who asks for a block: where, and for which operation."""

    where: Place
    op: str


class EventStream:
    """The stream of this process. `asked` says who asks, given the running operation ("" if not known)."""

    def __init__(self, asked: Callable[[str], Asked]) -> None:
        self._library: Any = ctypes.CDLL(os.environ[LIBRARY])
        self._library.events_written.restype = ctypes.c_uint64
        self._library.events_folder.restype = ctypes.c_char_p
        self._library.events_mark.argtypes = [ctypes.c_uint64]
        self._asked = asked
        self._numbers: dict[Asked, int] = {}
        self._hold = _PLACE_OF(self._number)  # ctypes keeps no reference

    def attach(self) -> None:
        """Tell places from now on."""
        self._library.events_attach(self._hold)

    def detach(self) -> None:
        """Tell no place any more; events go on."""
        self._library.events_detach()

    def mark(self, number: int) -> None:
        """Write a mark of that number."""
        self._library.events_mark(number)

    @property
    def written(self) -> int:
        """How many records there are."""
        return int(self._library.events_written())

    @property
    def folder(self) -> Path:
        """Of this process; it has one from its first record on."""
        return Path(os.fsdecode(self._library.events_folder()))

    @property
    def places(self) -> list[Asked]:
        """Those that records speak of; a record's `place` counts from 1."""
        return list(self._numbers)

    def _number(self, size_bytes: int, operation: bytes) -> int:
        """Of the place that allocates now; called before the allocation, without any lock."""
        try:
            asked = self._asked(operation.decode())
            number = self._numbers.get(asked)
            if number is None:
                number = self._numbers[asked] = len(self._numbers) + 1
            return number
        except KeyboardInterrupt:
            return -1
        except Exception:
            return 0


# --- reading --------------------------------------------------------------------------------------------

_ALLOCATED, _FREED, MARKED, _REFUSED = 1, 2, 3, 4
_FIELDS = [  # struct record of stand_ins/events/stream.c
    *((name, "<u8") for name in ("address", "size", "requested", "allocated", "reserved")),
    *(("place", "<u4"), ("kind", "u1"), ("device", "u1"), ("unused", "<u2")),
]


class RefusedRequest(NamedTuple):
    """A request without room; bytes as they were at it, `position` is that of the entry before it."""

    requested_bytes: int
    op: str
    where: Place | None
    position: int
    allocated_bytes: int
    reserved_bytes: int


class PhaseEnd(NamedTuple):
    """What a mark of the stream stands for. `modules` says whose an address is that no module's call made."""

    mark: Mark
    modules: Mapping[int, str]


@dataclass(frozen=True)
class Events:
    """The stream of one device, read: what it held after each entry, and the requests without room."""

    entries: list[Allocation | Free | Mark]
    reserved_bytes: array[int]
    refused: list[RefusedRequest]


def read_records(folder: Path) -> np.ndarray:
    """All whole records of a process."""
    import numpy as np

    file = np.memmap(folder / "events", dtype=np.dtype(_FIELDS), mode="r")
    return file[: int(np.count_nonzero(file["kind"]))]


def events_of(records: np.ndarray, places: Sequence[Asked], ends: Sequence[PhaseEnd]) -> Events:
    """The records of one device in the ledger's terms; mark n of the stream is the nth of `ends`."""
    entries: list[Allocation | Free | Mark] = []
    reserved_bytes = array("q")
    refused: list[RefusedRequest] = []
    alive: dict[int, int] = {}
    for address, size, requested, allocated, reserved, number, kind, *_ in records.tolist():
        where, op = places[number - 1] if 0 < number <= len(places) else (None, "")
        if kind == _ALLOCATED:
            alive[address] = len(entries)
            entries.append(Allocation(address, size, requested or size, op, "", where))
        elif kind == _FREED:
            alive.pop(address, None)
            entries.append(Free(address))
        elif kind == MARKED and address <= len(ends):
            mark, modules = ends[address - 1]
            _name_modules(entries, alive, modules.items())
            entries.append(mark)
            reserved_bytes.append(reserved_bytes[-1] if reserved_bytes else 0)
            continue
        else:
            if kind == _REFUSED:
                position = len(entries) - 1
                refused.append(RefusedRequest(requested or size, op, where, position, allocated, reserved))
            continue
        reserved_bytes.append(reserved)
    return Events(with_workspaces(entries), reserved_bytes, refused)


def _name_modules(entries: list[Any], alive: dict[int, int], modules: Iterable[tuple[int, str]]) -> None:
    """A parameter is made outside of any call of its module, a gradient by autograd."""
    for address, module in modules:
        entry = entries[alive[address]] if address in alive else None
        if entry is not None and not (entry.where and entry.where.module):
            line = entry.where.line if entry.where else ""
            entries[alive[address]] = replace(entry, where=Place(module, line))
