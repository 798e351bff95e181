"""Measuring on the simulated GPU: the same training step, its allocations told by the device model.

Nothing is computed and no memory is taken; the caching allocator is a model of PyTorch's own
(profiler.gpu.allocator), and the temporaries of CUDA kernels come from named rules (profiler.gpu.kernels).
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch

from profiler.gpu.allocator import AllocatorSettings, SegmentEvent
from profiler.gpu.cards import GPU
from profiler.gpu.device_used import in_total, process_terms
from profiler.gpu.simulated.tensors.assumed import AssumedReads
from profiler.recording.owners import Owned
from profiler.recording.recorder import PhaseRecorder, Reading
from profiler.trace.events import Allocation, Entry, Free, Mark, Place
from profiler.trace.phase import Phase
from profiler.trace.run import Refusal
from profiler.trace.segments import Changes, SegmentChange
from profiler.training.step import TrainingState

# What a floating-point scalar reads as (AssumedReads). Our own step asks whether a gradient overflowed, and
# for norms (torch.optim.Adafactor); a user's program prints its loss, which is positive, finite, and falls.
OWN_STEP_READS = 0.0
PROGRAM_READS = 1.0

# The extremes over the suite, as docs/accuracy.md has them.
UNKNOWN_WORKSPACES = (
    "not modelled: workspaces of cuDNN's convolutions, counted as 0 bytes (peaks of the suite were up to "
    "15.3 % too low allocated and 14.7 % reserved)"
)


class _Listener:
    """Writes what the device reports into the ledger's terms, with the bytes reserved after each entry."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.reserved_bytes = array("q")
        self.segment_changes: defaultdict[int, list[SegmentChange]] = defaultdict(list)
        self.refusals: list[Refusal] = []
        self.allocated_bytes = 0
        self.peak_allocated_bytes = 0  # since the end of the last phase
        self._alive: dict[int, int] = {}  # address -> position of its allocation
        self._here: Callable[[], Place | None] = lambda: None
        self._free_and_total: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def attach(self, here: Callable[[], Place], free_and_total: Callable[[], tuple[int, int]]) -> None:
        """Begin to note places, and the device's memory."""
        self._here, self._free_and_total = here, free_and_total

    def segment_changed(self, event: SegmentEvent) -> None:
        self.segment_changes[len(self.entries)].append(SegmentChange(*event))

    def allocated(self, address: int, size_bytes: int, requested_bytes: int, op: str) -> None:
        category = "workspaces" if op.endswith("workspace") else ""
        self._alive[address] = len(self.entries)
        self.allocated_bytes += size_bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        self._note(Allocation(address, size_bytes, requested_bytes, op, category, self._here()))

    def freed(self, address: int) -> None:
        position = self._alive.pop(address, None)
        entry = self.entries[position] if position is not None else None
        if isinstance(entry, Allocation):
            self.allocated_bytes -= entry.size_bytes
        self._note(Free(address))

    def refused(self, requested_bytes: int, op: str) -> None:
        free_bytes, total_bytes = self._free_and_total()
        reserved_bytes = total_bytes - free_bytes
        position = len(self.entries) - 1
        self.refusals.append(
            Refusal(requested_bytes, op, self._here(), position, self.allocated_bytes, reserved_bytes)
        )

    def mark(self, mark: Mark, modules: Mapping[int, str]) -> None:
        """The end of a phase; `modules` says whose an address is that was born outside of any module."""
        for address, module in modules.items():
            position = self._alive.get(address)
            entry = self.entries[position] if position is not None else None
            if isinstance(entry, Allocation) and entry.where is not None and not entry.where.module:
                self.entries[position] = replace(entry, where=Place(module, entry.where.line))  # type: ignore[index]
        self._note(mark)

    def _note(self, entry: Entry) -> None:
        self.entries.append(entry)
        free_bytes, total_bytes = self._free_and_total()
        self.reserved_bytes.append(total_bytes - free_bytes)


class SimulatedRecorder(PhaseRecorder):
    """Records a run on a simulated `gpu`, which "cuda" means inside the `with` block; see PhaseRecorder.

    `device` is what `train` takes (with `initialize=False`: nothing is computed). Running out of the GPU's
    memory raises torch.OutOfMemoryError there, as a real one does. `float_reads` is what a program gets that
    reads a floating-point scalar, to print its loss (AssumedReads); None refuses whatever is not computed.
    """

    def __init__(
        self,
        gpu: GPU,
        settings: AllocatorSettings | None = None,
        on_phase: Callable[[Phase], None] = lambda phase: None,
        float_reads: float | None = None,
    ) -> None:
        super().__init__(on_phase)
        self.gpu = gpu
        self._settings = settings
        self._reads = AssumedReads(float_reads) if float_reads is not None else None
        self._listener = _Listener()
        self._phase_began = 0  # position among what the listener has noted

    def _start(self, stack: ExitStack) -> None:
        from profiler.gpu.simulated.device import simulated_gpu
        from profiler.recording.places import Attribution

        listener = self._listener
        gpu = simulated_gpu(
            self.gpu,
            self._settings,
            listener,
            self._reads,
            on_segment_event=listener.segment_changed,
            beside_bytes=in_total(process_terms(self.gpu)).typical_bytes,
        )
        self.device = stack.enter_context(gpu)
        self._attribution = stack.enter_context(Attribution())
        self._listener.attach(self._attribution.here, torch.cuda.mem_get_info)

    def _read(self, phase: Phase, state: TrainingState) -> Reading:
        for module in state.modules:
            self._attribution.know(module)
        owned = Owned(state, self.device)
        mark = Mark(phase, owned.labels)
        self._listener.mark(mark, owned.modules)
        return Reading(mark, memory_stats=self._statistics())

    def _statistics(self) -> dict[str, int]:
        """The allocator's, with the peaks of this phase; its own peaks are the program's to reset."""
        stats = torch.cuda.memory_stats()
        listener, current = self._listener, stats["reserved_bytes.all.current"]
        reserved = max(listener.reserved_bytes[self._phase_began :], default=current)
        of_phase = {
            "allocated_bytes.all.peak": listener.peak_allocated_bytes,
            "reserved_bytes.all.peak": max(reserved, current),
        }
        listener.peak_allocated_bytes = listener.allocated_bytes
        self._phase_began = max(len(listener.reserved_bytes) - 1, 0)
        return {name: size for name, size in stats.items() if not name.endswith(".peak")} | of_phase

    @property
    def entries(self) -> Sequence[Entry]:
        """Everything that happened on the device, in order."""
        return self._listener.entries

    @property
    def reserved_bytes(self) -> Sequence[int]:
        """What the allocator held from the driver after each entry."""
        return self._listener.reserved_bytes

    @property
    def segment_changes(self) -> Changes:
        """What the allocator took from the driver and gave back."""
        return self._listener.segment_changes

    @property
    def refusals(self) -> Sequence[Refusal]:
        """The requests that the GPU had no room for, in order; each raised torch.OutOfMemoryError."""
        return self._listener.refusals

    @property
    def rests_on(self) -> Sequence[object]:
        """What was read that is not computed, with what it was answered; that workspaces are left out."""
        reads = self._reads.reads if self._reads is not None else ()
        causes = (entry.op or "" for entry in self.entries if isinstance(entry, Allocation))
        convolved = any(cause.startswith("aten::cudnn_convolution") for cause in causes)
        return (*reads, UNKNOWN_WORKSPACES) if convolved else reads
