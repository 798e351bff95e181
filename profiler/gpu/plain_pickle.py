"""Read a pickle that holds plain data: dicts, lists, tuples, numbers and text. No other opcode is known here.

A reader of its own, for two reasons. Nothing that a file says can run code or take more memory than a small
multiple of the file: there is no opcode that imports or calls, a memo grows by one at a time, and keys are
words and numbers, so that nothing deep is ever hashed. And dicts that follow one another with the same keys,
as a million events of a snapshot do, become columns (`Rows`), in a tenth of the memory of a million dicts.

*Source:* Lib/pickletools.py of CPython describes every opcode.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from profiler.gpu import pickle_rows as rows_of
from profiler.gpu.pickle_rows import References, RowReader, Rows, RowValues, pair_of, text_of, without_frames

if TYPE_CHECKING:
    import numpy as np

_RECURRING_SHAPES = 32  # sets of keys that are looked for as rows
_PADDING = 1024  # how far an explicit memo index may run ahead of what is in the memo
_DIGITS = 40  # of a number in text


class PlainPickleError(ValueError):
    """The file is no pickle, is cut short, or asks for more than data. The message is one line."""


class Forbidden(PlainPickleError):
    """It asks for code: a class, a function, or an object of one."""


_IN_ROWS: Any = object()  # the memo's place of a dict that is in rows


class _NoRow(Exception):
    """A dict that became a row is used a second time, or is no item of a list: read without rows."""


def read_plain(content: bytes, on_progress: Callable[[int], object] = lambda read_bytes: None) -> Any:
    """The data of a pickle. Lists may hold `Rows` in place of dicts that follow one another.

    Args:
        content: the file.
        on_progress: told now and then how many bytes are read.

    Raises PlainPickleError.
    """
    try:
        try:
            return _Reader(without_frames(content), on_progress, rows=True).read()
        except _NoRow:
            return _Reader(content, on_progress, rows=False).read()
    except (IndexError, struct.error):
        raise PlainPickleError("it ends too early, or is damaged") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, PlainPickleError):
            raise
        raise PlainPickleError("it is damaged") from None


class _Reader:
    def __init__(self, content: bytes, on_progress: Callable[[int], object], rows: bool) -> None:
        self.content = content
        self.on_progress = on_progress
        self.memo: list[Any] = []
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.words: dict[str, int] = {}  # a text in the memo, and where
        self.shapes: dict[tuple[str, ...], RowReader] | None = {} if rows else None
        self.slices: dict[bytes, Any] = {}  # what the bytes of a value in rows make

    def read(self) -> Any:  # noqa: PLR0912, PLR0915  one branch an opcode
        content, memo, stack, marks = self.content, self.memo, self.stack, self.marks
        if not content:
            raise PlainPickleError("it is empty")
        push = stack.append
        position, told = 0, 0
        while True:
            opcode = content[position]
            position += 1
            if opcode == 0x68:  # BINGET
                push(self._get(content[position]))
                position += 1
            elif opcode == 0x6A:  # LONG_BINGET
                push(self._get(int.from_bytes(self._take(position, 4), "little")))
                position += 4
            elif opcode == 0x94:  # MEMOIZE
                self._put(len(memo))
            elif opcode == 0x4B:  # BININT1
                push(content[position])
                position += 1
            elif opcode == 0x8C:  # SHORT_BINUNICODE
                size = content[position]
                push(self._text(position + 1, size))
                position += 1 + size
            elif opcode == 0x28:  # MARK
                marks.append(len(stack))
            elif opcode == 0x7D:  # EMPTY_DICT
                found = self._rows_at(position - 1) if self.shapes else 0
                if found:
                    position = found
                else:
                    push({})
                if position - told > 1 << 20:
                    self.on_progress(position)
                    told = position
            elif opcode == 0x75:  # SETITEMS
                self._set_items(self._since_mark())
            elif opcode == 0x5D:  # EMPTY_LIST
                push([])
            elif opcode in (0x65, 0x61):  # APPENDS, APPEND
                items = self._since_mark() if opcode == 0x65 else [stack.pop()]
                self._list().extend(items)
            elif opcode == 0x4D:  # BININT2
                push(int.from_bytes(self._take(position, 2), "little"))
                position += 2
            elif opcode == 0x4A:  # BININT
                push(int.from_bytes(self._take(position, 4), "little", signed=True))
                position += 4
            elif opcode == 0x8A:  # LONG1
                size = content[position]
                push(int.from_bytes(self._take(position + 1, size), "little", signed=True))
                position += 1 + size
            elif opcode == 0x58:  # BINUNICODE
                size = int.from_bytes(self._take(position, 4), "little")
                push(self._text(position + 4, size))
                position += 4 + size
            elif opcode == 0x4E:  # NONE
                push(None)
            elif opcode == 0x88:  # NEWTRUE
                push(True)
            elif opcode == 0x89:  # NEWFALSE
                push(False)
            elif opcode == 0x29:  # EMPTY_TUPLE
                push(())
            elif opcode in (0x85, 0x86, 0x87):  # TUPLE1, TUPLE2, TUPLE3
                size = opcode - 0x84
                if len(stack) - (marks[-1] if marks else 0) < size:
                    raise PlainPickleError("it is damaged")
                stack[-size:] = [tuple(_without_rows(stack[-size:]))]
            elif opcode == 0x74:  # TUPLE
                push(tuple(_without_rows(self._since_mark())))
            elif opcode == 0x73:  # SETITEM
                value, key = stack.pop(), stack.pop()
                self._set_items([key, value])
            elif opcode in (0x71, 0x72):  # BINPUT, LONG_BINPUT
                size = 1 if opcode == 0x71 else 4
                self._put(int.from_bytes(self._take(position, size), "little"))
                position += size
            elif opcode == 0x47:  # BINFLOAT
                push(struct.unpack(">d", self._take(position, 8))[0])
                position += 8
            elif opcode == 0x80:  # PROTO
                if content[position] > 5:
                    raise PlainPickleError(f"its protocol {content[position]} is unknown")
                position += 1
            elif opcode == 0x95:  # FRAME
                position += 8
            elif opcode == 0x2E:  # STOP
                return _without_rows([stack.pop()])[0]
            else:
                position = self._seldom(opcode, position)

    # ---------------------------------------------------------------- the stack and the memo

    def _take(self, position: int, size: int) -> bytes:
        taken = self.content[position : position + size]
        if len(taken) < size:
            raise PlainPickleError("it ends too early")
        return taken

    def _text(self, position: int, size: int) -> str:
        return str(self._take(position, size), "utf-8", "surrogatepass")

    def _line(self, position: int) -> bytes:
        end = self.content.find(b"\n", position)
        if end < 0:
            raise PlainPickleError("it ends too early")
        return self.content[position:end]

    def _get(self, index: int) -> Any:
        value = self.memo[index]
        if value is _IN_ROWS:
            raise _NoRow
        return value

    def _put(self, index: int) -> None:
        memo, value = self.memo, self.stack[-1]
        if index > len(memo) + _PADDING:
            raise PlainPickleError(f"its memo begins at {index}")
        if index < len(memo):
            self.slices.clear()  # what they refer to may be another now
        while index >= len(memo):
            memo.append(None)
        memo[index] = value
        if type(value) is str:
            self.words.setdefault(value, index)
        elif type(value) is Rows:
            raise _NoRow

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _list(self) -> list[Any]:
        target = self.stack[-1]
        if type(target) is not list:
            raise PlainPickleError("it is damaged: what it appends to is no list")
        return target

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        keys = _without_rows(items)[::2]
        if type(target) is not dict or len(items) % 2:
            raise PlainPickleError("it is damaged: what it sets items of is no dict")
        if not all(type(key) in (str, int, bool, float, bytes) or key is None for key in keys):
            raise PlainPickleError("a key is neither text nor a number")
        if self.shapes is not None and not target:
            self._learn(tuple(keys))
        target.update(zip(keys, items[1::2], strict=True))

    def _seldom(self, opcode: int, position: int) -> int:  # noqa: PLR0912  one branch an opcode
        """What snapshots of today do not use; returns where to read on."""
        stack = self.stack
        match chr(opcode):
            case "l":
                stack.append(self._since_mark())
            case "d":
                items = self._since_mark()
                stack.append({})
                self._set_items(items)
            case "0":
                _without_rows([stack.pop()])
            case "1":
                self._since_mark()
            case "2":
                stack.append(_without_rows(stack[-1:])[0])
            case "p":
                line = self._line(position)
                self._put(_number(line))
                return position + len(line) + 1
            case "g" | "I" | "L" | "F" | "V" | "S":
                line = self._line(position)
                stack.append(self._get(_number(line)) if opcode == ord("g") else _in_text(opcode, line))
                return position + len(line) + 1
            case "\x8d" | "\x8e" | "\x96":  # BINUNICODE8, BINBYTES8, BYTEARRAY8
                size = int.from_bytes(self._take(position, 8), "little")
                taken = self._take(position + 8, size)
                stack.append(str(taken, "utf-8", "surrogatepass") if opcode == 0x8D else taken)
                return position + 8 + size
            case "B" | "T" | "C" | "U":  # their lengths take 4 bytes, or 1
                start = position + (4 if chr(opcode) in "BT" else 1)
                size = int.from_bytes(self._take(position, start - position), "little")
                stack.append(self._take(start, size))
                return start + size
            case "\x8b":  # LONG4
                raise PlainPickleError("a number is too large")
            case "c" | "i":
                line = self._line(position)
                name = self._line(position + len(line) + 1)
                self._refuse(f"{_shown(line)}.{_shown(name)}")
            case "\x93":  # STACK_GLOBAL
                name, module = stack.pop(), stack.pop()
                self._refuse(f"{module}.{name}" if type(module) is type(name) is str else "a class")
            case "R" | "o" | "\x81" | "\x92" | "b" | "P" | "Q" | "\x82" | "\x83" | "\x84":
                self._refuse("an object of some class")
            case _:
                raise PlainPickleError(f"there is no opcode {opcode:#04x}")
        return position

    def _refuse(self, what: str) -> None:
        raise Forbidden(f"the pickle asks for {what[:200]}")

    # ---------------------------------------------------------------- rows

    def _learn(self, keys: tuple[Any, ...]) -> None:
        """Look from now on for rows of dicts with these keys, once all of them are in the memo."""
        if self.shapes is None or keys in self.shapes or not 2 <= len(keys) <= _RECURRING_SHAPES:
            return
        if "action" not in keys or len(self.shapes) >= _RECURRING_SHAPES:
            return
        if any(type(key) is not str or key not in self.words for key in keys):
            return
        self.shapes[keys] = RowReader(self.content, [self.words[key] for key in keys])

    def _rows_at(self, position: int) -> int:
        """Push the rows that begin at a position, if any do; returns where they end, or 0."""
        assert self.shapes is not None
        for keys, reader in self.shapes.items():
            if (values := reader.at(position)) is not None:
                self.stack.append(self._rows(keys, values))
                return values.end
        return 0

    def _rows(self, keys: tuple[str, ...], values: RowValues) -> Rows:
        """The rows in columns. The memo grows as if they had been read one by one."""
        import numpy as np

        kinds, numbers = values.kinds, values.numbers
        made = kinds >= rows_of.TEXT
        before = len(self.memo)
        taken = 1 + made.sum(axis=0)
        own = before + np.cumsum(taken) - taken  # place of each dict
        places = own + 1 + np.cumsum(made, axis=0) - made  # of each value that takes one
        entries = np.full(int(taken.sum()), _IN_ROWS, object)
        for index in np.flatnonzero(made.any(axis=1)).tolist():
            which = np.flatnonzero(made[index])
            entries[places[index, which] - before] = self._made(values, index, which)
        self.memo += entries.tolist()
        columns: dict[str, Any] = {}
        for index, key in enumerate(keys):
            kind, number = kinds[index], numbers[index]
            if (kind == rows_of.INTEGER).all():
                columns[key] = number.copy()
                continue
            referred = kind == rows_of.REFERENCE
            if (number[referred] >= places[index, referred]).any():
                raise PlainPickleError("it is damaged: it refers to what comes later")
            for place in np.unique(number[referred]).tolist():
                self._get(place)
            at = np.where(referred, number, places[index])
            if (made[index] | referred).all():
                columns[key] = References(at, self.memo)
            else:
                columns[key] = [
                    rows_of.CONSTANTS[n]
                    if k == rows_of.CONSTANT
                    else n
                    if k == rows_of.INTEGER
                    else self.memo[place]
                    for k, n, place in zip(kind.tolist(), number.tolist(), at.tolist(), strict=True)
                ]
        return Rows(columns, kinds.shape[1])

    def _made(self, values: RowValues, index: int, which: np.ndarray) -> np.ndarray:
        """The texts, pairs, and lists of references of a column, shape (n,): each different one made once."""
        import numpy as np

        found = np.empty(len(which), object)
        kinds = values.kinds[index, which]
        for kind, make in ((rows_of.TEXT, text_of), (rows_of.PAIR, pair_of)):
            chosen = kinds == kind
            different, inverse = np.unique(values.numbers[index, which[chosen]], return_inverse=True)
            table = np.empty(len(different), object)
            table[:] = [make(number) for number in different.tolist()]
            found[chosen] = table[inverse]
        chosen = np.flatnonzero(kinds == rows_of.SLICE)
        spans = (values.starts[index, which[chosen]].tolist(), values.ends[index, which[chosen]].tolist())
        for at, start, end in zip(chosen.tolist(), *spans, strict=True):
            raw = self.content[start:end]
            if raw not in self.slices:
                self.slices[raw] = self._of_slice(raw)
            found[at] = self.slices[raw]
        return found

    def _of_slice(self, raw: bytes) -> Any:
        if raw[0] == 0x8C:
            return str(raw[2:-1], "utf-8", "surrogatepass")
        places = [int.from_bytes(each[1:], "little") for each in rows_of.REFERENCES.findall(raw, 2)]
        if max(places, default=-1) >= len(self.memo):
            raise _NoRow
        return [self._get(place) for place in places]


def _without_rows(items: list[Any]) -> list[Any]:
    """What goes anywhere but into a list. Raises _NoRow if rows are in it."""
    if Rows in map(type, items):
        raise _NoRow
    return items


def _in_text(opcode: int, line: bytes) -> Any:
    """The value of a line of protocol 0."""
    match chr(opcode):
        case "I" if line in (b"00", b"01"):
            return line == b"01"
        case "F":
            return float(line[:_DIGITS])
        case "V":
            return str(line, "raw-unicode-escape")
        case "S":
            return str(line[1:-1], "latin-1")
    return _number(line.removesuffix(b"L"))


def _number(line: bytes) -> int:
    if len(line) > _DIGITS:
        raise PlainPickleError("a number is too large")
    return int(line)


def _shown(raw: bytes) -> str:
    return str(raw, "utf-8", "backslashreplace")
