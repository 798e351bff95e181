"""The inside of one simulation process: loads the target, trains it on the simulated GPU, reports once.

Messages to the parent: ("result", SimulatedRun), or ("error", one line).
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler import models, targets
from profiler.errors import ProfilerError
from profiler.gpus import GPU
from profiler.lazy_weights import weights_left_unwritten
from profiler.targets import Target
from profiler.worker import output_to
from profiler.workload import Workload

if TYPE_CHECKING:
    import torch

    from profiler.simulated_run import SimulatedRun


@dataclass(frozen=True)
class Request:
    """One simulation: `gpu.memory_bytes` is what the allocator may take."""

    target: Target
    workload: Workload
    gpu: GPU


def run(connection: Connection, request: Request, log: str) -> None:
    """Simulate and send the outcome; the entry point of the process."""
    with output_to(log):
        try:
            connection.send(("result", simulate_here(request)))
        except ProfilerError as error:
            connection.send(("error", str(error)))
        except Exception as error:
            traceback.print_exc()
            connection.send(("error", f"{_where(error, request.target)}: {_in_one_line(error)}"))


def simulate_here(request: Request) -> SimulatedRun:
    """Simulate in this process; raises what the target's code raises."""
    from profiler.allocator import DeviceOutOfMemory
    from profiler.measure.simulated import SimulatedRecorder
    from profiler.simulated_run import SimulatedRun
    from profiler.training_step import train

    with weights_left_unwritten():
        assumed = targets.register(request.target)
    counted = _build_without_values(request.target.name)
    recorder = SimulatedRecorder(request.gpu)
    out_of_memory = ""
    with recorder:
        try:
            train(request.workload, recorder.device, recorder)
        except RuntimeError as error:
            if not _is_out_of_memory(error, DeviceOutOfMemory):
                raise
            out_of_memory = str(error).splitlines()[0]
    measurements = recorder.measurements()
    return SimulatedRun(
        workload=request.workload,
        memory_bytes=request.gpu.memory_bytes,
        phases=tuple(_phase(measurement) for measurement in measurements),
        parameters=counted[0],
        out_of_memory=out_of_memory,
        retries=measurements[-1].memory_stats["num_alloc_retries"],
        assumed=assumed,
    )


def _build_without_values(name: str) -> list[int]:
    """Let the registered model be built with its weights unwritten; the list will hold their number."""
    from dataclasses import replace

    model = models.MODELS[name]
    counted: list[int] = []

    def build(workload: Workload, settings: dict[str, Any]) -> torch.nn.Module:
        with weights_left_unwritten():
            module = model.family.build(workload, settings)
        counted.append(sum(parameter.numel() for parameter in module.parameters()))
        return module

    models.MODELS[name] = replace(model, family=replace(model.family, build=build))
    return counted


def _is_out_of_memory(error: BaseException, device_error: type[Exception]) -> bool:
    import torch

    return isinstance(error, (torch.OutOfMemoryError, device_error))


def _phase(measurement: Any) -> Any:
    from profiler.simulated_run import SimulatedPhase

    account, statistics = measurement.account, measurement.memory_stats
    return SimulatedPhase(
        name=str(account.phase),
        allocated_bytes=account.end_bytes,
        peak_allocated_bytes=account.peak_bytes,
        reserved_bytes=statistics["reserved_bytes.all.current"],
        peak_reserved_bytes=statistics["reserved_bytes.all.peak"],
        peak={category: size for category, size in account.peak.items() if size},
        peak_op=account.peak_op,
        peak_module="",
    )


def _where(error: BaseException, target: Target) -> str:
    """The innermost line of the user's own code, as in "train.py:12"; else of whatever is not a library."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shown(error.filename)}:{error.lineno}"
    own = target.file.resolve() if target.file else None
    theirs = [f for f in frames if own and Path(f.filename).resolve() == own]
    if not theirs:
        here = str(Path(__file__).parent)
        theirs = [
            f
            for f in frames
            if "site-packages" not in f.filename and not f.filename.startswith((here, "<"))
        ]
    chosen = theirs[-1] if theirs else frames[-1]
    return f"{_shown(chosen.filename)}:{chosen.lineno}"


def _shown(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else filename


def _in_one_line(error: BaseException) -> str:
    words = str(error).splitlines()
    return f"{type(error).__name__}: {words[0]}" if words else type(error).__name__
