"""What the events of a recording do to the allocator, in columns, as both passes of the replay walk them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.gpu.trace_events import TraceEvents

if TYPE_CHECKING:
    import numpy as np

# FREE is a free_requested with its free_completed right behind, which then is NOTHING, as almost all are.
NOTHING, ALLOC, FREE, FREE_REQUESTED, FREE_COMPLETED, SEGMENT, LAST_RETURN = range(7)
FREES = (FREE, FREE_REQUESTED, FREE_COMPLETED)
_RETURNS = ("segment_free", "segment_unmap")
_KINDS = {
    "alloc": ALLOC,
    "free_requested": FREE_REQUESTED,
    "free_completed": FREE_COMPLETED,
    "segment_alloc": SEGMENT,
    "segment_map": SEGMENT,
    **dict.fromkeys(_RETURNS, SEGMENT),
}
_AT_ONCE = 1 << 16  # made into numbers of Python at a time

Act = tuple[int, int, int, int, int]  # index of the event, kind, address, size in bytes, stream


@dataclass(frozen=True)
class Settled:
    """The events from `stop` on, undone: where blocks were born in them, and died, with their requests."""

    stop: int
    born: Sequence[int]
    died: Mapping[int, int]


class Acts:
    """The acts of a recording, oldest first. LAST_RETURN is the last of segments returned together."""

    def __init__(self, events: TraceEvents) -> None:
        import numpy as np

        self.events = columns = events.columns()
        codes = np.array([_KINDS.get(word, NOTHING) for word in (*columns.words, "")], np.uint8)
        kinds = codes[columns.actions]
        together = (kinds[:-1] == FREE_REQUESTED) & (kinds[1:] == FREE_COMPLETED)
        together &= columns.addresses[:-1] == columns.addresses[1:]
        kinds[:-1][together] = FREE
        kinds[1:][together] = NOTHING
        returns = columns.are(*_RETURNS)
        kinds[returns & ~np.append(returns[1:], False)] = LAST_RETURN
        self.kinds: np.ndarray = kinds

    def __iter__(self) -> Iterator[Act]:
        yield from self._walk(1)

    def backward(self, stop: int) -> Iterator[Act]:
        """Those of the events before `stop`, newest first."""
        yield from self._walk(-1, stop)

    def _walk(self, direction: int, stop: int | None = None) -> Iterator[Act]:
        import numpy as np

        at = np.flatnonzero(self.kinds[:stop])[::direction]
        columns = (self.kinds, self.events.addresses, self.events.sizes, self.events.streams)
        for start in range(0, len(at), _AT_ONCE):
            chosen = at[start : start + _AT_ONCE]
            yield from zip(chosen.tolist(), *(column[chosen].tolist() for column in columns), strict=True)

    def settled(self, allocated: Collection[int], ranges: Sequence[tuple[int, int]]) -> Settled | None:
        """What a walk back from the end finds until it meets the last block that is older than all events.

        None where the walk itself must tell: frees that other streams delayed, memory that was given back or
        mapped, or acts that contradict each other.

        Args:
            allocated: the addresses handed out after the last event.
            ranges: start and end of each segment then, in order.
        """
        import numpy as np

        known = (self.kinds == NOTHING) | (self.kinds == ALLOC) | (self.kinds == FREE)
        if not (known | self.events.are("segment_alloc")).all() or not ranges:
            return None
        at = np.flatnonzero((self.kinds == ALLOC) | (self.kinds == FREE))
        at = at[np.argsort(self.events.addresses[at], kind="stable")]  # by address, each from its first on
        addresses, sizes, frees = self.events.addresses[at], self.events.sizes[at], self.kinds[at] == FREE
        another = addresses[1:] != addresses[:-1]
        last = np.append(another, True)[: len(at)]
        starts, ends = np.array(ranges).T
        inside = np.searchsorted(starts, addresses, "right") - 1
        if (
            (frees[1:] == frees[:-1])[~another].any()
            or (np.isin(addresses[last], np.array(sorted(allocated), np.int64)) == frees[last]).any()
            or (sizes <= 0).any()
            or (inside < 0).any()
            or (addresses + sizes > ends[inside]).any()
        ):
            return None
        older = at[np.append(True, another)[: len(at)] & frees]
        stop = int(older.max()) + 1 if len(older) else 0
        later = at >= stop
        first = later & np.append(True, another | ~later[:-1])[: len(at)]
        born, died = first & ~frees, first & frees
        return Settled(
            stop,
            addresses[born].tolist(),
            dict(zip(addresses[died].tolist(), sizes[died].tolist(), strict=True)),
        )

    def segments_after(self, start: int) -> list[tuple[int, int]]:
        """Address and bytes of the segments taken from an event on, newest first."""
        at = self.events.are("segment_alloc")[start:].nonzero()[0][::-1] + start
        return list(zip(self.events.addresses[at].tolist(), self.events.sizes[at].tolist(), strict=True))

    def word(self, index: int) -> str:
        """The action of an event."""
        return self.events.words[self.events.actions[index]]
