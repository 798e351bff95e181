"""What grew between two runs: the bytes alive at the peak of each, side by side.

Category, module and line each divide a peak's bytes without remainder, so that the differences of the parts
sum to the difference of the peaks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from profiler.trace.moments import (
    Moment,
    by_category,
    by_line,
    has_categories,
    has_modules,
    modules_at,
    phases_in,
)
from profiler.trace.run import Run

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


def difference(before: Run, after: Run) -> Difference:
    """Hold the peak of one run against that of another."""
    first, second = before.peak(), after.peak()
    categories: tuple[Change, ...] = ()
    modules: tuple[Change, ...] = ()
    if has_categories(before.entries) and has_categories(after.entries):
        categories = changes(
            by_category(before.entries, first.position), by_category(after.entries, second.position)
        )
    if has_modules(before.entries) and has_modules(after.entries):
        by_phase = bool(phases_in(before.entries) and phases_in(after.entries))
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
