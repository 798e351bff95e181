"""What grew between two runs: the bytes alive at the peak of each, side by side.

Category, module and line each divide a peak's bytes without remainder, so that the differences of the parts
sum to the difference of the peaks.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from profiler.trace.events import Allocation, Mark
from profiler.trace.load import SavedRun
from profiler.trace.moments import Entries, Moment, alive_at, by_category, by_module

_LINE = re.compile(r"(?P<file>.*\.py):\d+(?P<function> .*)?")


@dataclass(frozen=True)
class Change:
    """One part of the two peaks."""

    name: str
    before_bytes: int
    after_bytes: int

    @property
    def difference_bytes(self) -> int:
        """Positive where it grew."""
        return self.after_bytes - self.before_bytes


@dataclass(frozen=True)
class Difference:
    """Two peaks. A breakdown that either file cannot give is empty; of the others every part is listed.

    Attributes:
        before, after: the two moments.
        categories, modules, lines: the parts, those that changed most first.
    """

    before: Moment
    after: Moment
    categories: tuple[Change, ...]
    modules: tuple[Change, ...]
    lines: tuple[Change, ...]

    @property
    def difference_bytes(self) -> int:
        """Of the allocated peaks."""
        return self.after.allocated_bytes - self.before.allocated_bytes


def difference(before: SavedRun, after: SavedRun) -> Difference:
    """Hold the peak of one run against that of another."""
    first, second = before.peak(), after.peak()
    categories: tuple[Change, ...] = ()
    modules: tuple[Change, ...] = ()
    if has_categories(before.entries) and has_categories(after.entries):
        categories = changes(
            by_category(before.entries, first.position), by_category(after.entries, second.position)
        )
    if has_modules(before.entries) and has_modules(after.entries):
        by_phase = bool(_phases(before.entries) and _phases(after.entries))
        modules = changes(
            modules_at(before.entries, first.position, by_phase),
            modules_at(after.entries, second.position, by_phase),
        )
    lines = changes(
        *without_moved(by_line(before.entries, first.position), by_line(after.entries, second.position))
    )
    return Difference(first, second, categories, modules, lines)


def changes(before: Mapping[str, int], after: Mapping[str, int]) -> tuple[Change, ...]:
    """Every part of either side, the largest differences first, then by name."""
    found = [
        Change(name, before.get(name, 0), after.get(name, 0)) for name in sorted(before.keys() | after.keys())
    ]
    return tuple(sorted(found, key=lambda change: -abs(change.difference_bytes)))


def by_line(entries: Entries, position: int) -> dict[str, int]:
    """Bytes alive just after the entry at `position` by the line that asked for them, else by op."""
    sizes: Counter[str] = Counter()
    for index in alive_at(entries, position):
        allocation = entries[index]
        assert isinstance(allocation, Allocation)
        line = allocation.where.line if allocation.where else ""
        sizes[line or f"({allocation.op or 'no line recorded'})"] += allocation.size_bytes
    return dict(sizes)


def without_moved(
    before: Mapping[str, int], after: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Both sides, a line that only has another number now under its new name on both.

    Such lines are in the same function of the same file, hold the same bytes, and are on one side each.
    """
    moved: defaultdict[tuple[str, str, int], list[str]] = defaultdict(list)
    for name in _sorted_lines(after.keys() - before.keys()):
        moved[(*_function(name), after[name])].append(name)
    renamed = {}
    for name in _sorted_lines(before.keys() - after.keys()):
        candidates = moved[(*_function(name), before[name])]
        if candidates:
            renamed[name] = candidates.pop(0)
    return {renamed.get(name, name): size for name, size in before.items()}, dict(after)


def _sorted_lines(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if _LINE.fullmatch(name))


def _function(name: str) -> tuple[str, str]:
    found = _LINE.fullmatch(name)
    assert found is not None
    return found["file"], found["function"] or ""


def modules_at(entries: Entries, position: int, by_phase: bool) -> dict[str, int]:
    """Bytes alive by module; what belongs to none `by_phase` that it was born in, or all together."""
    in_phases = {f"({name.replace('_', ' ')})" for name in (*_phases(entries), "after the last phase")}
    sizes: Counter[str] = Counter()
    for share in by_module(entries, position):
        together = share.name in in_phases and not by_phase
        sizes["(no module)" if together else share.name] += share.size_bytes
    return dict(sizes)


def _phases(entries: Entries) -> set[str]:
    return {entry.phase.name for entry in entries if isinstance(entry, Mark)}


def has_categories(entries: Entries) -> bool:
    """Whether anything says what the blocks are: the ends of phases, or a category at birth."""
    return any(isinstance(e, Mark) or (isinstance(e, Allocation) and e.category) for e in entries)


def has_modules(entries: Entries) -> bool:
    """Whether the recorder knew the modules."""
    return any(isinstance(e, Allocation) and e.where is not None and e.where.module for e in entries)
