"""A file of memory peaks that a repository keeps, and what changed since: JSON, one entry a test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.errors import ProfilerError
from profiler.trace.difference import Change, changes
from profiler.trace.ledger import CATEGORIES
from profiler.units import format_bytes

if TYPE_CHECKING:
    from profiler.trace.run import Run

_VERSION = 1
_CONTRIBUTORS = 5
_KINDS = {"categories": "category", "modules": "module"}


@dataclass(frozen=True)
class Peak:
    """What is kept of a run: its peaks, and the allocated one's bytes by category and by module."""

    gpu: str
    workload: str
    peak_reserved_bytes: int
    peak_allocated_bytes: int
    phase: str
    categories: Mapping[str, int]
    modules: Mapping[str, int]

    @classmethod
    def of(cls, run: Run, gpu: str) -> Peak:
        """The peak of a run on the GPU of that name."""
        # The file's folder is another on the next machine.
        assert run.workload is not None
        workload = replace(run.workload, model=Path(run.workload.model).name)
        return cls(
            gpu,
            str(workload),
            run.needed_bytes,
            run.peak_allocated_bytes,
            str(run.peak().phase),
            run.by_category(),
            {share.name: share.size_bytes for share in run.by_module()},
        )


def read_baseline(path: Path) -> dict[str, Peak]:
    """The peaks in a baseline file, none if it does not exist; raises ProfilerError for any other file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise ProfilerError(f"{path} is a baseline of version {content['version']!r}, not {_VERSION}")
        return {test: _checked(Peak(**values)) for test, values in content["peaks"].items()}
    except OSError as error:
        raise ProfilerError(f"cannot read the memory baseline {path} ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProfilerError(f"{path} is not a memory baseline ({error}); move it away to begin one") from None


def _checked(peak: Peak) -> Peak:
    """The peak; raises TypeError where a size is none."""
    sizes = [peak.peak_reserved_bytes, peak.peak_allocated_bytes]
    sizes += [*peak.categories.values(), *peak.modules.values()]
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise TypeError("a size is not a number of bytes")
    return peak


def add_to_baseline(path: Path, peaks: Mapping[str, Peak]) -> None:
    """Put peaks beside or in place of those in the file; of several processes one at a time."""
    from profiler.files import alone_with

    with alone_with(path):
        write_baseline(path, {**read_baseline(path), **peaks})


def write_baseline(path: Path, peaks: Mapping[str, Peak]) -> None:
    """Write a baseline, sorted and indented so that a change reads well in a diff."""
    from profiler.files import write_atomically

    content = {"version": _VERSION, "peaks": {test: asdict(peak) for test, peak in peaks.items()}}
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def grown(old: Peak, new: Peak, tolerance_percent: float) -> str:
    """Why `new` is more than `old` allows, in words; "" if it is not.

    Reserved bytes count: they are what the device must have.
    """
    allowed_bytes = old.peak_reserved_bytes * (1 + tolerance_percent / 100)
    if new.peak_reserved_bytes <= allowed_bytes:
        return ""
    more = new.peak_reserved_bytes - old.peak_reserved_bytes
    return (
        f"the reserved peak grew by {format_bytes(more)} "
        f"({100 * more / max(1, old.peak_reserved_bytes):.1f} %, {tolerance_percent:g} % is allowed): "
        f"{format_bytes(old.peak_reserved_bytes)} before, {format_bytes(new.peak_reserved_bytes)} now"
    )


def contributors(peak: Peak) -> str:
    """What the peak is made of, the largest first: the parts of each line add up to the reserved peak."""
    lines = [
        f"  peak: {format_bytes(peak.peak_reserved_bytes)} reserved, "
        f"{format_bytes(peak.peak_allocated_bytes)} allocated in {peak.phase}; {peak.workload}, {peak.gpu}"
    ]
    for what, kind in _KINDS.items():
        parts = [(_words(name), size) for name, size in _largest_first(getattr(peak, what))]
        words = [f"{name} {format_bytes(size)}" for name, size in parts[: _shown(parts)]]
        rest = _rest(parts, format_bytes)
        beyond = f"reserved and not allocated: {format_bytes(_beyond_bytes(peak))}"
        lines.append(f"  by {kind}: {', '.join((*words, *rest, beyond))}")
    return "\n".join(lines)


def changes_since(old: Peak, new: Peak) -> str:
    """What is different at the peak, the largest differences first.

    The parts of each line add up to what the reserved peak grew by.
    """
    lines = []
    for name in ("gpu", "workload", "phase"):
        before, now = getattr(old, name), getattr(new, name)
        if before != now:
            lines.append(f"  {name} since the baseline: {before} before, {now} now")
    beyond = _beyond_bytes(new) - _beyond_bytes(old)
    for what in _KINDS:
        moved = [c for c in changes(getattr(old, what), getattr(new, what)) if c.difference_bytes]
        if moved or beyond:
            words = [_change(change) for change in moved[: _shown(moved)]]
            rest = _rest([(change.name, change.difference_bytes) for change in moved], _signed)
            words += [*rest, f"reserved and not allocated: {_signed(beyond)}"]
            lines.append(f"  {what} since the baseline: {', '.join(words)}")
    return "\n".join(lines) or "  nothing else changed since the baseline"


def _beyond_bytes(peak: Peak) -> int:
    return peak.peak_reserved_bytes - peak.peak_allocated_bytes


def _largest_first(sizes: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda item: (-item[1], item[0]))


def _shown(parts: Sequence[object]) -> int:
    """How many parts are named; a last one takes no more room than its count."""
    return _CONTRIBUTORS if len(parts) > _CONTRIBUTORS + 1 else len(parts)


def _rest(parts: Sequence[tuple[str, int]], words: Callable[[int], str]) -> list[str]:
    """The parts that are not named, in one."""
    rest = [size_bytes for _, size_bytes in parts[_shown(parts) :]]
    return [f"{len(rest)} more: {words(sum(rest))}"] if rest else []


def _change(change: Change) -> str:
    new = " (new)" if not change.before_bytes else ""
    return f"{_words(change.name)} {_signed(change.difference_bytes)}{new}"


def _signed(size_bytes: int) -> str:
    return f"{'+' if size_bytes > 0 else ''}{format_bytes(size_bytes)}"


def _words(name: str) -> str:
    return name.replace("_", " ") if name in CATEGORIES else name
