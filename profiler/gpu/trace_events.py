"""The recorded events of one device, in columns: two million take 80 MB, as objects they would take 500."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

if TYPE_CHECKING:
    import numpy as np

_AT_ONCE = 1 << 16  # events made into objects at a time, in a walk over all


class Frame(NamedTuple):
    """One line of a Python or C++ stack."""

    filename: str
    line: int
    name: str


class TraceEvent(NamedTuple):
    """One recorded act of the allocator.

    `action` is alloc, free_requested, free_completed, segment_alloc, segment_free, segment_map,
    segment_unmap, snapshot or oom. `size_bytes` is the requested size of allocations and frees, the real one
    of segments. For oom, `address` holds the bytes that the device still had free. `time_us` is 0 where the
    version of PyTorch did not record it. `frames` has the innermost call first.
    """

    action: str
    address: int
    size_bytes: int
    stream: int
    time_us: int
    frames: tuple[Frame, ...]


class EventColumns(NamedTuple):
    """The events in columns of shape (n,); `actions` are indices into `words`."""

    words: tuple[str, ...]
    actions: np.ndarray
    addresses: np.ndarray
    sizes: np.ndarray
    streams: np.ndarray

    def are(self, *actions: str) -> np.ndarray:
        """Whether each event is one of these actions, shape (n,)."""
        import numpy as np

        known = np.array([word in actions for word in (*self.words, "")])
        return known[self.actions]


class TraceEvents(Sequence[TraceEvent]):
    """Events, oldest first; each is made into a TraceEvent when it is asked for."""

    def __init__(self, events: Iterable[TraceEvent] = ()) -> None:
        self._actions = array("H")  # indices into words
        self._numbers = tuple(array("q") for _ in range(4))  # address, size, stream, time
        self._stacks = array("I")  # indices into _frames
        self.words: list[str] = []
        self._word_index: dict[str, int] = {}
        self._frames: list[tuple[Frame, ...]] = []
        self._frames_index: dict[int, int] = {}  # by identity: equal stacks come as one object
        for event in events:
            self.append(event)

    def append(self, event: TraceEvent) -> None:
        """Add one event."""
        action, *numbers, frames = event
        self._actions.append(self._action(action))
        for column, value in zip(self._numbers, numbers, strict=True):
            column.append(value)
        self._stacks.append(self._stack(frames))

    def extend(
        self,
        actions: tuple[Sequence[str], np.ndarray],
        numbers: Sequence[np.ndarray],
        stacks: tuple[Sequence[tuple[Frame, ...]], np.ndarray],
    ) -> None:
        """Add n events by their columns.

        `actions` and `stacks` are the different ones and, of shape (n,), which of them each event has;
        `numbers` are addresses, sizes, streams and times, shape (n,).
        """
        import numpy as np

        (words, word_at), (frames, frames_at) = actions, stacks
        codes = np.array([self._action(word) for word in words], "H")
        self._actions.frombytes(codes[word_at].tobytes())
        codes = np.array([self._stack(each) for each in frames], "I")
        self._stacks.frombytes(codes[frames_at].tobytes())
        for column, values in zip(self._numbers, numbers, strict=True):
            column.frombytes(values.astype("int64").tobytes())

    def columns(self) -> EventColumns:
        """The events as arrays, none of them copied."""
        import numpy as np

        codes, numbers = np.frombuffer(self._actions, "H"), [np.frombuffer(c, "q") for c in self._numbers]
        return EventColumns(tuple(self.words), codes, *numbers[:3])

    def frames(self, index: int) -> tuple[Frame, ...]:
        """The stack of an event; equal ones are one object."""
        return self._frames[self._stacks[index]]

    def _action(self, word: str) -> int:
        if word not in self._word_index:
            self._word_index[word] = len(self.words)
            self.words.append(word)
        return self._word_index[word]

    def _stack(self, frames: tuple[Frame, ...]) -> int:
        index = self._frames_index.get(id(frames))
        if index is None:
            index = self._frames_index[id(frames)] = len(self._frames)
            self._frames.append(frames)
        return index

    def __len__(self) -> int:
        return len(self._actions)

    @overload
    def __getitem__(self, index: int) -> TraceEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TraceEvent]: ...
    def __getitem__(self, index: int | slice) -> TraceEvent | Sequence[TraceEvent]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._made(start, max(start, stop))
            return [self[i] for i in range(start, stop, step)]
        address, size_bytes, stream, time_us = (column[index] for column in self._numbers)
        action, frames = self.words[self._actions[index]], self._frames[self._stacks[index]]
        return TraceEvent(action, address, size_bytes, stream, time_us, frames)

    def _made(self, start: int, stop: int) -> list[TraceEvent]:
        columns = (column[start:stop] for column in self._numbers)
        actions = map(self.words.__getitem__, self._actions[start:stop])
        stacks = map(self._frames.__getitem__, self._stacks[start:stop])
        return list(map(TraceEvent._make, zip(actions, *columns, stacks, strict=True)))

    def __iter__(self) -> Iterator[TraceEvent]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._made(start, min(start + _AT_ONCE, len(self)))

    def __reversed__(self) -> Iterator[TraceEvent]:
        for stop in range(len(self), 0, -_AT_ONCE):
            yield from reversed(self._made(max(0, stop - _AT_ONCE), stop))

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list
