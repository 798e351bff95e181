"""The bytes of dicts that follow one another in a pickle with the same keys, and the numbers in them.

*Source:* Lib/pickletools.py of CPython describes every opcode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_INTEGER = rb"K.|M..|J....|" + b"|".join(rb"\x8a" + re.escape(bytes([n])) + b"." * n for n in range(1, 9))
_REFERENCE = rb"h.|j...."
_TEXT = b"|".join(rb"\x8c" + re.escape(bytes([n])) + b"." * n + rb"\x94" for n in range(16))
# What takes a place in the memo: a short text, a pair of small numbers, a list of references.
_MADE = (
    _TEXT + rb"|K.K.\x86\x94|\]\x94(?:\((?:" + _REFERENCE + rb")++e|(?:" + _REFERENCE + rb")a)?"
)  # fmt: skip
_VALUE = rb"(?:(" + _MADE + rb")|(" + _INTEGER + b"|" + _REFERENCE + rb"|N|\x88|\x89))"
REFERENCES = re.compile(_REFERENCE, re.DOTALL)
INTEGERS = (0x4B, 0x4D, 0x4A, 0x8A)  # opcodes
CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False}


class Rows:
    """Dicts with the same keys in the same order, in columns: arrays of int64, or lists of whatever else."""

    def __init__(self, columns: dict[str, Any], length: int) -> None:
        self.columns = columns
        self.length = length


def row_pattern(places: Sequence[int]) -> re.Pattern[bytes]:
    """One dict whose keys are at these places of the memo; two groups a value, one of which matches.

    The first is a value that takes a place in the memo, the second any other.
    """
    keys = (re.escape(_reference(place)) for place in places)
    return re.compile(rb"\}\x94\(" + b"".join(key + _VALUE for key in keys) + b"u", re.DOTALL)


def _reference(place: int) -> bytes:
    return b"h" + bytes([place]) if place < 256 else b"j" + place.to_bytes(4, "little")


def integers(column: Sequence[bytes]) -> np.ndarray | None:
    """The numbers of opcodes BININT1, BININT2, BININT and LONG1, shape (n,), int64.

    None if there is another opcode.
    """
    import numpy as np

    if len(set(map(len, column))) == 1:
        return _of_one_length(np.frombuffer(b"".join(column), np.uint8).reshape(len(column), -1))
    lengths = np.fromiter(map(len, column), np.int64, len(column))
    starts = np.cumsum(lengths) - lengths
    content = np.frombuffer(b"".join(column), np.uint8)
    numbers = np.empty(len(column), np.int64)
    for length in np.unique(lengths).tolist():
        at = np.flatnonzero(lengths == length)
        found = _of_one_length(content[starts[at, None] + np.arange(length)])
        if found is None:
            return None
        numbers[at] = found
    return numbers


def _of_one_length(raw: np.ndarray) -> np.ndarray | None:
    """As `integers`, of opcodes with their bytes, shape (n, length)."""
    import numpy as np

    numbers = np.empty(len(raw), np.int64)
    opcodes = raw[:, 0]
    for opcode in np.unique(opcodes).tolist():
        if opcode not in INTEGERS:
            return None
        chosen = opcodes == opcode
        of_opcode = raw if chosen.all() else raw[chosen]
        digits = of_opcode[:, 2 if opcode == 0x8A else 1 :]
        width = digits.shape[1]
        padded = np.zeros((len(digits), 8), np.uint8)
        padded[:, :width] = digits
        if opcode in (0x4A, 0x8A):  # signed
            padded[digits[:, -1] >= 0x80, width:] = 0xFF
        numbers[chosen] = padded.view("<i8")[:, 0]
    return numbers
