"""One run in this process: trains the workload under a recorder and gives its rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from profiler.errors import first_line
from profiler.records.table import Row
from profiler.runs.limits import attention_by, is_out_of_memory, limited
from profiler.runs.run_settings import RunSettings
from profiler.trace.ledger import CATEGORIES
from profiler.trace.phase import Phase, phases
from profiler.trace.run import PhaseMeasurement
from profiler.workload import Workload


def measure(
    workload: Workload, settings: RunSettings, on_phase: Callable[[int], None] = lambda index: None
) -> list[Row]:
    """Train `workload` in this process, under a recorder, and write the trace if the settings name a file.

    `on_phase` is told the index of each phase as it begins.

    Returns one row a phase; running out of memory is the last row's outcome.
    """
    order = phases(workload)
    recorder = make_recorder(settings, lambda phase: on_phase(order.index(phase)))
    error = _train(workload, settings, recorder)
    rows = [phase_row(index, m) for index, m in enumerate(recorder.measurements())]
    if error is not None:
        rows[-1:] = [{**(rows or [phase_columns(0, phases(workload)[0])])[-1], **out_of_memory(error)}]
    if settings.trace is not None:
        from profiler.trace.file import write_trace

        write_trace(settings.trace, recorder.entries)
    return rows


def make_recorder(settings: RunSettings, on_phase: Callable[[Phase], None] = lambda phase: None) -> Any:
    """The recorder of the settings' device, not yet open."""
    if settings.device_type == "simulated":
        return _simulated_recorder(settings, on_phase)
    if settings.device_type == "cuda":
        from profiler.recording.cuda import CudaRecorder

        return CudaRecorder(on_phase)
    from profiler.recording.cpu import CpuRecorder

    return CpuRecorder(on_phase)


def _simulated_recorder(settings: RunSettings, on_phase: Callable[[Phase], None]) -> Any:
    from profiler.gpu.allocator import AllocatorSettings
    from profiler.recording.simulated import OWN_STEP_READS, SimulatedRecorder

    assert settings.gpu is not None
    allocator_settings = AllocatorSettings.parse(settings.allocator_settings)
    if settings.limit_bytes is not None:
        fraction = min(1.0, settings.limit_bytes / settings.gpu.memory_bytes)
        allocator_settings = replace(allocator_settings, memory_fraction=fraction)
    return SimulatedRecorder(settings.gpu, allocator_settings, on_phase, float_reads=OWN_STEP_READS)


def _train(workload: Workload, settings: RunSettings, recorder: Any) -> str | None:
    """Run the steps; the message if memory ran out, None if all went well."""
    import torch

    from profiler.formula.facts import count
    from profiler.training.optimizers import import_library
    from profiler.training.step import train

    import_library(workload)
    simulated = settings.device_type == "simulated"
    limit_bytes = None if simulated else settings.limit_bytes
    with recorder, attention_by(settings.attention_kernel):
        if limit_bytes is not None:
            count(workload)  # imports the model's code, which the limit is not about
        device = recorder.device if simulated else torch.device(settings.device_type)
        try:
            with limited(settings.device_type, limit_bytes):
                train(workload, device, recorder, initialize=not simulated)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error, under_limit=limit_bytes is not None):
                raise
            return first_line(error)
    return None


def phase_row(index: int, measurement: PhaseMeasurement, source: str = "measured") -> Row:
    """The columns of a record that a recorder filled in for one phase."""
    account, statistics = measurement.account, measurement.memory_stats
    allocated_bytes = statistics.get("allocated_bytes.all.current", account.end_bytes)
    peak_bytes = statistics.get("allocated_bytes.all.peak", account.peak_bytes)
    end, peak = dict(account.end), dict(account.peak)
    # What the allocator counted and the events do not show stays visible.
    end["unattributed"] += allocated_bytes - account.end_bytes
    peak["unattributed"] += peak_bytes - account.peak_bytes
    return {
        **phase_columns(index, account.phase),
        "source": source,
        "outcome": "ok",
        "detail": account.peak_op or None,
        "allocated_bytes": allocated_bytes,
        "peak_allocated_bytes": peak_bytes,
        "active_bytes": statistics.get("active_bytes.all.current"),
        "requested_bytes": statistics.get("requested_bytes.all.current"),
        "reserved_bytes": statistics.get("reserved_bytes.all.current"),
        "peak_reserved_bytes": statistics.get("reserved_bytes.all.peak"),
        "device_used_bytes": measurement.device_used_bytes,
        **{f"{name}_bytes": end[name] for name in CATEGORIES},
        **{f"peak_{name}_bytes": peak[name] for name in CATEGORIES},
        "seconds": measurement.seconds,
        "reading_seconds": measurement.reading_seconds,
    }


def out_of_memory(detail: str) -> Row:
    """The columns of a measured row whose phase did not fit."""
    return {"source": "measured", "outcome": "out_of_memory", "detail": detail}


def phase_columns(index: int, phase: Phase) -> Row:
    """The columns of a record that say which phase it is."""
    return {
        "phase_index": index,
        "step": phase.step,
        "phase": phase.name,
        "micro_batch": phase.micro_batch,
    }
