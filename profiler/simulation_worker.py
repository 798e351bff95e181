"""The inside of one simulation process: loads the target, trains it on the simulated GPU, reports once.

Messages to the parent: ("result", SimulatedRun), or ("error", one line).
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from profiler import models, targets
from profiler.allocator import AllocatorSettings
from profiler.errors import ProfilerError
from profiler.gpus import GPU
from profiler.lazy_weights import weights_left_unwritten
from profiler.targets import Target
from profiler.worker import output_to
from profiler.workload import Workload

if TYPE_CHECKING:
    from profiler.measure import PhaseMeasurement
    from profiler.simulated_run import SimulatedPhase, SimulatedRun
    from profiler.timeline import Moment


@dataclass(frozen=True)
class Request:
    """One run: on a simulated `gpu` whose allocator may take its `memory_bytes`; None for the real one."""

    target: Target
    workload: Workload
    gpu: GPU | None
    allocator_settings: str = ""


def run(connection: Connection, request: Request, log: str) -> None:
    """Simulate and send the outcome; the entry point of the process."""
    with output_to(log):
        try:
            connection.send(("result", _simulated(request) if request.gpu else _measured(request)))
        except ProfilerError as error:
            traceback.print_exc()
            connection.send(("error", str(error)))


def _simulated(request: Request) -> SimulatedRun:
    from profiler import prediction
    from profiler.requests import requests_of
    from profiler.simulated_run import SimulatedRun
    from profiler.timeline import by_module

    assert request.gpu is not None
    assumed = _register(request.target)
    settings = AllocatorSettings.parse(request.allocator_settings)
    found = prediction.simulate(request.workload, request.gpu, settings)
    moments = found.peaks()
    peak = found.peak()
    return SimulatedRun(
        workload=request.workload,
        memory_bytes=request.gpu.memory_bytes,
        phases=tuple(
            _phase(m, moment, request.target) for m, moment in zip(found.phases, moments, strict=True)
        ),
        parameters=_parameters(request.workload),
        out_of_memory=found.out_of_memory.message if found.out_of_memory else "",
        retries=found.phases[-1].memory_stats["num_alloc_retries"],
        modules=tuple(
            (_own_path(share.name, request.target), share.size_bytes)
            for share in by_module(found.entries, peak.position)
        ),
        assumed=assumed,
        requests=requests_of(found.entries),
    )


def _measured(request: Request) -> SimulatedRun:
    import torch

    from profiler.measure.cuda import CudaRecorder
    from profiler.simulated_run import SimulatedRun
    from profiler.training_step import train

    assumed = _register(request.target)
    recorder, out_of_memory = CudaRecorder(), ""
    with recorder:
        try:
            train(request.workload, torch.device("cuda"), recorder)
        except torch.OutOfMemoryError as error:
            out_of_memory = str(error).splitlines()[0]
    measurements = recorder.measurements()
    return SimulatedRun(
        workload=request.workload,
        memory_bytes=torch.cuda.mem_get_info()[1],
        phases=tuple(_phase(measurement, None, request.target) for measurement in measurements),
        parameters=_parameters(request.workload),
        out_of_memory=out_of_memory,
        retries=measurements[-1].memory_stats["num_alloc_retries"],
        modules=(),
        assumed=assumed,
    )


def _register(target: Target) -> str:
    """Load the target; an error of the user's code becomes one line."""
    try:
        with weights_left_unwritten():
            return targets.register(target)
    except ProfilerError:
        raise
    except (Exception, SystemExit) as error:
        from profiler.prediction import in_one_line

        raise ProfilerError(f"{target.name}: {in_one_line(error)}") from error


def _own_path(module: str, target: Target) -> str:
    """A module's path in the user's model, which a function's target is wrapped around as `model`."""
    if ":" not in target.name:
        return module
    return "(the model itself)" if module == "model" else module.removeprefix("model.")


def _parameters(workload: Workload) -> int:
    """How many parameters the model has, shared ones once."""
    module = models.build_model(workload, initialize=False)
    return sum(parameter.numel() for parameter in module.parameters())


def _phase(measurement: PhaseMeasurement, moment: Moment | None, target: Target) -> SimulatedPhase:
    from profiler.simulated_run import SimulatedPhase

    account, statistics = measurement.account, measurement.memory_stats
    where = moment.allocation.where if moment and moment.allocation else None
    return SimulatedPhase(
        name=str(account.phase),
        allocated_bytes=account.end_bytes,
        peak_allocated_bytes=account.peak_bytes,
        reserved_bytes=statistics["reserved_bytes.all.current"],
        peak_reserved_bytes=statistics["reserved_bytes.all.peak"],
        peak={category: size for category, size in account.peak.items() if size},
        peak_op=account.peak_op,
        peak_module=_own_path(where.module, target) if where else "",
        peak_line=where.line if where else "",
    )
