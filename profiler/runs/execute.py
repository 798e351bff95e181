"""A workload on a device: in this process, or in one of its own, in which it can break nothing here."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from profiler.device import CUDA, SIMULATED, VIRTUAL, Device
from profiler.errors import first_line
from profiler.gpu.allocator import AllocatorSettings
from profiler.gpu.device_used import in_total, process_terms
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.runs.limits import (
    allocator_environment,
    attention_by,
    is_out_of_memory,
    limited,
    says_out_of_memory,
    start_threads,
)
from profiler.runs.processes import Died, in_fresh_process
from profiler.runs.provenance import gpu_here, provenance
from profiler.runs.run_settings import RunSettings
from profiler.runs.virtual_process import in_virtual_process
from profiler.trace.phase import Phase, phases
from profiler.trace.run import OutOfMemory, Run
from profiler.workload import Workload

if TYPE_CHECKING:
    from profiler.recording.recorder import PhaseRecorder

_NO_SETTINGS = RunSettings()


def run_on(
    workload: Workload,
    device: Device,
    settings: RunSettings = _NO_SETTINGS,
    on_phase: Callable[[int], None] = lambda index: None,
) -> Run:
    """Train `workload` on `device` in this process, under a recorder.

    `on_phase` is told the index of each phase as it begins. Allocator settings are a simulated device's only:
    torch reads its own once, before this can say any. A virtual GPU is in processes of its own only (see
    run_in_fresh_process for both).

    Raises ProfilerError, one line, for a workload that cannot be built or run for another reason than memory.
    """
    import torch

    from profiler.training.models import code_in_use, code_of, looked_at, parameters_of
    from profiler.training.optimizers import import_library
    from profiler.training.sharding import process_group
    from profiler.training.step import train
    from profiler.training.user_code import errors_in_one_line

    # Where a GPU seems to be there, libraries would look for the GPU's own libraries.
    import_library(workload, device)
    torch.default_generator.manual_seed(workload.seed)
    assumed, module = looked_at(workload, device.gpu if device.kind == SIMULATED else None)
    parameters = parameters_of(module)
    # Building it again would give the same, but where a user's code may build on the GPU.
    built = module if device.kind == VIRTUAL and code_of(workload.model) is None else None
    del module
    limit_bytes = settings.limit_bytes if device.kind != SIMULATED else None
    if limit_bytes is not None:
        from profiler.formula.facts import count

        count(workload)  # imports the model's code, which the limit is not about
        start_threads()
    order = phases(workload)
    recorder = make_recorder(device, settings, lambda phase: on_phase(order.index(phase)))
    error = None
    joined = process_group(settings.sharding)
    with code_in_use(workload), errors_in_one_line(str(workload)), recorder, joined:
        try:
            with attention_by(settings.attention_kernel), limited(device.type, limit_bytes):
                train(
                    workload,
                    recorder.device,
                    recorder,
                    initialize=device.is_here,
                    sharding=settings.sharding,
                    built=built,
                )
        except (MemoryError, RuntimeError) as raised:
            if not is_out_of_memory(raised, under_limit=limit_bytes is not None):
                raise
            error = first_line(raised)
    where = Device(CUDA, gpu_here()) if device.kind == CUDA else device
    about = provenance(device)
    run = replace(
        recorder.run(where, str(workload)),
        workload=workload,
        parameters=parameters,
        assumed=assumed,
        provenance=about | {"allocator_settings": settings.allocator_settings or about["allocator_settings"]},
    )
    return run if error is None else out_of_memory(run, error, order[0])


def out_of_memory(run: Run, message: str, first: Phase) -> Run:
    """The run, which ended so in its last phase, or before the end of its `first`."""
    phase = run.phases[-1].account.phase if run.phases else first
    return replace(run, out_of_memory=OutOfMemory(phase, message, run.refusals[-1] if run.refusals else None))


def run_in_fresh_process(
    workload: Workload,
    device: Device,
    settings: RunSettings = _NO_SETTINGS,
    on_phase: Callable[[int], None] = lambda index: None,
) -> Run:
    """What `run_on` gives, in a process of its own; one that is killed as memory runs out is a run too.

    Raises ProfilerError as `run_on` does, and where the process dies in another way.
    """
    phase_index = 0

    def note(index: int) -> None:
        nonlocal phase_index
        phase_index = index
        on_phase(index)

    try:
        return in_process_on(
            device,
            run_on,
            workload,
            device,
            settings,
            settings=settings,
            name=str(workload),
            on_phase=note,
        )
    except Died as error:
        # Under a limit a library may not even look whether it got what it asked for, or end the process.
        # What a simulation lacks is this machine's memory, not the GPU's.
        limited_run = settings.limit_bytes is not None
        ended = error.killed or (limited_run and (error.signal or says_out_of_memory(str(error), True)))
        if not (ended and device.is_here):
            raise
        stopped = OutOfMemory(phases(workload)[phase_index], _how_it_died(error), None)
        return Run(device, str(workload), (), workload=workload, out_of_memory=stopped)


def in_process_on(
    device: Device,
    function: Callable[..., Run],
    *arguments: Any,
    settings: RunSettings,
    name: str,
    on_phase: Callable[[int], None] | None = None,
    heard: Callable[[str], None] | None = None,
) -> Run:
    """The run that `function(*arguments)` gives in a process of its own that has the device.

    `heard` is told what it printed. Raises as profiler.runs.processes.in_fresh_process does.
    """
    timeout_seconds, allocator_settings = settings.timeout_seconds, settings.allocator_settings
    if device.kind == VIRTUAL:
        assert device.gpu is not None
        answer = in_virtual_process(
            function,
            *arguments,
            gpus=VirtualGPUs(device.gpu, lone_rank=settings.sharding is not None),
            name=name,
            allocator_settings=allocator_settings,
            on_phase=on_phase,
            timeout_seconds=timeout_seconds,
            heard=heard,
        )
        return replace(answer.result, rests_on=answer.rests_on())
    run: Run = in_fresh_process(
        function,
        *arguments,
        name=name,
        on_phase=on_phase,
        environment=allocator_environment(allocator_settings) if device.is_here else None,
        timeout_seconds=timeout_seconds,
        heard=heard,
    )
    return run


def _how_it_died(error: Died) -> str:
    if error.killed:
        return "killed by the operating system, as it does when memory runs out"
    by = f"ended by {signal.Signals(error.signal).name}" if error.signal else first_line(error)
    return f"{by} under the memory limit"


def make_recorder(
    device: Device,
    settings: RunSettings,
    on_phase: Callable[[Phase], None] = lambda phase: None,
    own_step: bool = True,
) -> PhaseRecorder:
    """The recorder of the device, not yet open: the one place where kinds of devices are told apart.

    `own_step` is False for a program of the user's, which reads its loss where nothing is computed.
    """
    if device.kind == SIMULATED:
        from profiler.recording.simulated import OWN_STEP_READS, PROGRAM_READS, SimulatedRecorder

        assert device.gpu is not None
        allocator_settings = AllocatorSettings.parse(settings.allocator_settings)
        if settings.limit_bytes is not None:
            usable_bytes = device.gpu.memory_bytes - in_total(process_terms(device.gpu)).typical_bytes
            fraction = min(1.0, settings.limit_bytes / max(usable_bytes, 1))
            allocator_settings = replace(allocator_settings, memory_fraction=fraction)
        float_reads = OWN_STEP_READS if own_step else PROGRAM_READS
        return SimulatedRecorder(device.gpu, allocator_settings, on_phase, float_reads)
    if device.kind == VIRTUAL:
        from profiler.recording.virtual.recorder import VirtualRecorder

        return VirtualRecorder(on_phase)
    if device.kind == CUDA:
        from profiler.recording.cuda import CudaRecorder

        return CudaRecorder(on_phase)
    from profiler.recording.cpu import CpuRecorder

    return CpuRecorder(on_phase)
