"""Simulating any target, each time in a fresh process, so that a user's code can break nothing here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from profiler.gpu.cards import GPU, UNLIMITED_BYTES
from profiler.runs.processes import in_fresh_process
from profiler.trace.requests import Requests
from profiler.workload import Workload


@dataclass(frozen=True)
class SimulatedPhase:
    """One phase on the simulated GPU; bytes at its end and at its peak, the peak also by category."""

    name: str
    allocated_bytes: int
    peak_allocated_bytes: int
    reserved_bytes: int
    peak_reserved_bytes: int
    peak: Mapping[str, int]
    peak_op: str
    peak_module: str
    peak_line: str


@dataclass(frozen=True)
class SimulatedRun:
    """What one simulation gave.

    Attributes:
        workload: what ran.
        memory_bytes: how much the allocator could take.
        phases: in order; a run out of memory ends with the phase in which it stopped.
        parameters: their number.
        out_of_memory: the allocator's message, or "".
        retries: how often the allocator had to give cached memory back to the device to go on.
        modules: bytes at the peak by module, layers of a list together, largest first.
        assumed: what was guessed about the target, or "".
        requests: what it asked of the allocator, see profiler.trace.requests.
    """

    workload: Workload
    memory_bytes: int
    phases: tuple[SimulatedPhase, ...]
    parameters: int
    out_of_memory: str
    retries: int
    modules: tuple[tuple[str, int], ...]
    assumed: str
    requests: Requests = field(default=(), repr=False)

    @property
    def fits(self) -> bool:
        """Whether the run came to its end."""
        return not self.out_of_memory

    @property
    def peak_reserved_bytes(self) -> int:
        """The most the allocator took from the device: what decides whether a run fits."""
        return max(phase.peak_reserved_bytes for phase in self.phases)

    @property
    def peak(self) -> SimulatedPhase:
        """The phase with the most bytes allocated, the first of equals."""
        return max(self.phases, key=lambda phase: phase.peak_allocated_bytes)


def simulate(
    workload: Workload,
    gpu: GPU,
    memory_bytes: int = UNLIMITED_BYTES,
    allocator_settings: str = "",
) -> SimulatedRun:
    """Train `workload` on a simulated `gpu` whose allocator may take `memory_bytes`.

    `allocator_settings` is written as in PYTORCH_ALLOC_CONF.

    Raises ProfilerError with one line naming the user's own line if the target's code fails, or if the
    process dies.
    """
    from profiler.runs import simulation_worker

    limited = replace(gpu, memory_bytes=memory_bytes)
    request = simulation_worker.Request(workload, limited, allocator_settings)
    simulated: SimulatedRun = in_fresh_process(simulation_worker.run, request, name=str(workload))
    return simulated


@dataclass(frozen=True)
class MeasuredRun:
    """The peaks of a real run.

    Attributes:
        device_name: the GPU's or the processor's.
        phase: the one with the allocated peak.
        peak_allocated_bytes: the most allocated.
        peak_reserved_bytes: the most that the allocator took; None on the CPU, which reserves nothing.
        out_of_memory: the allocator's message, or "".
    """

    device_name: str
    phase: str
    peak_allocated_bytes: int
    peak_reserved_bytes: int | None
    out_of_memory: str


def measure(workload: Workload, device_type: str = "cuda", allocator_settings: str = "") -> MeasuredRun:
    """Train `workload` on the device that is here ("cuda" or "cpu"), with real memory, in a fresh process.

    Raises ProfilerError as `simulate` does.
    """
    from profiler.runs import simulation_worker

    request = simulation_worker.Request(workload, device_type, allocator_settings)
    measured: MeasuredRun = in_fresh_process(simulation_worker.run, request, name=str(workload))
    return measured
