"""Running workloads one after the other, each measured in a fresh process, and keeping what they give."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable, Mapping

from profiler.gpu.cards import GPU
from profiler.records.table import Row
from profiler.runs import execute as worker
from profiler.runs import rows as predicted_rows
from profiler.runs.limits import allocator_environment
from profiler.runs.processes import Died, in_fresh_process
from profiler.runs.provenance import device_class, gpu_here, in_a_path, provenance
from profiler.runs.rows import formula_rows
from profiler.runs.run_settings import RunSettings
from profiler.trace.phase import phases
from profiler.workload import Workload


def run_key(workload: Workload, device: str, about: Mapping[str, str | None]) -> str:
    """The name that the rows of one run share; a run under this name need not be run again.

    It is another name for another workload, device, processor or torch version. `about` is a provenance.
    """
    where = hashlib.sha256(str(about["device_name"]).encode()).hexdigest()[:6]
    return f"{workload.key}-{device}-{where}-torch{about['torch_version']}"


def run(
    experiment: str, workload: Workload, settings: RunSettings, on_phase: Callable[[int], None]
) -> list[Row]:
    """Measure one workload and predict it: on the CPU by formula, on a GPU also by simulation of that GPU.

    Args:
        experiment: the name that the rows bear.
        workload: what to run.
        settings: where.
        on_phase: told the index of each phase as it begins.

    Returns:
        The rows of all sources, complete.

    Raises:
        ProfilerError: the workload failed for another reason than memory.
    """
    rows = [*_predicted_here(workload, settings.device_type), *measured(workload, settings, on_phase)]
    return _complete(experiment, workload, *real_device(settings.device_type), rows)


def predict(experiment: str, workload: Workload, device_type: str) -> list[Row]:
    """The rows of `run` without the measured ones: for a workload that has been measured already."""
    rows = _predicted_here(workload, device_type)
    return _complete(experiment, workload, *real_device(device_type), rows)


def simulate(experiment: str, workload: Workload, gpu: GPU) -> list[Row]:
    """Predict one workload on a GPU that need not be there, by formula and simulation; the rows, complete.

    Raises ProfilerError if the process that simulates dies.
    """
    return _complete(experiment, workload, *simulated_device(gpu), _predicted(workload, gpu))


def real_device(device_type: str) -> tuple[str, dict[str, str | None]]:
    """The device class and provenance of rows that are measured here."""
    return device_class(device_type), provenance(device_type)


def simulated_device(gpu: GPU) -> tuple[str, dict[str, str | None]]:
    """The device class and provenance of rows that are simulated here."""
    return in_a_path(gpu.name), provenance("cpu") | {"device_name": gpu.name}


def _predicted_here(workload: Workload, device_type: str) -> list[Row]:
    if device_type == "cuda":
        return _predicted(workload, gpu_here())
    from profiler.formula.facts import count

    return list(formula_rows(workload, count(workload), device_type))


def _predicted(workload: Workload, gpu: GPU) -> list[Row]:
    settings = RunSettings("simulated", gpu=gpu)
    name = f"simulating {workload}"
    rows: list[Row] = in_fresh_process(predicted_rows.gpu_rows, workload, settings, name=name)
    return rows


def _complete(
    experiment: str, workload: Workload, device: str, about: dict[str, str | None], rows: list[Row]
) -> list[Row]:
    shared = {
        "experiment": experiment,
        "run_key": run_key(workload, device, about),
        "workload": str(workload),
        **workload.to_dict(),
        "device": device,
        **about,
    }
    return [{**shared, **row} for row in rows]


def measured(workload: Workload, settings: RunSettings, on_phase: Callable[[int], None]) -> list[Row]:
    """Run the workload in a fresh process; one row a phase, the last of which may be out of memory.

    Raises ProfilerError if the workload failed for another reason.
    """
    phase_index = 0

    def note(index: int) -> None:
        nonlocal phase_index
        phase_index = index
        on_phase(index)

    try:
        rows: list[Row] = in_fresh_process(
            worker.measure,
            workload,
            settings,
            name=str(workload),
            on_phase=note,
            environment=allocator_environment(settings.allocator_settings),
            timeout_seconds=settings.timeout_seconds,
        )
    except Died as error:
        # Under a limit a library may not even look whether it got what it asked for.
        if not error.killed and not (error.signal and settings.limit_bytes is not None):
            raise
        return [_killed(workload, phase_index, error)]
    return rows


def _killed(workload: Workload, phase_index: int, error: Died) -> Row:
    """The row of a run that the operating system ended, as it does when memory runs out."""
    how = "killed by the operating system, as it does when memory runs out"
    if not error.killed:
        how = f"ended by {signal.Signals(error.signal).name} under the memory limit"
    return {
        **worker.phase_columns(phase_index, phases(workload)[phase_index]),
        **worker.out_of_memory(how),
    }
