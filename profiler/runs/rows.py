"""What runs and formulas say of a workload, as rows of records: the one place where a row is completed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from profiler.device import CPU, CUDA, SIMULATED, Device
from profiler.errors import ProfilerError, first_line
from profiler.formula.per_phase import phase_terms
from profiler.formula.terms import ModelFacts, Term
from profiler.formula.textbook import textbook_terms
from profiler.records.table import Row
from profiler.runs.execute import run_in_fresh_process, run_on
from profiler.runs.processes import in_fresh_process
from profiler.runs.provenance import device_class, gpu_here, provenance
from profiler.runs.run_settings import RunSettings
from profiler.trace.ledger import CATEGORIES
from profiler.trace.phase import Phase, phases

if TYPE_CHECKING:
    from pathlib import Path

    from profiler.gpu.cards import GPU
    from profiler.trace.run import PhaseMeasurement, Run
    from profiler.workload import Workload


def experiment_rows(
    experiment: str,
    workload: Workload,
    device: Device,
    settings: RunSettings,
    on_phase: Callable[[int], None] = lambda index: None,
    measure: bool = True,
) -> list[Row]:
    """Predict one workload and, on a device that is here, measure it.

    On the CPU the formulas predict, on a GPU also a run on that GPU as if it were not there: of `device`, or
    simulated where `device` is here.

    Args:
        experiment: the name that the rows bear.
        workload: what to run.
        device: where.
        settings: how.
        on_phase: told the index of each phase as it begins.
        measure: False for a workload that has been measured already.

    Returns:
        The rows of all sources, complete.

    Raises:
        ProfilerError: the workload failed for another reason than memory.
    """
    rows = predicted_rows(workload, Device(SIMULATED, gpu_here()) if device.kind == CUDA else device)
    if measure and device.is_here:
        rows += run_rows(run_in_fresh_process(workload, device, settings, on_phase), "measured")
    about = provenance(device)
    return completed(rows, experiment, workload, device_class(device), about)


def predicted_rows(workload: Workload, device: Device) -> list[Row]:
    """What the formulas say, and for a GPU that is not there a run on it.

    Raises ProfilerError if the process of the formulas dies.
    """
    from profiler.formula.facts import count

    if device.kind == CPU:
        return list(formula_rows(workload, count(workload), CPU))
    assert device.gpu is not None
    if device.kind == SIMULATED:
        both: list[Row] = in_fresh_process(_rows_simulated, workload, device, name=f"simulating {workload}")
        return both
    rows: list[Row] = in_fresh_process(_formulas_on, workload, device.gpu, name=f"counting {workload}")
    try:
        return rows + run_rows(run_in_fresh_process(workload, device), "simulation")
    except ProfilerError as error:
        return [*rows, skipped_row(0, phases(workload)[0], "simulation", str(error))]


def _formulas_on(workload: Workload, gpu: GPU) -> list[Row]:
    from profiler.formula.facts import facts_on

    return list(formula_rows(workload, facts_on(gpu, workload), CUDA))


def _rows_simulated(workload: Workload, device: Device) -> list[Row]:
    assert device.gpu is not None
    return _formulas_on(workload, device.gpu) + simulation_rows(workload, device, RunSettings())


def simulation_rows(
    workload: Workload, device: Device, settings: RunSettings, trace: Path | None = None
) -> list[Row]:
    """The rows of a simulation in this process, which is saved as `trace`.

    Where it cannot be simulated: one row "skipped" with the reason.
    """
    try:
        run = run_on(workload, device, settings)
    except Exception as error:
        return [skipped_row(0, phases(workload)[0], "simulation", first_line(error))]
    if trace is not None:
        run.save(trace)
    return run_rows(run, "simulation")


def formula_rows(workload: Workload, facts: ModelFacts, device_type: str) -> Iterator[Row]:
    """What both formulas say of each phase, as the columns of records that they fill in."""
    sources = {
        "formula": phase_terms(workload, facts, device_type),
        "textbook": textbook_terms(workload, facts),
    }
    for source, predictions in sources.items():
        for index, prediction in enumerate(predictions):
            yield {
                **_phase_columns(index, prediction.phase, source, "ok"),
                "allocated_bytes": prediction.end_bytes,
                "peak_allocated_bytes": prediction.peak_bytes,
                **_by_category("", prediction.end),
                **_by_category("peak_", prediction.peak),
            }


def run_rows(run: Run, source: str) -> list[Row]:
    """One row a phase of a workload's run; the last of one that did not fit is out of memory."""
    assert run.workload is not None
    rows = [_phase_row(index, phase, source) for index, phase in enumerate(run.phases)]
    stopped = run.out_of_memory
    if stopped is not None:
        index = phases(run.workload).index(stopped.phase)
        if index == len(rows):
            rows.append(_phase_columns(index, stopped.phase, source, "ok"))
        rows[-1] |= {"outcome": "out_of_memory", "detail": stopped.message}
    return rows


def skipped_row(index: int, phase: Phase, source: str, why: str) -> Row:
    """The row of a run that could not be."""
    return {**_phase_columns(index, phase, source, "skipped"), "detail": why}


def _phase_row(index: int, phase: PhaseMeasurement, source: str) -> Row:
    return {
        **_phase_columns(index, phase.account.phase, source, "ok"),
        "detail": phase.account.peak_op or None,
        "allocated_bytes": phase.allocated_bytes,
        "peak_allocated_bytes": phase.peak_allocated_bytes,
        "active_bytes": phase.memory_stats.get("active_bytes.all.current"),
        "requested_bytes": phase.memory_stats.get("requested_bytes.all.current"),
        "reserved_bytes": phase.reserved_bytes,
        "peak_reserved_bytes": phase.peak_reserved_bytes,
        "device_used_bytes": phase.device_used_bytes,
        **{f"{name}_bytes": phase.end[name] for name in CATEGORIES},
        **{f"peak_{name}_bytes": phase.peak[name] for name in CATEGORIES},
        "seconds": phase.seconds,
        "reading_seconds": phase.reading_seconds,
    }


def _phase_columns(index: int, phase: Phase, source: str, outcome: str) -> Row:
    return {
        "phase_index": index,
        "step": phase.step,
        "phase": phase.name,
        "micro_batch": phase.micro_batch,
        "source": source,
        "outcome": outcome,
    }


def _by_category(prefix: str, terms: Iterable[Term]) -> Row:
    row: Row = {}
    for term in terms:
        column = f"{prefix}{term.category}_bytes"
        row[column] = row.get(column, 0) + term.size_bytes
    return row


# --- the columns of a run as a whole ---------------------------------------------------------------------


def run_key(workload: Workload, device: str, about: Mapping[str, Any]) -> str:
    """The name that the rows of one run share; a run under this name need not be run again.

    It is another name for another workload, device, processor or torch version. `device` is a device class,
    `about` a provenance.
    """
    where = hashlib.sha256(str(about["device_name"]).encode()).hexdigest()[:6]
    return f"{workload.key}-{device}-{where}-torch{about['torch_version']}"


def completed(
    rows: Iterable[Row],
    experiment: str,
    workload: Workload,
    device: str,
    about: Mapping[str, Any],
    key: str = "",
    words: str = "",
) -> list[Row]:
    """Rows with what all of a run share; `key` and `words` where they are others than the workload's."""
    shared = {
        "experiment": experiment,
        "run_key": key or run_key(workload, device, about),
        "workload": words or str(workload),
        **workload.to_dict(),
        **about,
        "device": device,
    }
    return [{**shared, **row} for row in rows]
