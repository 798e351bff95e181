"""The ledger: who owns every live byte, at the end of each phase and at its peak.

A device reports allocations and frees in order; the training loop adds a mark at the end of each phase,
which says what the tensors alive then are. From these alone the ledger assigns each allocation to one
category, so that the categories sum to the allocated bytes exactly, at any moment.

The rules, the first that applies:

1. An allocation that a mark labels (a parameter, a gradient, an optimizer state, an input, the loss) is
   that, from birth to death.
2. Born in a forward and still alive at its end: *activations*, kept for the backward pass.
3. Dead before the end of the phase it was born in: *temporaries*.
4. Otherwise *unattributed*.

Bytes that an allocator adds to a request (rounding, unsplit tails) are the category *rounding*.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from profiler.trace.events import Allocation, Entry, Free, Mark
from profiler.trace.phase import FORWARD, Phase

CATEGORIES = (
    "parameters",
    "gradients",
    "optimizer_states",
    "activations",
    "inputs",
    "temporaries",
    "workspaces",
    "rounding",
    "unattributed",
)


@dataclass(frozen=True)
class Account:
    """One phase's bytes: at its end and at the moment of its peak, in total and by category.

    `peak_op` is the op whose allocation made the peak ("" if the phase allocated nothing above its start);
    `peak_position` is that of the allocation among the entries, or of the end of the phase before.
    """

    phase: Phase
    end_bytes: int
    end: Mapping[str, int]
    peak_bytes: int
    peak: Mapping[str, int]
    peak_op: str
    peak_position: int


@dataclass(slots=True)
class _Block:
    allocation: Allocation
    born: int  # phase index
    category: str


def account(entries: Iterable[Entry]) -> list[Account]:
    """The account of each phase, in order. Allocations after the last mark are not in it."""
    entries = list(entries)
    blocks = _assign_categories(entries)
    return _sweep(entries, blocks)


def categories(entries: Iterable[Entry]) -> dict[int, str]:
    """The category of each allocation, by its position among the entries."""
    return {index: block.category for index, block in _assign_categories(list(entries)).items()}


def _assign_categories(entries: list[Entry]) -> dict[int, _Block]:
    """The block born at each entry index, with its category."""
    blocks: dict[int, _Block] = {}
    live: dict[int, _Block] = {}
    phase = 0
    for index, entry in enumerate(entries):
        if isinstance(entry, Allocation):
            blocks[index] = live[entry.address] = _Block(entry, phase, entry.category)
        elif isinstance(entry, Free):
            block = live.pop(entry.address, None)
            if block is not None and not block.category:
                block.category = "temporaries" if block.born == phase else "unattributed"
        else:
            _apply_labels(live, entry, phase)
            phase += 1
    for block in blocks.values():  # also one whose address was handed out again without a recorded free
        block.category = block.category or "unattributed"
    return blocks


def _apply_labels(live: dict[int, _Block], mark: Mark, phase: int) -> None:
    for address, category in mark.labels.items():
        if address in live and not live[address].category:
            live[address].category = category
    if mark.phase.name == FORWARD:
        for block in live.values():
            if block.born == phase and not block.category:
                block.category = "activations"


def _sweep(entries: list[Entry], blocks: dict[int, _Block]) -> list[Account]:
    """Walk the entries again with every category known."""
    accounts: list[Account] = []
    live: dict[int, _Block] = {}
    now = defaultdict(int, dict.fromkeys(CATEGORIES, 0))
    total = peak_total = 0
    peak, peak_op, position = dict(now), "", 0
    for index, entry in enumerate(entries):
        if isinstance(entry, Allocation):
            block = live[entry.address] = blocks[index]
            now[block.category] += entry.requested_bytes
            now["rounding"] += entry.size_bytes - entry.requested_bytes
            total += entry.size_bytes
            if total > peak_total:
                peak_total, peak, peak_op = total, dict(now), entry.op
                position = index
        elif isinstance(entry, Free):
            freed = live.pop(entry.address, None)
            if freed is not None:
                born = freed.allocation
                now[freed.category] -= born.requested_bytes
                now["rounding"] -= born.size_bytes - born.requested_bytes
                total -= born.size_bytes
        else:
            accounts.append(Account(entry.phase, total, dict(now), peak_total, peak, peak_op, position))
            peak_total, peak, peak_op, position = total, dict(now), "", index
    return accounts
