"""What a training step does to a GPU that is not there: one simulation, from the program to its account."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.errors import first_line
from profiler.trace.events import Allocation
from profiler.trace.moments import Entries, Moment, peaks
from profiler.trace.phase import Phase
from profiler.trace.run import PhaseMeasurement

if TYPE_CHECKING:
    from profiler.gpu.allocator import AllocatorSettings
    from profiler.gpu.cards import GPU
    from profiler.recording.simulated import Refusal, SimulatedRecorder
    from profiler.workload import Workload


@dataclass(frozen=True)
class OutOfMemory:
    """A run that did not fit: in which phase, and the request that had no room."""

    phase: Phase
    message: str
    request: Refusal


@dataclass(frozen=True)
class Simulation:
    """One simulated run.

    Attributes:
        gpu: the simulated GPU.
        phases: one measurement a phase; after running out of memory, the last one is what there was.
        entries: every allocation and free in order, with the ends of the phases.
        reserved_bytes: what the allocator held after each entry.
        out_of_memory: None for a run that came to its end.
        read_back: the lines at which it read what is not computed, and what they were answered with.
    """

    gpu: GPU
    phases: tuple[PhaseMeasurement, ...]
    entries: Entries
    reserved_bytes: tuple[int, ...]
    out_of_memory: OutOfMemory | None
    read_back: tuple[str, ...] = ()

    def peaks(self) -> list[Moment]:
        """The peak of each phase."""
        return peaks(self.entries, self.reserved_bytes)

    def peak(self) -> Moment:
        """The first moment with the most allocated."""
        return max(self.peaks(), key=lambda moment: moment.allocated_bytes)

    @property
    def allocations(self) -> int:
        """How many blocks were handed out."""
        return sum(isinstance(entry, Allocation) for entry in self.entries)


def simulate(workload: Workload, gpu: GPU, settings: AllocatorSettings | None = None) -> Simulation:
    """Train `workload` on a simulated `gpu`, in this process.

    Raises ProfilerError for a workload that cannot be built, or that does what the simulation cannot.
    """
    from profiler.recording.simulated import OWN_STEP_READS, SimulatedRecorder
    from profiler.training.models import code_in_use, find_model
    from profiler.training.optimizers import import_library
    from profiler.training.step import train
    from profiler.training.user_code import errors_in_one_line

    def run(recorder: SimulatedRecorder) -> None:
        train(workload, recorder.device, recorder, initialize=False)

    # Where a GPU seems to be there, libraries would look for the GPU's own libraries.
    import_library(workload)
    with code_in_use(workload):
        with errors_in_one_line(workload.model):
            find_model(workload)
        recorder = SimulatedRecorder(gpu, settings, float_reads=OWN_STEP_READS)
        return _simulate(run, recorder, gpu, str(workload))


def simulate_function(reference: str, gpu: GPU, settings: AllocatorSettings | None = None) -> Simulation:
    """Run a user's own training code on a simulated `gpu`, in this process, and find its phases.

    Nothing is computed: a program that reads a floating-point scalar, such as its loss, gets a number
    that falls; `read_back` says where.

    Args:
        reference: "path/to/script.py:function", or "package.module:function". The function is called with
            nothing, or with the device if it has one argument without a default; it trains on "cuda".
        gpu: the GPU.
        settings: of its allocator.

    Raises:
        ProfilerError: no such file or function, or it failed; names the user's own line.
    """
    from profiler.recording.auto_phases import auto_phases
    from profiler.recording.simulated import PROGRAM_READS, SimulatedRecorder
    from profiler.training.user_code import UserCode, call_with_device, split_reference

    location, name = split_reference(reference)
    code = UserCode(location)

    def run(recorder: SimulatedRecorder) -> None:
        with auto_phases(recorder):
            call_with_device(code.function(name), recorder.device, reference)

    with code.in_use():
        code.import_libraries()
        return _simulate(run, SimulatedRecorder(gpu, settings, float_reads=PROGRAM_READS), gpu, reference)


def _simulate(
    run: Callable[[SimulatedRecorder], None], recorder: SimulatedRecorder, gpu: GPU, name: str
) -> Simulation:
    import torch

    from profiler.training.user_code import errors_in_one_line

    out_of_memory = None
    with errors_in_one_line(name), recorder:
        try:
            run(recorder)
        except torch.OutOfMemoryError as error:
            if not recorder.refusals:
                raise
            message = first_line(error)
            phase = recorder.measurements()[-1].account.phase
            out_of_memory = OutOfMemory(phase, message, recorder.refusals[-1])
    return Simulation(
        gpu,
        tuple(recorder.measurements()),
        recorder.entries,
        tuple(recorder.reserved_bytes),
        out_of_memory,
        tuple(map(str, recorder.assumed_reads)),
    )
