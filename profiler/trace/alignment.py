"""Two sequences of allocations, held side by side: which of one correspond to which of the other.

Allocations correspond where their sizes do, in order (the longest common subsequence). What remains is named
and grouped: those are the allocations that one run makes and the other does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

# Differences after which the path found so far is fixed: keeps the cost linear for unlike sequences.
_MOST_DIFFERENCES = 1000

Pairs = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Request:
    """One allocation: the bytes asked for, and what asked for them, in words."""

    size_bytes: int
    cause: str


@dataclass(frozen=True)
class Unmatched:
    """Allocations of one size and cause that the other sequence lacks."""

    cause: str
    size_bytes: int
    times: int

    @property
    def total_bytes(self) -> int:
        """All of them together."""
        return self.size_bytes * self.times


@dataclass(frozen=True)
class Explanation:
    """Two sequences aligned: how many correspond, and the rest of each, grouped, largest cause first."""

    aligned: int
    first_total: int
    second_total: int
    only_first: tuple[Unmatched, ...]
    only_second: tuple[Unmatched, ...]

    @property
    def unexplained_bytes(self) -> int:
        """Bytes asked for by the allocations without a counterpart, of both sequences."""
        return sum(group.total_bytes for group in (*self.only_first, *self.only_second))


def explain(first: Sequence[Request], second: Sequence[Request]) -> Explanation:
    """Align two sequences by their sizes and group what has no counterpart."""
    pairs = align([r.size_bytes for r in first], [r.size_bytes for r in second])
    in_first, in_second = {i for i, _ in pairs}, {j for _, j in pairs}
    return Explanation(
        aligned=len(pairs),
        first_total=len(first),
        second_total=len(second),
        only_first=_grouped([r for i, r in enumerate(first) if i not in in_first]),
        only_second=_grouped([r for j, r in enumerate(second) if j not in in_second]),
    )


def similarity(first: Sequence[int], second: Sequence[int]) -> float:
    """The share of sizes that both sequences have, whatever their order: 1.0 for the same, 0.0 for none."""
    common = (Counter(first) & Counter(second)).total()
    return 2 * common / max(1, len(first) + len(second))


def align(first: Sequence[int], second: Sequence[int]) -> Pairs:
    """Pairs of positions, rising in both, at which the sequences have equal values: as many as can be.

    The greedy algorithm of Myers, "An O(ND) difference algorithm and its variations" (Algorithmica 1986).
    Sequences that differ in more than a thousand places are aligned piece by piece, which may miss pairs.
    """
    pairs: Pairs = []
    at_first = at_second = 0
    while at_first < len(first) and at_second < len(second):
        piece, at_first, at_second = _piece(first, second, at_first, at_second)
        pairs += piece
    return pairs


def _piece(
    first: Sequence[int], second: Sequence[int], start_first: int, start_second: int
) -> tuple[Pairs, int, int]:
    """The pairs from a start on, and where the next piece starts: the end, or the furthest point found.

    `reach[d][i]` is how far in `first` a path with d differences gets on diagonal k = 2i - d, where k is the
    progress in `first` minus that in `second`.
    """
    length_first, length_second = len(first) - start_first, len(second) - start_second
    reach: list[list[int]] = []
    for differences in range(_MOST_DIFFERENCES + 1):
        before = reach[-1] if reach else []
        row = []
        for i in range(differences + 1):
            diagonal = 2 * i - differences
            if not before:
                x = 0
            elif i == 0 or (i < differences and before[i - 1] < before[i]):
                x = before[i]  # one more of the second sequence
            else:
                x = before[i - 1] + 1  # one more of the first
            y = x - diagonal
            while (
                x < length_first and y < length_second and first[start_first + x] == second[start_second + y]
            ):
                x += 1
                y += 1
            row.append(x)
            if x >= length_first and y >= length_second:
                reach.append(row)
                return _walk_back(reach, i, start_first, start_second), len(first), len(second)
        reach.append(row)
    last = len(reach) - 1
    inside = [i for i, x in enumerate(row) if x <= length_first and x - 2 * i + last <= length_second]
    best = max(inside, key=lambda i: 2 * row[i] - 2 * i)
    end_first = start_first + row[best]
    return (
        _walk_back(reach, best, start_first, start_second),
        end_first,
        end_first - start_first - 2 * best + last + start_second,
    )


def _walk_back(reach: list[list[int]], i: int, start_first: int, start_second: int) -> Pairs:
    """The pairs on the path that ends at the last row's entry i."""
    pairs: Pairs = []
    for differences in range(len(reach) - 1, -1, -1):
        x = reach[differences][i]
        y = x - (2 * i - differences)
        before = reach[differences - 1] if differences else [0]
        if not differences:
            begin = 0
        elif i == 0 or (i < differences and before[i - 1] < before[i]):
            begin = before[i]
        else:
            i -= 1
            begin = before[i] + 1
        while x > begin:
            x, y = x - 1, y - 1
            pairs.append((start_first + x, start_second + y))
    pairs.reverse()
    return pairs


def _grouped(requests: Sequence[Request]) -> tuple[Unmatched, ...]:
    times = Counter((request.cause, request.size_bytes) for request in requests)
    by_cause: Counter[str] = Counter()
    for (cause, size_bytes), count in times.items():
        by_cause[cause] += size_bytes * count
    groups = [Unmatched(cause, size_bytes, count) for (cause, size_bytes), count in times.items()]
    return tuple(sorted(groups, key=lambda g: (-by_cause[g.cause], g.cause, -g.total_bytes)))
