"""Measuring on CUDA: the allocator's own statistics and trace at each phase boundary.

Totals come from torch.cuda.memory_stats, with the peaks reset at the end of each phase. The categories
come from the trace that `torch.cuda.memory._record_memory_history` keeps (each allocation and free with
its address and the stack that asked), cut at the boundaries by taking a snapshot and clearing the history.
The history is kept on the host: it takes no device memory.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property

import torch

from profiler.gpu.allocator.blocks import MIN_BLOCK_SIZE_BYTES
from profiler.gpu.snapshot import DeviceSnapshot, TraceEvent, parse_snapshot
from profiler.gpu.stacks import UNKNOWN, origin
from profiler.recording.owners import labels
from profiler.recording.recorder import PhaseRecorder, Reading
from profiler.recording.workspaces import with_workspaces
from profiler.trace.events import Allocation, Entry, Free, Mark
from profiler.trace.phase import Phase
from profiler.training.step import TrainingState
from profiler.units import round_up


class CudaRecorder(PhaseRecorder):
    """Records a run on the current CUDA device; see PhaseRecorder.

    With `from_snapshot`, what is alive at the beginning counts too, and the allocator's peak counters stay
    the program's own: reserved peaks are then told by events; allocated peaks by the counter where it rose
    in the phase, by events elsewhere.
    """

    device = torch.device("cuda")

    def __init__(
        self, on_phase: Callable[[Phase], None] = lambda phase: None, from_snapshot: bool = False
    ) -> None:
        super().__init__(on_phase)
        self._from_snapshot = from_snapshot
        self._entries: list[Entry] = []
        self._highest_bytes = 0  # that the program's own counter has said

    def _start(self, stack: ExitStack) -> None:
        torch.cuda.init()
        if self._from_snapshot:
            self._highest_bytes = torch.cuda.max_memory_allocated()
        else:
            torch.cuda.reset_peak_memory_stats()
        if self._from_snapshot:
            self._entries += _handed_out(_snapshot())
        # Names of C++ functions from the loaded libraries: `addr2line`, once the default, takes minutes.
        os.environ.setdefault("TORCH_SYMBOLIZE_MODE", "dladdr")
        _record_history()
        stack.callback(torch.cuda.memory._record_memory_history, enabled=None)

    def _synchronize(self) -> None:
        torch.cuda.synchronize()

    def _read(self, phase: Phase, state: TrainingState) -> Reading:
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        statistics = torch.cuda.memory_stats()
        snapshot = _snapshot()
        _record_history()
        if self._from_snapshot:
            statistics = self._of_phase(statistics, snapshot)
        else:
            torch.cuda.reset_peak_memory_stats()
        mark = Mark(phase, labels(state, self.device))
        self._entries += [*_ledger_entries(snapshot), mark]
        return Reading(mark, total_bytes - free_bytes, statistics)

    def _of_phase(self, statistics: dict[str, int], snapshot: DeviceSnapshot) -> dict[str, int]:
        """The allocator's statistics with the peaks of this phase, as far as they are known."""
        found = {name: size for name, size in statistics.items() if not name.endswith(".peak")}
        highest_bytes = statistics.get("allocated_bytes.all.peak", 0)
        if highest_bytes > self._highest_bytes:
            found["allocated_bytes.all.peak"] = highest_bytes
        self._highest_bytes = max(self._highest_bytes, highest_bytes)
        at_the_end_bytes = sum(segment.total_size_bytes for segment in snapshot.segments)
        found["reserved_bytes.all.peak"] = _peak_reserved(snapshot, at_the_end_bytes)
        return found

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """Everything that happened on the device, in order; ask for it after the `with` block."""
        return with_workspaces(self._entries)


def _record_history() -> None:
    """Start the allocation history, or start it afresh.

    In the backward pass, on autograd's own thread, only the C++ part of a stack says what asked for memory;
    torch/csrc/profiler/unwind can read it on Linux on x86-64 only.
    """

    readable = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    torch.cuda.memory._record_memory_history(
        enabled="all", context="alloc", stacks="all" if readable else "python", clear_history=True
    )


def _snapshot() -> DeviceSnapshot:
    """The current device's blocks now, and its trace since the history was started."""
    raw = torch.cuda.memory._snapshot()
    # Without the allocator's settings, which any version words as it likes.
    said = {name: raw[name] for name in ("segments", "device_traces")}
    return parse_snapshot(said).devices[torch.cuda.current_device()]


def _peak_reserved(snapshot: DeviceSnapshot, at_the_end_bytes: int) -> int:
    """The most reserved since the history was started, from the level at its end backwards."""
    level = peak = at_the_end_bytes
    for event in reversed(snapshot.events):
        if event.action in ("segment_alloc", "segment_map"):
            level -= event.size_bytes
        elif event.action in ("segment_free", "segment_unmap"):
            level += event.size_bytes
        peak = max(peak, level)
    return peak


def _ledger_entries(snapshot: DeviceSnapshot) -> list[Entry]:
    """The allocations and frees that one snapshot's trace holds, in order.

    A trace gives the requested size; the block's own size is read off the snapshot's segments where the
    block is still there, and is the requested size rounded up to 512 otherwise (a block that died inside
    its phase: its unsplit tail is unknown, so a temporary's rounding is a lower bound).
    """
    block_bytes = {a.address: a.size_bytes for a in _handed_out(snapshot)}
    last_allocation = {e.address: i for i, e in enumerate(snapshot.events) if e.action == "alloc"}
    entries: list[Entry] = []
    for index, event in enumerate(snapshot.events):
        if event.action == "alloc":
            size_bytes = round_up(event.size_bytes, MIN_BLOCK_SIZE_BYTES)
            if last_allocation[event.address] == index:
                size_bytes = block_bytes.get(event.address, size_bytes)
            entries.append(Allocation(event.address, size_bytes, event.size_bytes, _cause(event)))
        elif event.action == "free_completed":
            entries.append(Free(event.address))
    return entries


def _handed_out(snapshot: DeviceSnapshot) -> list[Allocation]:
    """The blocks in use at the time of the snapshot, on any stream."""
    return [
        Allocation(block.address, block.size_bytes, block.requested_bytes)
        for segment in snapshot.segments
        for block in segment.blocks
        if block.state == "active_allocated"
    ]


def _cause(event: TraceEvent) -> str:
    """The operation and what it ran for, "" where the stack does not say."""
    found = origin(event.frames)
    return "" if found == UNKNOWN else found
