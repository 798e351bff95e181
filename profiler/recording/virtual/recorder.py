"""Measuring on the virtual GPU: PyTorch's own CUDA allocator, each block with the place that asked for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property

import torch

from profiler.recording.owners import Owned
from profiler.recording.places import Attribution
from profiler.recording.recorder import PhaseRecorder, Reading
from profiler.recording.virtual.event_stream import Asked, EventStream
from profiler.recording.virtual.reading import (
    Events,
    PhaseEnd,
    events_of,
    of_one_device,
    read_records,
    segment_changes,
)
from profiler.trace.events import Entry, Mark
from profiler.trace.phase import Phase
from profiler.trace.run import Refusal
from profiler.trace.segments import Changes
from profiler.training.step import TrainingState


class VirtualRecorder(PhaseRecorder):
    """Records a run in a process that has the stand-ins preloaded; see PhaseRecorder."""

    device = torch.device("cuda")

    def __init__(self, on_phase: Callable[[Phase], None] = lambda phase: None) -> None:
        super().__init__(on_phase)
        self._stream = EventStream(self._asked)
        self._ends: list[PhaseEnd] = []

    def _start(self, stack: ExitStack) -> None:
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats()
        self._attribution = stack.enter_context(Attribution())
        self._stream.attach()
        stack.callback(self._stream.detach)

    def _asked(self, operation: str) -> Asked:
        return Asked(self._attribution.here(), operation)

    def _synchronize(self) -> None:
        torch.cuda.synchronize()

    def _read(self, phase: Phase, state: TrainingState) -> Reading:
        for module in state.modules:
            self._attribution.know(module)
        owned = Owned(state, self.device)
        mark = Mark(phase, owned.labels)
        self._ends.append(PhaseEnd(mark, owned.modules))
        self._stream.mark(len(self._ends))
        free_bytes, total_bytes = torch.cuda.mem_get_info()
        statistics = torch.cuda.memory_stats()
        torch.cuda.reset_peak_memory_stats()
        return Reading(mark, total_bytes - free_bytes, statistics)

    @cached_property
    def _events(self) -> Events:
        records = of_one_device(read_records(self._stream.folder), device=0)
        changes, _ = segment_changes(records)
        return events_of(records, self._stream.places, self._ends, changes)

    @property
    def entries(self) -> Sequence[Entry]:
        """Everything that happened on the device, in order; ask for it after the `with` block."""
        return self._events.entries

    @property
    def reserved_bytes(self) -> Sequence[int]:
        """What the allocator held from the driver after each entry."""
        return self._events.reserved_bytes

    @property
    def segment_changes(self) -> Changes:
        """What the allocator took from the driver and gave back."""
        return self._events.segment_changes

    @property
    def refusals(self) -> Sequence[Refusal]:
        """The requests that the GPU had no room for, in order."""
        return self._events.refusals
