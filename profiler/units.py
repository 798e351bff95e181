"""Bytes on screen, in binary units (1024), and sizes as a user writes them, in either kind of unit."""

from __future__ import annotations

import re
from decimal import Decimal

from profiler.errors import ProfilerError

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40

_BINARY = {"KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": TIB}
_DECIMAL = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS = {name.lower(): size_bytes for name, size_bytes in (_DECIMAL | _BINARY).items()}
_SIZE = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([a-z]*)\s*", re.IGNORECASE)


def format_bytes(size_bytes: int) -> str:
    """The size in the unit that reads best, as in "1.50 GiB"; exact below 1 KiB."""
    magnitude = abs(size_bytes)
    for name, factor in reversed(_BINARY.items()):
        if magnitude >= factor:
            return f"{size_bytes / factor:,.2f} {name}"
    return f"{size_bytes:,} B"


def is_size(text: str) -> bool:
    """Whether the text is a number with a unit, such as "24 GiB"; a number alone may be a name."""
    found = _SIZE.fullmatch(text)
    return found is not None and found[2].lower() in _UNITS


def parse_bytes(text: str) -> int:
    """The bytes in "24 GiB" (1024³), "24GB" (1000³), "1.5TiB" or "1000"; the unit in any case.

    Raises ProfilerError for anything else.
    """
    found = _SIZE.fullmatch(text)
    unit = (found[2] or "B").lower() if found else ""
    if found is None or unit not in _UNITS:
        raise ProfilerError(f"{text!r} is not a size; write it as in 24GiB (1024³) or 24GB (1000³)")
    return int(Decimal(found[1]) * _UNITS[unit])


def divide_up(numerator: int, denominator: int) -> int:
    """Integer division, rounded up."""
    return -(-numerator // denominator)


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return divide_up(value, multiple) * multiple
