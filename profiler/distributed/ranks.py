"""What each rank of a program needed, ranks alike put together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from profiler.recording.inside.communication import ALL_GATHER, BUCKETS, OTHER, REDUCE_SCATTER, UNSHARDED
from profiler.recording.virtual.program_run import ProgramProcess
from profiler.trace.events import Allocation
from profiler.trace.ledger import categories
from profiler.trace.moments import alive_at

COMMUNICATION = (UNSHARDED, ALL_GATHER, REDUCE_SCATTER, BUCKETS, OTHER)
_LABELLED = ("parameters", "gradients", "optimizer_states", "inputs", "workspaces")


@dataclass(frozen=True)
class RankMemory:
    """One rank on its GPU.

    Attributes:
        rank, device: its number in the process group, and the GPU's number on its machine.
        peak_allocated_bytes, peak_reserved_bytes: of PyTorch's allocator, over the whole run.
        phase: in which the most was allocated.
        shares: bytes at that moment by category, with what torch.distributed holds apart (COMMUNICATION):
            unsharded parameters, the buffers of all-gather and reduce-scatter, DDP's buckets. "parameters",
            "gradients" and "optimizer_states" are the rank's own, of a sharded model its shards.
    """

    rank: int
    device: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    phase: str
    shares: Mapping[str, int]


@dataclass(frozen=True)
class AlikeRanks:
    """Ranks that needed the same, to the byte; `memory` is that of the first."""

    ranks: tuple[int, ...]
    memory: RankMemory

    def __str__(self) -> str:
        return ", ".join(_spans(self.ranks))


def rank_memory(process: ProgramProcess) -> RankMemory | None:
    """What that process needed as a rank; None for one that is none, as torchrun itself."""
    if not process.rank.isdecimal():
        return None
    peak, entries = process.run.peak(), process.run.entries
    names, shares = categories(entries), Counter[str]()
    for index in alive_at(entries, peak.position):
        allocation = entries[index]
        assert isinstance(allocation, Allocation)
        shares[_category(names[index], allocation.op)] += allocation.size_bytes
    return RankMemory(
        int(process.rank),
        process.device,
        peak.allocated_bytes,
        max(process.run.reserved_bytes, default=0),
        str(peak.phase),
        dict(shares.most_common()),
    )


def _category(name: str, op: str) -> str:
    """What torch.distributed made is named so, unless a shard is what it became.

    While a module of FSDP2 is gathered, its parameters are the unsharded ones: they are not the rank's own.
    """
    if op == UNSHARDED or (op in COMMUNICATION and name not in _LABELLED):
        return op
    return name


def alike(ranks: Sequence[RankMemory]) -> tuple[AlikeRanks, ...]:
    """Ranks with the same peaks and shares together, the fullest first: by what is reserved, then
    allocated.
    """

    def needs(memory: RankMemory) -> tuple[int, int, tuple[tuple[str, int], ...]]:
        shares = tuple(sorted(memory.shares.items()))
        return -memory.peak_reserved_bytes, -memory.peak_allocated_bytes, shares

    ordered = sorted(ranks, key=lambda memory: (needs(memory), memory.rank))
    groups = [list(group) for _, group in groupby(ordered, key=needs)]
    return tuple(AlikeRanks(tuple(memory.rank for memory in group), group[0]) for group in groups)


def _spans(numbers: Sequence[int]) -> list[str]:
    """Numbers in order, neighbours as "3-7"."""
    spans: list[tuple[int, int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]
