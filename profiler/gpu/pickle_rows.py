"""Dicts that follow one another in a pickle with the same keys, a thousand read at once, into columns.

A dict of a pickle is the opcodes of its keys, each with those of its value. Where the keys are known, the
values of many dicts are read side by side: all first values, then all second ones.

*Source:* Lib/pickletools.py of CPython describes every opcode.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_WINDOW_BYTES = 1 << 20  # rows that begin in it are read at once
_LONGEST_BYTES = 1 << 14  # of a row; the rest of its file is not looked at
_PADDING = bytes(16)  # reading past the end gives what is no row
REFERENCES = re.compile(rb"h.|j....", re.DOTALL)

# Kinds of values. From TEXT on they take a place in the memo.
_NO_VALUE, INTEGER, REFERENCE, CONSTANT, TEXT, PAIR, SLICE = range(7)
CONSTANTS = {0x4E: None, 0x88: True, 0x89: False}  # by opcode
_SHORT_TEXT, _LONG1, _EMPTY_LIST, _MEMOIZE = 0x8C, 0x8A, 0x5D, 0x94
_DIGITS = {0x4B: 1, 0x4D: 2, 0x4A: 4, _LONG1: 0, 0x68: 1, 0x6A: 4}  # bytes after the opcode
_SIGNED = (0x4A, _LONG1)
_MOST_IN_NUMBER = 7  # bytes of a text that is told by its number


def without_frames(content: bytes) -> bytes:
    """The pickle without the opcodes FRAME that a pickler puts between any two others every 64 KiB."""
    pieces, position = [], 2
    while content[position : position + 1] == b"\x95":
        end = position + 9 + int.from_bytes(content[position + 1 : position + 9], "little")
        pieces.append(memoryview(content)[position + 9 : end])
        position = end
    return b"".join([content[:2], *pieces, memoryview(content)[position:]]) if pieces else content


class Rows:
    """Dicts with the same keys in the same order, in columns: arrays of int64, `References`, or lists."""

    def __init__(self, columns: dict[str, Any], length: int) -> None:
        self.columns = columns
        self.length = length

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, which have the same keys."""
        import numpy as np

        columns: dict[str, Any] = {}
        for key, *rest in zip(parts[0].columns, *(part.columns.values() for part in parts), strict=True):
            kinds = set(map(type, rest))
            if kinds == {np.ndarray}:
                columns[key] = np.concatenate(rest)
            elif kinds == {References}:
                columns[key] = References(np.concatenate([each.places for each in rest]), rest[0].memo)
            else:
                columns[key] = [value for each in rest for value in list_of(each)]
        return cls(columns, sum(part.length for part in parts))


@dataclass(frozen=True)
class References:
    """A column of what stands in the memo, by its places there, shape (n,)."""

    places: np.ndarray
    memo: Sequence[Any]

    def tolist(self) -> list[Any]:
        """The values."""
        return [self.memo[place] for place in self.places.tolist()]


def list_of(column: Any) -> list[Any]:
    """The values of a column of `Rows`."""
    return column if isinstance(column, list) else column.tolist()


@dataclass(frozen=True)
class RowValues:
    """What the rows of a stretch of the file hold; every array has the shape (keys, rows).

    `numbers` are integers, places in the memo, opcodes of constants, or a text or a pair as a number; of a
    slice, the file has the value from `starts` to `ends`. The rows end at `end` in the file.
    """

    kinds: np.ndarray
    numbers: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    end: int


class RowReader:
    """Finds dicts of one shape. `places` are those of the keys in the memo."""

    def __init__(self, content: bytes, places: Sequence[int]) -> None:
        self.content = content
        self.keys = [_reference(place) for place in places]
        self.begin = b"}\x94(" + self.keys[0]
        self.window = (0, 0)
        self.starts: list[int] = []
        self.breaks: list[int] = []  # rows after which no other row follows, or that are none
        self.read: tuple[np.ndarray, ...] = ()

    def at(self, position: int) -> RowValues | None:
        """The rows that follow one another from a position of the file on; None if there is none."""
        if not self.content.startswith(self.begin, position):
            return None
        if not self.window[0] <= position < self.window[1]:
            self._look_from(position)
        first = bisect_left(self.starts, position)
        last = self.breaks[bisect_left(self.breaks, first)]
        kinds, numbers, starts, ends, row_ends = self.read
        if row_ends[last] == 0:  # no row itself
            last -= 1
        if last < first:
            return None
        chosen = (slice(None), slice(first, last + 1))
        found = (kinds[chosen], numbers[chosen], starts[chosen], ends[chosen])
        return RowValues(*found, end=int(row_ends[last]))

    def _look_from(self, start: int) -> None:
        """Read all rows that begin in the next window."""
        import numpy as np

        stop = start + _WINDOW_BYTES
        piece = self.content[start : stop + _LONGEST_BYTES] + _PADDING
        window = _Window(piece)
        at = np.flatnonzero(window.bytes[: min(stop, len(self.content)) - start] == self.begin[0])
        at = at[window.begins(at, self.begin[:3])]
        at = at[window.begins(at + 3, self.keys[0])]
        begins, good = at, np.ones(len(at), bool)
        at = at + 3
        columns = []
        for key in self.keys:
            good &= window.begins(at, key)
            values = window.values(at + len(key))
            columns.append(values)
            good &= values[0] != _NO_VALUE
            at = np.minimum(values[3], window.last)
        good &= window.bytes[at] == ord("u")
        row_ends = np.where(good, at + 1, 0)
        follows = np.zeros(len(begins), bool)
        follows[:-1] = row_ends[:-1] == begins[1:]
        self.window = (start, stop)
        self.starts = (begins + start).tolist()
        self.breaks = np.flatnonzero(~good | ~follows | ~np.append(good[1:], False)).tolist()
        kinds, numbers, starts, ends = (np.stack(parts) for parts in zip(*columns, strict=True))
        self.read = (kinds, numbers, starts + start, ends + start, np.where(good, row_ends + start, 0))


class _Window:
    """A piece of the file, read at many positions at once."""

    def __init__(self, piece: bytes) -> None:
        import numpy as np

        self.bytes = np.frombuffer(piece, np.uint8)
        self.last = len(piece) - len(_PADDING)
        self.words = np.ndarray((len(piece) - 7,), "<u8", piece, strides=(1,))  # 8 bytes from each on
        kinds, digits = np.zeros(256, np.uint8), np.zeros(256, np.int64)
        for opcode, length in _DIGITS.items():
            kinds[opcode] = REFERENCE if opcode in (0x68, 0x6A) else INTEGER
            digits[opcode] = length
        kinds[list(CONSTANTS)] = CONSTANT
        kinds[_SHORT_TEXT], kinds[_EMPTY_LIST] = TEXT, SLICE
        self.kinds, self.digits = kinds, digits

    def begins(self, at: np.ndarray, with_bytes: bytes) -> np.ndarray:
        """Whether these bytes stand at each position."""
        mask = (1 << 8 * len(with_bytes)) - 1
        return self.words[at] & mask == int.from_bytes(with_bytes, "little")

    def values(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Kinds, numbers, starts and ends of the values at these positions."""
        import numpy as np

        at = np.minimum(at, self.last)
        opcodes, word = self.bytes[at], self.words[at]
        kinds, digits = self.kinds[opcodes], self.digits[opcodes]
        sized = (opcodes == _LONG1) | (opcodes == _SHORT_TEXT)
        digits = np.where(sized, word >> 8 & 255, digits).astype(np.int64)
        heads = 1 + sized
        kinds[(opcodes == _LONG1) & ((digits == 0) | (digits > 8))] = _NO_VALUE
        shifts = np.where((digits > 0) & (digits <= 8), 64 - 8 * digits, 0).astype(np.uint64)
        read = self.words[at + heads] << shifts
        signed = (opcodes == _SIGNED[0]) | (opcodes == _SIGNED[1])
        numbers = np.where(
            signed, read.view(np.int64) >> shifts.view(np.int64), (read >> shifts).view(np.int64)
        )
        ends = at + heads + digits
        constants = kinds == CONSTANT
        numbers[constants] = opcodes[constants]
        pairs = word & 0xFFFF_00FF_00FF == 0x9486_004B_004B
        if pairs.any():
            kinds[pairs], ends[pairs] = PAIR, at[pairs] + 6
            numbers[pairs] = (word >> 8 & 255 | word >> 16 & 0xFF00).astype(np.int64)[pairs]
        texts = np.flatnonzero(kinds == TEXT)
        if len(texts):
            self._texts(texts, kinds, numbers, digits, ends)
        lists = np.flatnonzero(kinds == SLICE)
        lists = lists[opcodes[lists] == _EMPTY_LIST]
        if len(lists):
            ends[lists] = found = self._list_ends(at[lists])
            kinds[lists[found == 0]] = _NO_VALUE
        return kinds, numbers, at, ends

    def _texts(
        self,
        texts: np.ndarray,
        kinds: np.ndarray,
        numbers: np.ndarray,
        sizes: np.ndarray,
        ends: np.ndarray,
    ) -> None:
        """Short texts become numbers with their sizes on top, others slices."""
        import numpy as np

        size = sizes[texts]
        kinds[texts[size > _MOST_IN_NUMBER]] = SLICE
        numbers[texts] = np.where(size > 0, numbers[texts], 0) | np.minimum(size, _MOST_IN_NUMBER) << 56
        kinds[texts[self.bytes[np.minimum(ends[texts], self.last)] != _MEMOIZE]] = _NO_VALUE
        ends[texts] += 1

    def _list_ends(self, at: np.ndarray) -> np.ndarray:
        """Where lists of references end, whose first bytes are at these positions; 0 for any other."""
        import numpy as np

        ends = at + 2
        references = self.bytes[np.minimum(at + 2, self.last)] == ord("(")
        one = np.minimum(at + 2, self.last)
        one_end = one + self._reference_bytes(one)
        alone = ~references & (one_end > one) & (self.bytes[np.minimum(one_end, self.last)] == ord("a"))
        ends[alone] = one_end[alone] + 1
        open_lists = np.flatnonzero(references)
        position = at[open_lists] + 3
        while len(open_lists):
            step = self._reference_bytes(position)
            ended = step == 0
            ends[open_lists[ended]] = np.where(
                (self.bytes[position[ended]] == ord("e")) & (position[ended] > at[open_lists[ended]] + 3),
                position[ended] + 1,
                0,
            )
            open_lists = open_lists[~ended]
            position = np.minimum(position[~ended] + step[~ended], self.last)
        ends[self.bytes[np.minimum(at + 1, self.last)] != _MEMOIZE] = 0
        return ends

    def _reference_bytes(self, at: np.ndarray) -> np.ndarray:
        """How long the references at these positions are; 0 for what is none."""
        opcodes = self.bytes[at]
        return 2 * (opcodes == ord("h")) + 5 * (opcodes == ord("j"))


def text_of(number: int) -> str:
    """The text that a number of the kind TEXT tells."""
    size = number >> 56
    return str((number & (1 << 8 * size) - 1).to_bytes(size, "little"), "utf-8", "surrogatepass")


def pair_of(number: int) -> tuple[int, int]:
    """The two small numbers that one of the kind PAIR tells."""
    return number & 255, number >> 8


def _reference(place: int) -> bytes:
    return b"h" + bytes([place]) if place < 256 else b"j" + place.to_bytes(4, "little")
