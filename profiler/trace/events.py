"""What a device and a training loop report, in order: the only vocabulary of a recorded run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from profiler.trace.phase import Phase


class Place(NamedTuple):
    """Where in the program: the module's path ("" outside of any), and the line as "file.py:12 function"."""

    module: str
    line: str


@dataclass(frozen=True, slots=True)
class Allocation:
    """A block handed out at `address`: `size_bytes` of the device for `requested_bytes` asked by `op`.

    `category` is given where it is known at birth: a workspace, which no tensor owns. `where` is given by
    a recorder that knows the program's place.
    """

    address: int
    size_bytes: int
    requested_bytes: int
    op: str = ""
    category: str = ""
    where: Place | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """For pickle, which would ask for the names of the fields each time."""
        return Allocation, (
            self.address,
            self.size_bytes,
            self.requested_bytes,
            self.op,
            self.category,
            self.where,
        )


@dataclass(frozen=True, slots=True)
class Free:
    """The block at `address` given back. A block from before the recording is unknown and ignored."""

    address: int

    def __reduce__(self) -> tuple[Any, ...]:
        """See Allocation."""
        return Free, (self.address,)


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a phase: `labels` maps an address alive now to its category."""

    phase: Phase
    labels: Mapping[int, str]


Entry = Allocation | Free | Mark
Entries = Sequence[Entry]
