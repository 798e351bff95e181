"""What the stand-ins wrote down while a program ran: one file a process, whole even after a crash."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_RECORD = struct.Struct("<Qi116s")
_HEADER = b"virtual GPU journal 1"
_MOST_BYTES = 4 << 20


class Kind(IntEnum):
    """`enum journal_kind` of stand_ins/common.h."""

    NOT_MODELLED = 1
    ASSUMED = 2
    MEMORY = 3
    HARMLESS = 4


@dataclass(frozen=True)
class Entry:
    """`text` is a function's name (not modelled) or a sentence; `calls` is how often."""

    pid: int
    kind: Kind
    text: str
    calls: int


@dataclass(frozen=True)
class Journal:
    """All processes of a program.

    peak_bytes: the most device memory that was ever used, its context included, by (process, device).
    """

    entries: tuple[Entry, ...]
    peak_bytes: dict[tuple[int, int], int]

    def texts(self, kind: Kind) -> dict[str, int]:
        """Each text of that kind, with its calls in all processes, the most frequent first."""
        counted: dict[str, int] = {}
        for entry in self.entries:
            if entry.kind is kind:
                counted[entry.text] = counted.get(entry.text, 0) + entry.calls
        return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))

    @property
    def not_modelled(self) -> dict[str, int]:
        """Functions that were called and did nothing because nobody wrote them, with their calls."""
        return self.texts(Kind.NOT_MODELLED)

    @property
    def assumed(self) -> dict[str, int]:
        """Answers that rest on an assumption, with their calls."""
        return self.texts(Kind.ASSUMED)

    @property
    def harmless(self) -> dict[str, int]:
        """What was not done, or not as on a GPU, and cannot change how much memory is taken, and why."""
        return self.texts(Kind.HARMLESS)


def read_journal(folder: Path) -> Journal:
    """What the processes wrote to `folder`; a file that is not a journal is left out."""
    entries: list[Entry] = []
    peaks: dict[tuple[int, int], int] = {}
    for path in sorted(folder.glob("*.journal")):
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
        records = _records(data)
        pid, _, header = next(records, (0, 0, b""))
        if header != _HEADER:
            continue
        for count, kind, text in records:
            name = text.decode(errors="replace")
            if kind == Kind.MEMORY:
                peaks[pid, int(name.removeprefix("device "))] = count
            elif kind in (Kind.NOT_MODELLED, Kind.ASSUMED, Kind.HARMLESS):
                entries.append(Entry(pid, Kind(kind), name, count))
    return Journal(tuple(entries), peaks)


def _records(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    last = min(len(data.rstrip(b"\0")), len(data) - _RECORD.size + 1)  # what follows was never written
    for start in range(0, last, _RECORD.size):
        count, kind, text = _RECORD.unpack_from(data, start)
        yield count, kind, text.split(b"\0", 1)[0]
