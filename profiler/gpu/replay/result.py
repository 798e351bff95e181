"""What a replay found, and how it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from profiler.gpu.allocator import SegmentInfo
from profiler.units import MIB

# Which of equal free blocks torch takes, by its version.
BEFORE_2_12, FROM_2_12 = "before torch 2.12", "from torch 2.12"
_CHOICES = {BEFORE_2_12: "the lowest address", FROM_2_12: "the oldest segment"}


@dataclass(frozen=True)
class Timeline:
    """Bytes after each event of the trace, as replayed (event i of the trace is entry i)."""

    allocated_bytes: Sequence[int]
    reserved_bytes: Sequence[int]


@dataclass(frozen=True)
class ReplayResult:
    """What the replay of one device's trace found.

    `verdict` is "exact" (every address, every segment and the final state), "differs", "empty" (no event
    that changes anything), or "unsupported" (private pools, or a trace that contradicts the final state;
    `first_mismatch` tells).
    `ambiguous_blocks` counts blocks that existed before the recording, were freed in it, and whose size
    nothing recorded determines: the replay then assumes that no part was left unsplit.
    `start` are the segments before the first event. `rule` is the choice among equal free blocks that all
    of this is of ("" if unsupported or empty); `rules_that_hold` are those that make it exact, of the rules
    that were tried.
    """

    device: int
    verdict: str
    events: int
    allocations: int
    addresses_matched: int
    addresses_mismatched: int
    segments_matched: int
    segments_mismatched: int
    first_mismatch: str | None
    ambiguous_blocks: int
    final_state_matched: bool
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_requested_bytes: int
    timeline: Timeline
    start: tuple[SegmentInfo, ...] = ()
    rule: str = ""
    rules_that_hold: tuple[str, ...] = ()


def summary(result: ReplayResult) -> list[tuple[str, str]]:
    """The result as (name, value) rows for the screen."""
    rows = [
        ("device", str(result.device)),
        ("verdict", result.verdict),
        ("events", f"{result.events:,}"),
        ("addresses matched", f"{result.addresses_matched:,} of {result.allocations:,}"),
        (
            "segments matched",
            f"{result.segments_matched:,} of {result.segments_matched + result.segments_mismatched:,}",
        ),
        ("final state", "matched" if result.final_state_matched else "differs"),
        ("peak requested", f"{result.peak_requested_bytes / MIB:,.1f} MiB"),
        ("peak allocated", f"{result.peak_allocated_bytes / MIB:,.1f} MiB"),
        ("peak reserved", f"{result.peak_reserved_bytes / MIB:,.1f} MiB"),
    ]
    if result.rule:
        rows.append(("of equal free blocks", _choice(result)))
    if result.ambiguous_blocks:
        rows.append(("blocks of unrecorded size", f"{result.ambiguous_blocks:,}"))
    if result.first_mismatch:
        rows.append(("first mismatch", result.first_mismatch))
    return rows


def _choice(result: ReplayResult) -> str:
    """Which rule of the choice among equal free blocks the recording follows, both having been tried."""
    if len(result.rules_that_hold) > 1:
        return f"either rule gives every address, {' and '.join(result.rules_that_hold)}"
    if result.rules_that_hold:
        return f"{_CHOICES[result.rule]}, as {result.rule}"
    return f"neither rule holds; compared with {_CHOICES[result.rule]}, as {result.rule}"
