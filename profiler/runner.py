"""Running workloads one after the other, each measured in a fresh process, and keeping what they give."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from profiler import formula, worker
from profiler.errors import ProfilerError
from profiler.model_facts import count
from profiler.provenance import device_class, provenance
from profiler.records import Row
from profiler.training_step import phases
from profiler.workload import Workload


@dataclass(frozen=True)
class RunSettings:
    """How to run: on which device ("cpu" or "cuda"), and under which memory limit, if any."""

    device_type: str
    limit_bytes: int | None = None


def run_key(workload: Workload, device: str, torch_version: str) -> str:
    """The name that the rows of one run share; a run under this name need not be run again."""
    return f"{workload.key}-{device}-torch{torch_version}"


def run(
    experiment: str, workload: Workload, settings: RunSettings, on_phase: Callable[[int], None]
) -> list[Row]:
    """Measure one workload and predict it by formula; the rows of both, complete.

    Args:
        experiment: the name that the rows bear.
        workload: what to run.
        settings: where.
        on_phase: told the index of each phase as it begins.

    Raises:
        ProfilerError: the workload failed for another reason than memory.
    """
    about = provenance(settings.device_type)
    device = device_class(settings.device_type)
    shared = {
        "experiment": experiment,
        "run_key": run_key(workload, device, str(about["torch_version"])),
        "workload": str(workload),
        **workload.to_dict(),
        "device": device,
        **about,
    }
    rows = [*formula_rows(workload, settings.device_type), *_measured(workload, settings, on_phase)]
    return [{**shared, **row} for row in rows]


def formula_rows(workload: Workload, device_type: str) -> Iterator[Row]:
    """What both formulas say of each phase, as the columns of records that they fill in."""
    facts = count(workload)
    sources = {
        "formula": formula.predict(workload, facts, device_type),
        "textbook": formula.predict_textbook(workload, facts),
    }
    for source, predictions in sources.items():
        for index, prediction in enumerate(predictions):
            yield {
                **worker.phase_columns(index, prediction.phase),
                "source": source,
                "outcome": "ok",
                "allocated_bytes": prediction.end_bytes,
                "peak_allocated_bytes": prediction.peak_bytes,
                **_by_category("", prediction.end),
                **_by_category("peak_", prediction.peak),
            }


def _by_category(prefix: str, terms: Iterable[formula.Term]) -> Row:
    row: Row = {}
    for term in terms:
        column = f"{prefix}{term.category}_bytes"
        row[column] = row.get(column, 0) + term.size_bytes
    return row


def _measured(workload: Workload, settings: RunSettings, on_phase: Callable[[int], None]) -> list[Row]:
    context = process_context()
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile(prefix="profiler-", suffix=".log") as log:
        process = context.Process(
            target=worker.run,
            args=(sender, workload, settings.device_type, settings.limit_bytes, log.name),
        )
        process.start()
        sender.close()
        rows, phase_index = _listen(receiver, on_phase)
        process.join()
        if rows is not None:
            return rows
        if process.exitcode == -signal.SIGKILL:
            return [_killed(workload, phase_index)]
        raise ProfilerError(f"{workload} failed: {_last_line(Path(log.name))}")


def process_context() -> Any:
    """Fresh processes that start fast: forked from a server that has the libraries but no CUDA context."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "profiler.worker"])
    return context


def _listen(receiver: Connection, on_phase: Callable[[int], None]) -> tuple[list[Row] | None, int]:
    """The worker's rows (None if it died first) and the index of the last phase it began."""
    phase_index = 0
    while True:
        try:
            kind, content = receiver.recv()
        except EOFError:
            return None, phase_index
        if kind == "rows":
            return content, phase_index
        phase_index = content
        on_phase(phase_index)


def _killed(workload: Workload, phase_index: int) -> Row:
    """The row of a run that the operating system ended, as it does when memory runs out."""
    return {
        **worker.phase_columns(phase_index, phases(workload)[phase_index]),
        **worker.out_of_memory("killed by the operating system, as it does when memory runs out"),
    }


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "the process ended without a word"
