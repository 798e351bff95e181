"""The inside of one process: loads the target, trains it on a simulated or a real device, reports once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.errors import first_line
from profiler.gpu.allocator import AllocatorSettings
from profiler.gpu.cards import GPU
from profiler.workload import Workload

if TYPE_CHECKING:
    from profiler.runs.isolated import MeasuredRun, SimulatedPhase, SimulatedRun
    from profiler.trace.moments import Moment
    from profiler.trace.run import PhaseMeasurement


@dataclass(frozen=True)
class Request:
    """One run: on a simulated GPU whose allocator may take its `memory_bytes`, or on "cuda" or "cpu"."""

    workload: Workload
    device: GPU | str
    allocator_settings: str = ""


def run(request: Request) -> SimulatedRun | MeasuredRun:
    """Simulate or measure, in this process."""
    return _measured(request) if isinstance(request.device, str) else _simulated(request)


def _simulated(request: Request) -> SimulatedRun:
    from profiler.runs import prediction
    from profiler.runs.isolated import SimulatedRun
    from profiler.trace.moments import by_module
    from profiler.trace.requests import requests_of
    from profiler.training.models import examine

    gpu = request.device
    assert not isinstance(gpu, str)
    assumed, parameters = examine(request.workload)
    settings = AllocatorSettings.parse(request.allocator_settings)
    found = prediction.simulate(request.workload, gpu, settings)
    moments = found.peaks()
    peak = found.peak()
    return SimulatedRun(
        workload=request.workload,
        memory_bytes=gpu.memory_bytes,
        phases=tuple(_phase(m, moment) for m, moment in zip(found.phases, moments, strict=True)),
        parameters=parameters,
        out_of_memory=found.out_of_memory.message if found.out_of_memory else "",
        retries=found.phases[-1].memory_stats["num_alloc_retries"],
        modules=tuple((share.name, share.size_bytes) for share in by_module(found.entries, peak.position)),
        assumed=assumed,
        requests=requests_of(found.entries),
    )


def _measured(request: Request) -> MeasuredRun:
    import torch

    from profiler.recording.cpu import CpuRecorder
    from profiler.recording.cuda import CudaRecorder
    from profiler.runs.isolated import MeasuredRun
    from profiler.runs.provenance import provenance
    from profiler.training.models import code_in_use, examine
    from profiler.training.step import train
    from profiler.training.user_code import errors_in_one_line

    on_cuda = request.device == "cuda"
    if on_cuda and request.allocator_settings:
        torch.cuda.memory._set_allocator_settings(request.allocator_settings)
    examine(request.workload)
    recorder, out_of_memory = CudaRecorder() if on_cuda else CpuRecorder(), ""
    with code_in_use(request.workload), errors_in_one_line(request.workload.model), recorder:
        try:
            train(request.workload, torch.device(str(request.device)), recorder)
        except torch.OutOfMemoryError as error:
            out_of_memory = first_line(error)
    phases = [(_measured_peak(measurement), measurement) for measurement in recorder.measurements()]
    peak_bytes, top = max(phases, key=lambda pair: pair[0])
    reserved = [m.memory_stats["reserved_bytes.all.peak"] for _, m in phases] if on_cuda else None
    return MeasuredRun(
        device_name=str(provenance(str(request.device))["device_name"]),
        phase=str(top.account.phase),
        peak_allocated_bytes=peak_bytes,
        peak_reserved_bytes=max(reserved) if reserved else None,
        out_of_memory=out_of_memory,
    )


def _measured_peak(measurement: PhaseMeasurement) -> int:
    """What the allocator itself says, where it keeps statistics; the sum of the ledger on the CPU."""
    return measurement.memory_stats.get("allocated_bytes.all.peak", measurement.account.peak_bytes)


def _phase(measurement: PhaseMeasurement, moment: Moment) -> SimulatedPhase:
    from profiler.runs.isolated import SimulatedPhase

    account, statistics = measurement.account, measurement.memory_stats
    where = moment.allocation.where if moment.allocation else None
    return SimulatedPhase(
        name=str(account.phase),
        allocated_bytes=account.end_bytes,
        peak_allocated_bytes=account.peak_bytes,
        reserved_bytes=statistics["reserved_bytes.all.current"],
        peak_reserved_bytes=statistics["reserved_bytes.all.peak"],
        peak={category: size for category, size in account.peak.items() if size},
        peak_op=account.peak_op,
        peak_module=where.module if where else "",
        peak_line=where.line if where else "",
    )
