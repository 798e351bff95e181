"""Bytes on screen and from the command line, in binary units (1024)."""

from __future__ import annotations

import re

from profiler.errors import ProfilerError

_FACTORS = {"b": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4}


def format_bytes(size_bytes: int) -> str:
    """The size in the unit that reads best, as in "1.50 GiB"; exact below 1 KiB."""
    magnitude = abs(size_bytes)
    for name in ("TiB", "GiB", "MiB", "KiB"):
        factor = _FACTORS[name.lower()]
        if magnitude >= factor:
            return f"{size_bytes / factor:,.2f} {name}"
    return f"{size_bytes:,} B"


def parse_bytes(text: str) -> int:
    """The bytes in "512 MiB", "1.5GiB" or "1000"; raises ProfilerError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    unit = (found.group(2) or "b") if found else ""
    if found is None or unit not in _FACTORS:
        raise ProfilerError(f"{text!r} is not a size; write it as in 512MiB or 1.5GiB")
    return int(float(found.group(1)) * _FACTORS[unit])
