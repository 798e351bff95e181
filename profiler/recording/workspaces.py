"""Blocks that libraries keep for themselves, told by their size: no tensor owns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from profiler.gpu.kernels.blas import DEFAULT_WORKSPACE_BYTES, LARGE_WORKSPACE_BYTES
from profiler.trace.events import Allocation, Entry, Free

_WORKSPACE_BYTES = (DEFAULT_WORKSPACE_BYTES, LARGE_WORKSPACE_BYTES)


def with_workspaces(entries: Sequence[Entry]) -> list[Entry]:
    """Blocks of exactly a cuBLAS workspace's size that no tensor owns and nobody frees get that category."""
    kept: dict[int, int] = {}
    held: set[int] = set()
    for index, entry in enumerate(entries):
        if isinstance(entry, Allocation):
            kept.pop(entry.address, None)
            if entry.requested_bytes in _WORKSPACE_BYTES:
                kept[entry.address] = index
        elif isinstance(entry, Free):
            kept.pop(entry.address, None)
        else:
            held.update(entry.labels)
    found = list(entries)
    for address, index in kept.items():
        entry = found[index]
        if address not in held and isinstance(entry, Allocation):
            found[index] = replace(entry, category="workspaces")
    return found
