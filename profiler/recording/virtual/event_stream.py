"""The events of this process's CUDA allocator on the virtual GPU, and who asked for each.

The stream itself is written by gpu/virtual/stand_ins/events/stream.c, preloaded; this tells it the places,
which Python knows.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from profiler.trace.events import Place

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
