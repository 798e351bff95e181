"""A grid's cells, each answered once: in processes here, or in those of any executor.

A cell that has been answered is a small Parquet file of one row, named by the cell's key and written
atomically; all of them in a folder are one data set. So a sweep that is stopped, however, goes on where it
was, and a worker that dies costs its own cell.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.advice.fit import Question, fit
from profiler.advice.grid import Cell
from profiler.errors import ProfilerError, first_line
from profiler.files import alone_with, write_atomically
from profiler.runs.processes import Died, preload, threads_side_by_side
from profiler.runs.provenance import version_of
from profiler.trace.ledger import CATEGORIES
from profiler.workload import EIGHT_BIT_OPTIMIZERS, Workload

if TYPE_CHECKING:
    import pyarrow as pa

FAILED = "failed"  # beside the verdicts of profiler.advice.fit
_TEXT, _COUNT, _SECONDS = "string", "int64", "float64"

# Name -> kind, of every file's one row.
COLUMNS: dict[str, str] = {
    "key": _TEXT,
    "cell": _TEXT,
    **{
        field.name: _COUNT if field.name == "batch" or isinstance(field.default, int) else _TEXT
        for field in fields(Workload)
    },
    "gpu": _TEXT,
    "gpu_memory_bytes": _COUNT,
    "allocator_settings": _TEXT,
    "engine": _TEXT,
    "torch_version": _TEXT,
    "outcome": _TEXT,
    "detail": _TEXT,
    "parameters": _COUNT,
    "peak_phase": _TEXT,
    "peak_allocated_bytes": _COUNT,
    "peak_reserved_bytes": _COUNT,
    "context_bytes": _COUNT,
    "headroom_bytes": _COUNT,
    **{f"peak_{category}_bytes": _COUNT for category in CATEGORIES},
    "seconds": _SECONDS,
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Unanswered:
    """A cell without a row, as its worker died: it is tried again by the next sweep."""

    cell: Cell
    reason: str


def answer(cell: Cell) -> Row:
    """The cell's row: what `fit` says, without searches; or FAILED with the reason, for a workload that
    cannot run. What a worker does.

    Raises Died where the process that ran it did: that is no answer.
    """
    began = time.monotonic()
    row: Row = dict.fromkeys(COLUMNS) | {
        "key": cell.key,
        "cell": str(cell),
        **{field.name: getattr(cell.workload, field.name) for field in fields(Workload)},
        "settings": _as_json(cell.workload),
        "gpu": cell.gpu.name,
        "gpu_memory_bytes": cell.gpu.memory_bytes,
        "allocator_settings": cell.allocator_settings,
        "torch_version": version_of("torch"),
    }
    question = Question(allocator_settings=cell.allocator_settings, with_largest=False, with_techniques=False)
    try:
        found = fit(cell.workload, cell.gpu, question)
    except ProfilerError as error:
        if isinstance(error, Died):
            raise
        row |= {"outcome": FAILED, "detail": str(error)}
    else:
        peak, stopped = found.run.highest_phase, found.limited and found.limited.out_of_memory
        row |= {
            "outcome": found.verdict,
            "detail": stopped.message if stopped else "",
            "engine": found.run.device.kind,
            "parameters": found.run.parameters,
            "peak_phase": str(peak.account.phase),
            "peak_allocated_bytes": peak.peak_allocated_bytes,
            "peak_reserved_bytes": found.taken_bytes,
            "context_bytes": found.context_bytes,
            "headroom_bytes": found.headroom_bytes,
            **{f"peak_{category}_bytes": peak.peak.get(category, 0) for category in CATEGORIES},
        }
    return row | {"seconds": time.monotonic() - began}


def sweep(
    cells: Sequence[Cell],
    folder: Path,
    executor: Executor | None = None,
    on_answer: Callable[[Row | Unanswered], object] = lambda row: None,
    processes: int | None = None,
) -> tuple[Unanswered, ...]:
    """Answer the cells that `folder` has no row of.

    Args:
        cells: of a grid.
        folder: of the data set; made if need be.
        executor: whose workers answer: each imports this package and returns a row, which is written here.
            Unless given, processes on this machine, forked from one that has the libraries.
        on_answer: told each row once it is written, and each cell that has none.
        processes: how many at a time without an executor; by default one a processor.

    Returns:
        The cells that still have no row, as their workers died. On Ctrl-C, or if this process is killed, what
        is written stays.

    Raises:
        ProfilerError: the folder cannot be written.
    """
    keys = answered(folder)
    todo = [cell for cell in cells if cell.key not in keys]
    if not todo:
        return ()
    unanswered = []
    with _workers(todo, executor, processes) as workers:
        futures = {workers.submit(answer, cell): cell for cell in todo}
        for future in as_completed(futures):
            cell = futures.pop(future)
            error = future.exception()
            if error is None:
                row = future.result()
                write_row(folder, row)
                on_answer(row)
            else:
                unanswered.append(Unanswered(cell, first_line(error)))
                on_answer(unanswered[-1])
    return tuple(unanswered)


def answered(folder: Path) -> set[str]:
    """The keys of the cells that have a row. Raises ProfilerError for something that is no folder."""
    if folder.exists() and not folder.is_dir():
        raise ProfilerError(f"{folder} is a file; results go to a folder")
    return {path.stem for path in folder.glob("*.parquet")}


@contextmanager
def alone_in(folder: Path, on_wait: Callable[[], object]) -> Iterator[None]:
    """One sweep at a time fills a folder; see profiler.files.alone_with."""
    with alone_with(folder.absolute(), on_wait):
        yield


def write_row(folder: Path, row: Mapping[str, Any]) -> None:
    """Add a cell to the data set: whole, or not at all."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist([dict(row)], schema=_schema())
    write_atomically(folder / f"{row['key']}.parquet", lambda path: parquet.write_table(table, path))


def read_rows(folder: Path, cells: Sequence[Cell]) -> list[Row]:
    """The rows of these cells, in their order, as far as they have one.

    Raises ProfilerError for a file that is no row of a sweep.
    """
    import pyarrow as pa
    from pyarrow import dataset

    there = answered(folder)
    paths = [folder / f"{cell.key}.parquet" for cell in cells if cell.key in there]
    try:
        table = dataset.dataset([str(path) for path in paths], schema=_schema(), format="parquet").to_table()
    except (pa.ArrowException, OSError) as error:
        raise ProfilerError(f"{folder} has a file that is no row of a sweep: {first_line(error)}") from error
    rows = {row["key"]: row for row in table.to_pylist()}
    return [rows[path.stem] for path in paths if path.stem in rows]


@contextmanager
def _workers(cells: Sequence[Cell], executor: Executor | None, processes: int | None) -> Iterator[Executor]:
    if executor is not None:
        yield executor
        return
    if any(cell.workload.optimizer in EIGHT_BIT_OPTIMIZERS for cell in cells):
        preload(["bitsandbytes.optim"])  # seconds, again in each process
    with threads_side_by_side(processes) as threads:
        yield threads


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])


def _as_json(workload: Workload) -> str:
    return json.dumps(workload.setting_values()) if workload.settings else ""
