"""Two engines side by side: torch's own CUDA code on a virtual GPU, and the rules of the simulated one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU
from profiler.reference.archive import Archive, read_recording
from profiler.reference.predictions import predict_probes, simulate
from profiler.reference.unmatched import compare_probes, residual
from profiler.runs.virtually import again_on_virtual_gpu
from profiler.trace.alignment import Request, Unmatched, explain
from profiler.trace.load import read_run
from profiler.trace.phase import Phase

if TYPE_CHECKING:
    import pandas as pd

# What torch asks a library for, and the rules do not know: the workspaces of cuDNN's convolutions.
NOT_MODELLED = ("cudnn_convolution", "convolution_backward", "convolution")


@dataclass(frozen=True)
class Disagreement:
    """Requests of one size that one engine makes and the other does not.

    Attributes:
        operation: what makes them, by the name of its kernel in torch.
        engine: "virtual" or "simulated", the one that makes them.
        size_bytes: of each.
        times: how many, over all runs and probes.
        where: the runs and probes.
    """

    operation: str
    engine: str
    size_bytes: int
    times: int
    where: tuple[str, ...]

    @property
    def is_modelled(self) -> bool:
        """Whether there is a rule that should have known."""
        return self.operation not in NOT_MODELLED


@dataclass(frozen=True)
class Agreement:
    """How far the engines agree.

    Attributes:
        torch_version: of both.
        runs, probes: how many were compared.
        same_requests: runs with the same sequence of requests.
        same_allocated, same_reserved: runs with the same peaks.
        same_probes: probes with the same sequence of requests.
        changes: what only one of them asks for, the most frequent first.
        otherwise: runs that ended otherwise on one of them, or have other peaks though they make the same
            requests, each with what differs, in words; not those under autocast, which frees its cached casts
            in the order of a hash table of host addresses.
    """

    torch_version: str
    runs: int
    probes: int
    same_requests: int
    same_allocated: int
    same_reserved: int
    same_probes: int
    changes: tuple[Disagreement, ...]
    otherwise: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every difference is one that is known: of an operation that is not modelled."""
        return not self.otherwise and not any(change.is_modelled for change in self.changes)


def record_on_virtual_gpu(gpu: GPU, size: str, results: Path) -> Archive:
    """Record the runs and probes of this size with the installed torch; what is going on is printed.

    Raises ProfilerError where no virtual GPU can be had, and where the recording fails.
    """
    words = ["record-reference", "--size", size, "--results", str(results), "--minutes", "1000"]
    exit_code = again_on_virtual_gpu(words, gpu)
    if exit_code:
        raise ProfilerError(f"recording on a virtual {gpu.name} failed (exit code {exit_code})")
    (folder,) = results.iterdir()
    return read_recording(folder)


def compare_engines(
    recording: Archive, traces: Path, on_run: Callable[[str], None] = lambda run_key: None
) -> Agreement:
    """Simulate what was recorded on the virtual GPU, and compare.

    Args:
        recording: of a virtual GPU.
        traces: an empty folder for the simulations' traces.
        on_run: told each run key as its simulation ends.
    """
    simulated = simulate(recording, traces, on_run)
    return agreement(recording, simulated, traces, predict_probes(recording))


def agreement(recording: Archive, simulated: pd.DataFrame, traces: Path, probes: pd.DataFrame) -> Agreement:
    """The comparison itself.

    Args:
        recording: of the virtual GPU.
        simulated: rows of profiler.records.table, of the same runs.
        traces: folder with the simulations' traces, by run key.
        probes: of the simulation, a table of profiler.reference.probes.
    """
    found: dict[tuple[str, str, int], list[tuple[str, int]]] = defaultdict(list)
    otherwise: list[str] = []
    runs = same_requests = same_allocated = same_reserved = 0
    for key, case in recording.cases.items():
        here = recording.records[recording.records["run_key"] == key]
        there = simulated[simulated["run_key"] == key]
        endings = [_ending(rows) for rows in (here, there)]
        if endings[0] != endings[1]:
            otherwise.append(f"{case}: {endings[0]} on the virtual GPU, {endings[1]} simulated")
        trace, path = recording.trace(key), traces / f"{key}.parquet"
        if trace is None or not path.exists() or endings != ["ok", "ok"]:
            continue
        explained = residual(trace, read_run(path).entries).explanation
        for change in _sides(explained.only_first, explained.only_second):
            found[change[:3]].append((str(case), change[3]))
        runs += 1
        alike = explained.aligned == explained.first_total == explained.second_total
        same_requests += alike
        peaks = [tuple(int(rows[c].max()) for c in _PEAKS) for rows in (here, there)]
        same_allocated += peaks[0][0] == peaks[1][0]
        same_reserved += peaks[0][1] == peaks[1][1]
        if alike and peaks[0] != peaks[1] and not case.workload.precision.startswith("amp"):
            otherwise.append(f"{case}: peaks {peaks[0]} on the virtual GPU, {peaks[1]} simulated")
    compared = compare_probes(recording.probes(), probes)
    for row in compared[~compared["exact"]].itertuples():
        sides = [[Request(size, row.operation) for size in sizes] for sizes in (row.measured, row.predicted)]
        explained = explain(*sides)
        words = f"probe {row.operation} {row.shape} {row.dtype} {row.option}".strip()
        for change in _sides(explained.only_first, explained.only_second):
            found[change[:3]].append((words, change[3]))
    changes = [
        Disagreement(*what, sum(times for _, times in where), tuple(dict.fromkeys(name for name, _ in where)))
        for what, where in found.items()
    ]
    return Agreement(
        str(recording.about["torch_version"]),
        runs,
        len(compared),
        same_requests,
        same_allocated,
        same_reserved,
        int(compared["exact"].sum()),
        tuple(sorted(changes, key=lambda change: (-len(change.where), change.operation, change.engine))),
        tuple(otherwise),
    )


def _ending(rows: pd.DataFrame) -> str:
    """ "ok", or how and in which phase the run ended."""
    last = rows.iloc[-1]
    if last["outcome"] != "out_of_memory":
        return str(last["outcome"])
    where = Phase(last["step"], last["phase"], last["micro_batch"])
    held = [int(rows.loc[rows["outcome"] == "ok", column].max()) for column in _PEAKS]
    return f"out of memory in {where} after peaks of {held}"


_PEAKS = ("peak_allocated_bytes", "peak_reserved_bytes")


def _sides(
    virtual: Sequence[Unmatched], simulated: Sequence[Unmatched]
) -> Iterator[tuple[str, str, int, int]]:
    """(operation, engine, size in bytes, times) of each group."""
    for engine, groups in (("virtual", virtual), ("simulated", simulated)):
        for group in groups:
            yield operation_of(group.cause), engine, group.size_bytes, group.times


def operation_of(cause: str) -> str:
    """`aten::topk:digit counts` and `topk, train.py:8 f` are topk."""
    return cause.partition(",")[0].removeprefix("aten::").partition(":")[0] or "no name"
