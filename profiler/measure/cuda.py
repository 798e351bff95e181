"""Measuring on CUDA: the allocator's own statistics and trace at each phase boundary.

Totals come from torch.cuda.memory_stats, with the peaks reset at the end of each phase. The categories
come from the trace that `torch.cuda.memory._record_memory_history` keeps (each allocation and free with
its address), cut at the boundaries by taking a snapshot and clearing the history. The history is kept on
the host: it takes no device memory.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.ledger import Allocation, Free, Mark, account
from profiler.live_tensors import labels
from profiler.measure import PhaseMeasurement

if TYPE_CHECKING:
    from profiler.training_step import Phase, TrainingState

# torch/ATen/cuda/CublasHandlePool.cpp: 4096 × 1024 × 2 + 16 × 1024 × 8 bytes, 32 MiB from Hopper on.
_WORKSPACE_BYTES = (8_519_680, 33_554_432)


@dataclass
class _Boundary:
    mark: Mark
    seconds: float
    reading_seconds: float
    device_used_bytes: int
    memory_stats: dict[str, int]
    snapshot: dict[str, Any]


class CudaRecorder:
    """Records a run on the current CUDA device. Use as `with CudaRecorder() as recorder: train(...)`.

    With `from_snapshot`, what is alive at the beginning counts too. `save_snapshot(path)` writes the
    last phase's snapshot for pytorch.org/memory_viz.
    """

    def __init__(
        self, on_phase: Callable[[Phase], None] = lambda phase: None, from_snapshot: bool = False
    ) -> None:
        self._on_phase = on_phase
        self._from_snapshot = from_snapshot
        self._baseline: list[Allocation] = []
        self._boundaries: list[_Boundary] = []

    def __enter__(self) -> CudaRecorder:
        import torch

        gc.collect()
        gc.freeze()
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats()
        if self._from_snapshot:
            self._baseline = _active_allocations()
        _record_history()
        return self

    def __exit__(self, *error: object) -> None:
        import torch

        torch.cuda.memory._record_memory_history(enabled=None)
        gc.unfreeze()

    @contextmanager
    def phase(self, phase: Phase, state: TrainingState) -> Iterator[None]:
        """Record one phase of the training step."""
        import torch

        self._on_phase(phase)
        started = time.perf_counter()
        try:
            yield
        finally:
            torch.cuda.synchronize()
            ended = time.perf_counter()
            gc.collect()
            free_bytes, total_bytes = torch.cuda.mem_get_info()
            statistics = dict(torch.cuda.memory_stats())
            snapshot = torch.cuda.memory._snapshot()
            _record_history()
            # What happens until the next phase begins is part of it, as in the ledger.
            torch.cuda.reset_peak_memory_stats()
            mark = Mark(phase, labels(state, torch.device("cuda")))
            self._boundaries.append(
                _Boundary(
                    mark=mark,
                    seconds=ended - started,
                    reading_seconds=time.perf_counter() - ended,
                    device_used_bytes=total_bytes - free_bytes,
                    memory_stats=statistics,
                    snapshot=snapshot,
                )
            )

    def save_snapshot(self, path: Path) -> None:
        """Write the trace of the last phase and the blocks alive at its end as a memory_viz pickle."""
        import pickle

        from profiler.records import write_atomically

        data = pickle.dumps(self._boundaries[-1].snapshot, protocol=4)
        write_atomically(path, lambda temporary: temporary.write_bytes(data))

    @cached_property
    def entries(self) -> Sequence[Allocation | Free | Mark]:
        """Everything that happened on the device, in order; ask for it after the `with` block."""
        import torch

        traced = _ledger_entries(self._boundaries, torch.cuda.current_device())
        return [*self._baseline, *traced]

    def measurements(self) -> list[PhaseMeasurement]:
        """One measurement a phase, in order; call it after the `with` block."""
        return [
            PhaseMeasurement(
                account=phase_account,
                seconds=boundary.seconds,
                reading_seconds=boundary.reading_seconds,
                device_used_bytes=boundary.device_used_bytes,
                memory_stats=boundary.memory_stats,
            )
            for phase_account, boundary in zip(account(self.entries), self._boundaries, strict=True)
        ]


def _active_allocations() -> list[Allocation]:
    """The blocks handed out now, on any stream of the current device."""
    import torch

    return [
        Allocation(block["address"], block["size"], block["requested_size"])
        for segment in torch.cuda.memory._snapshot()["segments"]
        if segment["device"] == torch.cuda.current_device()
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    ]


def _record_history() -> None:
    """Start the allocation history, or start it afresh."""
    import torch

    torch.cuda.memory._record_memory_history(
        enabled="all", context="alloc", stacks="python", clear_history=True
    )


def _ledger_entries(boundaries: list[_Boundary], device: int) -> list[Allocation | Free | Mark]:
    """The phases' traces one after the other, each closed by its mark.

    A trace gives the requested size; the block's own size is read off the boundary's segments where the
    block is still there, and is the requested size rounded up to 512 otherwise (a block that died inside
    its phase: its unsplit tail is unknown, so a temporary's rounding is a lower bound).
    """
    entries: list[Allocation | Free | Mark] = []
    for boundary in boundaries:
        block_bytes = _active_blocks(boundary.snapshot)
        trace = boundary.snapshot["device_traces"][device]
        last_allocation = {event["addr"]: i for i, event in enumerate(trace) if event["action"] == "alloc"}
        for index, event in enumerate(trace):
            if event["action"] == "alloc":
                address, size_bytes = event["addr"], event["size"]
                rounded_bytes = -(-size_bytes // 512) * 512
                if last_allocation[address] == index:
                    rounded_bytes = block_bytes.get(address, rounded_bytes)
                entries.append(Allocation(address, rounded_bytes, size_bytes, _line(event)))
            elif event["action"] == "free_completed":
                entries.append(Free(event["addr"]))
        entries.append(boundary.mark)
    _name_workspaces(entries)
    return entries


def _active_blocks(snapshot: dict[str, Any]) -> dict[int, int]:
    """Block size by address, of the blocks handed out at the time of the snapshot."""
    return {
        block["address"]: block["size"]
        for segment in snapshot["segments"]
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    }


def _name_workspaces(entries: list[Allocation | Free | Mark]) -> None:
    """Give blocks of exactly a cuBLAS workspace's size that no tensor owns and nobody frees that category."""
    kept: dict[int, int] = {}
    for index, entry in enumerate(entries):
        if isinstance(entry, Allocation):
            kept[entry.address] = index
        elif isinstance(entry, Free):
            kept.pop(entry.address, None)
    held = {address for entry in entries if isinstance(entry, Mark) for address in entry.labels}
    for address, index in kept.items():
        entry = entries[index]
        assert isinstance(entry, Allocation)
        if address not in held and entry.requested_bytes in _WORKSPACE_BYTES:
            entries[index] = replace(entry, category="workspaces")


def _line(event: dict[str, Any]) -> str:
    """The innermost Python line that asked for the memory, as "file.py:12 function"."""
    for frame in event.get("frames", []):
        return f"{Path(frame['filename']).name}:{frame['line']} {frame['name']}"
    return ""
