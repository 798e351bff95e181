"""The recorded events of one device, in columns: two million take 80 MB, as objects they would take 500."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, overload

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


class TraceEvents(Sequence[TraceEvent]):
    """Events, oldest first; each is made into a TraceEvent when it is asked for."""

    def __init__(self) -> None:
        self._actions = array("H")  # indices into _words
        self._numbers = tuple(array("q") for _ in range(4))  # address, size, stream, time
        self._stacks = array("L")  # indices into _frames
        self._words: list[str] = []
        self._word_index: dict[str, int] = {}
        self._frames: list[tuple[Frame, ...]] = []
        self._frames_index: dict[int, int] = {}  # by identity: equal stacks come as one object

    def extend(
        self,
        actions: Iterable[str],
        numbers: Sequence[Iterable[int]],
        stacks: Iterable[tuple[Frame, ...]],
    ) -> None:
        """Add events by their columns; `numbers` are addresses, sizes, streams and times."""
        self._actions.extend(map(self._action, actions))
        for column, values in zip(self._numbers, numbers, strict=True):
            if hasattr(values, "astype"):
                column.frombytes(values.astype("int64").tobytes())
            else:
                column.extend(values)
        self._stacks.extend(map(self._stack, stacks))

    def _action(self, word: str) -> int:
        if word not in self._word_index:
            self._word_index[word] = len(self._words)
            self._words.append(word)
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
        action, frames = self._words[self._actions[index]], self._frames[self._stacks[index]]
        return TraceEvent(action, address, size_bytes, stream, time_us, frames)

    def _made(self, start: int, stop: int) -> list[TraceEvent]:
        columns = (column[start:stop] for column in self._numbers)
        actions = map(self._words.__getitem__, self._actions[start:stop])
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
