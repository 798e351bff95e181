"""What formula and simulation say of recorded runs, computed now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.device import CPU, CUDA, SIMULATED, Device
from profiler.errors import ProfilerError
from profiler.formula.terms import ModelFacts
from profiler.gpu.cards import GPU
from profiler.records import table as records
from profiler.reference import probes
from profiler.reference.archive import Archive
from profiler.reference.suite import Case
from profiler.runs.limits import attention_by
from profiler.runs.processes import each_in_fresh_process, in_fresh_process
from profiler.runs.rows import completed, formula_rows, simulation_rows

if TYPE_CHECKING:
    import pandas as pd


def predict(
    recording: Archive,
    run_keys: Iterable[str],
    traces: Path,
    on_run: Callable[[str], None] = lambda run_key: None,
    processes: int | None = None,
) -> pd.DataFrame:
    """Rows of profiler.records.table for these runs: formula, textbook and (for a GPU) simulation.

    A run that cannot be simulated gives one row with the outcome "skipped" and the reason.

    Args:
        recording: whose GPU is simulated.
        run_keys: which of its runs.
        traces: folder for the simulations' traces, <run key>.parquet.
        on_run: told each run key as its simulation ends.
        processes: how many simulations go on at once; by default one a processor.
    """
    keys = [key for key in run_keys if key in recording.cases]
    rows: list[records.Row] = []
    device_type = CPU if recording.gpu is None else CUDA
    chosen = [recording.cases[key] for key in keys]
    counting = [(case, recording.gpu) for case in chosen]
    facts = each_in_fresh_process(_facts, counting, "counting", processes)
    for key, case, counted in zip(keys, chosen, facts, strict=True):
        rows += _completed(recording, key, formula_rows(case.workload, counted, device_type))
    if recording.gpu is not None:
        rows += _simulated(recording, recording.gpu, keys, traces, on_run, processes)
    return records.frame(rows)


def simulate(
    recording: Archive, traces: Path, on_run: Callable[[str], None] = lambda run_key: None
) -> pd.DataFrame:
    """The rows of `predict` that are simulated, for all runs of a recording on a GPU.

    Raises ValueError for a recording on a CPU.
    """
    if recording.gpu is None:
        raise ValueError("the recording names no GPU to simulate")
    keys = list(recording.cases)
    return records.frame(list(_simulated(recording, recording.gpu, keys, traces, on_run, None)))


def _simulated(
    recording: Archive,
    gpu: GPU,
    keys: Sequence[str],
    traces: Path,
    on_run: Callable[[str], None],
    processes: int | None,
) -> Iterator[records.Row]:
    jobs = [(recording.cases[key], gpu, traces / f"{key}.parquet") for key in keys]
    simulations = each_in_fresh_process(_simulate, jobs, "simulating", processes)
    for key, simulated in zip(keys, simulations, strict=True):
        yield from _completed(recording, key, simulated)
        on_run(key)


def predict_probes(recording: Archive) -> pd.DataFrame:
    """The probes that were recorded, as the rules have them on the recording's GPU.

    Raises ValueError for a recording on a CPU, for which there are no rules.
    """
    import pandas as pd

    if recording.gpu is None:
        raise ValueError("the kernels' rules are those of a GPU")
    recorded = recording.probes().drop_duplicates(["operation", "shape", "dtype", "option"])
    chosen = [
        probes.Probe(row.operation, tuple(map(int, row.shape.split("×"))), row.dtype, row.option)
        for row in recorded.itertuples()
    ]
    device = Device(SIMULATED, recording.gpu)
    rows = in_fresh_process(probes.requests_of_probes, chosen, device, name="simulating the probes")
    return pd.DataFrame(rows, columns=list(probes.COLUMNS))


def _facts(case: Case, gpu: GPU | None) -> ModelFacts:
    """Counted with the attention kernel that the case ran with; with torch's choice where that cannot be."""
    from profiler.formula.facts import facts_on

    with suppress(RuntimeError, ProfilerError), attention_by(case.attention_kernel):
        return facts_on(gpu, case.workload)
    return facts_on(gpu, case.workload)


def _simulate(case: Case, gpu: GPU, trace: Path) -> list[records.Row]:
    return simulation_rows(case.workload, Device(SIMULATED, gpu), case.settings, trace)


def _completed(recording: Archive, key: str, rows: Iterable[records.Row]) -> list[records.Row]:
    measured = recording.records[recording.records["run_key"] == key].iloc[0]
    return completed(
        rows,
        measured["experiment"],
        recording.cases[key].workload,
        measured["device"],
        {},
        key,
        measured["workload"],
    )
