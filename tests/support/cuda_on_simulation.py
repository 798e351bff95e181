"""CUDA's allocator history, told by the simulated GPU: the CUDA recorder's own code runs, without CUDA.

What the recorder and the worker ask of `torch.cuda` beyond what the simulation answers is answered here in
the form that PyTorch gives it: `_record_memory_history`, `_snapshot` (torch/cuda/memory.py and
torch/csrc/cuda/memory_snapshot.cpp) and `set_per_process_memory_fraction`.
"""

import platform
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from profiler.gpu.allocator import AllocatorSettings, CachingAllocator, SegmentInfo
from profiler.gpu.cards import GPU
from profiler.gpu.simulated.cuda_names import cuda_names
from profiler.gpu.simulated.device import bare_device, register
from profiler.gpu.simulated.tensors.assumed import AssumedReads

register()  # before the first backward pass of the process: autograd starts its threads there


class History:
    """What PyTorch keeps between `_record_memory_history` and `_snapshot`; an observer of the device."""

    def __init__(self, allocator: CachingAllocator) -> None:
        self.allocator = allocator
        self.requested: dict[int, int] = {}
        self.events: list[dict[str, Any]] = []
        self.recording = False

    def allocated(self, address: int, size_bytes: int, requested_bytes: int, op: str) -> None:
        self.requested[address] = requested_bytes
        # As in a C++ stack, innermost first; a kernel asks for its own inside of its operation.
        name = op.removeprefix("aten::").split(":")[0]
        call = {"filename": "??", "line": 0, "name": f"at::_ops::{name}::call(at::Tensor const&)"}
        self._note("alloc", address, requested_bytes, frames=[call])

    def freed(self, address: int) -> None:
        requested_bytes = self.requested.pop(address)
        self._note("free_requested", address, requested_bytes)
        self._note("free_completed", address, requested_bytes)

    def refused(self, requested_bytes: int, op: str) -> None:
        if self.recording:
            self.events.append({"action": "oom", "device_free": 0, "size": requested_bytes, "stream": 0})

    def _note(self, action: str, address: int, size_bytes: int, **more: Any) -> None:
        if self.recording:
            self.events.append({"action": action, "addr": address, "size": size_bytes, "stream": 0, **more})

    def record(
        self, enabled: str | None, context: str = "all", stacks: str = "all", clear_history: bool = False
    ) -> None:
        """torch.cuda.memory._record_memory_history, with the options that the recorder uses."""
        assert enabled in (None, "state", "all")
        assert (context, stacks) in [("all", "all"), ("alloc", _stacks())]
        self.recording = enabled == "all"
        if clear_history or enabled is None:
            self.events = []

    def snapshot(self, device: Any = None, augment_with_fx_traces: bool = False) -> dict[str, Any]:
        """torch.cuda.memory._snapshot."""
        return {"segments": raw_segments(self.allocator.segments()), "device_traces": [list(self.events)]}


def raw_segments(segments: Iterable[SegmentInfo], unused: Container[int] = ()) -> list[dict[str, Any]]:
    """The segments as `_snapshot` has them; blocks at the addresses of `unused` are not handed out."""
    return [
        {
            "device": 0,
            "address": segment.address,
            "total_size": segment.total_size_bytes,
            "blocks": [
                {
                    "address": block.address,
                    "size": block.size_bytes,
                    "requested_size": block.requested_bytes,
                    "state": "inactive" if block.address in unused else block.state,
                }
                for block in segment.blocks
            ],
        }
        for segment in segments
    ]


def _stacks() -> str:
    return "all" if (platform.system(), platform.machine()) == ("Linux", "x86_64") else "python"


@contextmanager
def cuda_with_history(gpu: GPU, settings: AllocatorSettings | None = None) -> Iterator[torch.device]:
    """Inside, torch.cuda answers for a simulated `gpu` that also keeps a history and takes a limit."""
    allocator = CachingAllocator(gpu.memory_bytes, settings or AllocatorSettings())
    history = History(allocator)

    def limit(fraction: float, device: Any = None) -> None:
        allocator.driver.allow(fraction)

    with (
        bare_device(gpu, allocator, history, AssumedReads(0.0)),
        cuda_names(gpu, allocator) as device,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(torch.cuda.memory, "_record_memory_history", history.record)
        patch.setattr(torch.cuda.memory, "_snapshot", history.snapshot)
        patch.setattr(torch.cuda, "set_per_process_memory_fraction", limit)
        yield device
