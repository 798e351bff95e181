"""What was alive at any moment of a recording: the moment of each phase's peak, by category and by module."""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.trace.events import Allocation, Entries, Free, Mark
from profiler.trace.ledger import CATEGORIES, Account, categories
from profiler.trace.phase import Phase

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Share:
    """Bytes alive that belong to `name`: a module, or the same one of `modules` layers, as in `h.*.mlp`."""

    name: str
    size_bytes: int
    modules: int


@dataclass(frozen=True)
class Moment:
    """The first moment at which a phase had the most allocated.

    `position` is that of the entry; `allocation` made the peak, None where the phase began at it.
    """

    phase: Phase
    position: int
    allocated_bytes: int
    reserved_bytes: int | None
    allocation: Allocation | None

    @property
    def fragmentation_bytes(self) -> int | None:
        """Held by the allocator and not handed out; None where nobody looked."""
        return None if self.reserved_bytes is None else self.reserved_bytes - self.allocated_bytes


def moment_of_peak(phase: Account, entries: Entries, reserved_bytes: Sequence[int]) -> Moment:
    """When a phase had the most; `reserved_bytes` is what the allocator held after each entry, () unknown."""
    position = phase.peak_position
    made_by = entries[position] if position < len(entries) else None
    return Moment(
        phase.phase,
        position,
        phase.peak_bytes,
        reserved_bytes[position] if reserved_bytes else None,
        made_by if isinstance(made_by, Allocation) else None,
    )


def alive_at(entries: Entries, position: int) -> list[int]:
    """The positions of the allocations that are alive just after the entry at `position`."""
    alive: dict[int, int] = {}
    for index in range(position + 1):
        entry = entries[index]
        if isinstance(entry, Allocation):
            alive[entry.address] = index
        elif isinstance(entry, Free):
            alive.pop(entry.address, None)
    return list(alive.values())


def by_category(entries: Entries, position: int) -> dict[str, int]:
    """Bytes alive just after the entry at `position` by category, those of none left out."""
    names, found = categories(entries), Counter[str]()
    for index in alive_at(entries, position):
        allocation = _allocation(entries, index)
        found[names[index]] += allocation.requested_bytes
        found["rounding"] += allocation.size_bytes - allocation.requested_bytes
    return {category: found[category] for category in CATEGORIES if found[category]}


def by_module(entries: Entries, position: int) -> list[Share]:
    """Bytes alive just after the entry at `position` by module, largest first; they sum to the allocated.

    Layers of a list count together: `h.0.mlp` and `h.1.mlp` are `h.*.mlp`. What belongs to no module goes
    under the phase it was born in, in parentheses.
    """
    phases, outer = _phase_names(entries), containers(entries)
    sizes: Counter[str] = Counter()
    modules: defaultdict[str, set[str]] = defaultdict(set)
    for index in alive_at(entries, position):
        allocation = _allocation(entries, index)
        module = allocation.where.module if allocation.where else ""
        name = layers_together(module, outer) if module else f"({phases(index)})"
        sizes[name] += allocation.size_bytes
        modules[name].add(module)
    return [Share(name, size_bytes, len(modules[name])) for name, size_bytes in sizes.most_common()]


def modules_at(entries: Entries, position: int, by_phase: bool) -> dict[str, int]:
    """Bytes alive by module; what belongs to none `by_phase` that it was born in, or all together."""
    in_phases = {f"({name.replace('_', ' ')})" for name in (*phases_in(entries), "after the last phase")}
    sizes: Counter[str] = Counter()
    for share in by_module(entries, position):
        together = share.name in in_phases and not by_phase
        sizes["(no module)" if together else share.name] += share.size_bytes
    return dict(sizes)


def by_line(entries: Entries, position: int) -> dict[str, int]:
    """Bytes alive just after the entry at `position` by the line that asked for them, else by op."""
    sizes: Counter[str] = Counter()
    for index in alive_at(entries, position):
        allocation = _allocation(entries, index)
        line = allocation.where.line if allocation.where else ""
        sizes[line or f"({allocation.op or 'no line recorded'})"] += allocation.size_bytes
    return dict(sizes)


def layers_together(path: str, containers: Container[str]) -> str:
    """The module path with the numbers of layers left out: `h.3.mlp` is `h.*.mlp`.

    A number at the end stays unless it is one of `containers`, modules with modules inside: `h.3` is `h.*`,
    but the parts of a Sequential, `body.0` and `body.2`, are different things.
    """
    inner = re.sub(r"(?<![^.])\d+(?=\.)", "*", path)
    return re.sub(r"(?<![^.])\d+$", "*", inner) if path in containers else inner


def containers(entries: Entries) -> set[str]:
    """The paths of modules that have modules inside which allocated."""
    found: set[str] = set()
    for path in {e.where.module for e in entries if isinstance(e, Allocation) and e.where}:
        while path:
            path = path.rpartition(".")[0]  # noqa: PLW2901  the next one up
            found.add(path)
    return found


def phases_in(entries: Entries) -> set[str]:
    """The names of the phases that have ended."""
    return {entry.phase.name for entry in entries if isinstance(entry, Mark)}


def has_categories(entries: Entries) -> bool:
    """Whether anything says what the blocks are: the ends of phases, or a category at birth."""
    return any(isinstance(e, Mark) or (isinstance(e, Allocation) and e.category) for e in entries)


def has_modules(entries: Entries) -> bool:
    """Whether the recorder knew the modules."""
    return any(isinstance(e, Allocation) and e.where is not None and e.where.module for e in entries)


def lifetimes(entries: Entries) -> tuple[np.ndarray, np.ndarray]:
    """Of each allocation, in order, the positions of its birth and of its free, shape (n,).

    What is alive at the end dies at len(entries).
    """
    import numpy as np

    born, died, alive = array("q"), array("q"), dict[int, int]()
    for index, entry in enumerate(entries):
        if isinstance(entry, Allocation):
            alive[entry.address] = len(born)
            born.append(index)
            died.append(len(entries))
        elif isinstance(entry, Free) and (block := alive.pop(entry.address, None)) is not None:
            died[block] = index
    return np.frombuffer(born, np.int64), np.frombuffer(died, np.int64)


def levels(
    entries: Entries, points: int = 2000, names: Mapping[int, str] | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Bytes of each category over the events, at no more than about `points` moments.

    Of each stretch of events the moment with the most allocated is kept, so that no peak is lost.
    `names` are the categories of the allocations by position, where they are known already.

    Returns:
        The positions, shape (n,), and for each category that ever has bytes its bytes, shape (n,).
    """
    import numpy as np

    names = categories(entries) if names is None else names
    born, died = lifetimes(entries)
    count, freed = len(entries), died < len(entries)
    allocations = [_allocation(entries, index) for index in born.tolist()]
    sizes = np.fromiter((each.size_bytes for each in allocations), np.int64, len(born))
    requested = np.fromiter((each.requested_bytes for each in allocations), np.int64, len(born))
    rows = {category: index for index, category in enumerate(CATEGORIES)}
    owners = np.fromiter((rows[names[index]] for index in born.tolist()), np.int8, len(born))

    def totals(of_blocks: np.ndarray) -> np.ndarray:
        changes = np.zeros(count, np.int64)
        changes[born] += of_blocks
        changes[died[freed]] -= of_blocks[freed]
        return np.cumsum(changes)

    allocated = totals(sizes)
    stretch = max(1, -(-count // points))
    kept = np.array(
        [start + int(np.argmax(allocated[start : start + stretch])) for start in range(0, count, stretch)],
        np.int64,
    )
    found = {}
    for category, row in rows.items():
        of_category = np.where(owners == row, requested, 0)
        if category == "rounding":
            of_category = of_category + sizes - requested
        if of_category.any():
            found[category] = totals(of_category)[kept]
    return kept, found


def _allocation(entries: Entries, index: int) -> Allocation:
    entry = entries[index]
    assert isinstance(entry, Allocation)
    return entry


def _phase_names(entries: Entries) -> _PhaseNames:
    return _PhaseNames([(i, entry.phase.name) for i, entry in enumerate(entries) if isinstance(entry, Mark)])


@dataclass(frozen=True)
class _PhaseNames:
    """The name of the phase that an entry belongs to."""

    ends: Sequence[tuple[int, str]]

    def __call__(self, index: int) -> str:
        name = next((name for end, name in self.ends if index < end), "after the last phase")
        return name.replace("_", " ")
