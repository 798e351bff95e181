"""Records: one row a (workload, device, phase, source), in pandas, kept as Parquet with CSV beside it.

A file of records only ever grows, and is replaced atomically, so that a killed run loses nothing that was
finished, and by one process at a time. Parquet is the data; the CSV of the same name is for reading.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError, first_line
from profiler.files import alone_with, read_table, write_table
from profiler.records.select import recorded_twice
from profiler.trace.ledger import CATEGORIES

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1

# Name -> (pandas dtype, what it says). Bytes are nullable integers: a predictor that says nothing of a
# quantity leaves it empty, which is not zero.
_TEXT, _COUNT, _SECONDS = "string", "Int64", "Float64"

COLUMNS: dict[str, tuple[str, str]] = {
    "schema_version": (_COUNT, "version of these columns"),
    "experiment": (_TEXT, "the experiment that ran the workload"),
    "run_key": (_TEXT, "workload, device and torch version in one name; rows of one run share it"),
    "workload": (_TEXT, "the workload in words"),
    "model": (_TEXT, "Workload.model"),
    "batch": (_COUNT, "Workload.batch: samples in a micro-batch"),
    "length": (_COUNT, "Workload.length: tokens, or pixels of a side"),
    "optimizer": (_TEXT, "Workload.optimizer"),
    "attention": (_TEXT, "Workload.attention"),
    "micro_batches": (_COUNT, "Workload.micro_batches"),
    "steps": (_COUNT, "Workload.steps"),
    "seed": (_COUNT, "Workload.seed"),
    "optimizer_implementation": (_TEXT, "Workload.optimizer_implementation"),
    "precision": (_TEXT, "Workload.precision"),
    "checkpointing": (_TEXT, "Workload.checkpointing"),
    "layers": (_COUNT, "Workload.layers: 0 for the model's own"),
    "memory_format": (_TEXT, "Workload.memory_format"),
    "settings": (_TEXT, "Workload.settings as JSON; empty for none"),
    "device": (_TEXT, "device class: cpu, or the GPU's name in lower case"),
    "source": (_TEXT, "measured, formula, textbook or simulation"),
    "outcome": (_TEXT, "ok, out_of_memory or skipped"),
    "detail": (_TEXT, "why not ok, or the op at the peak"),
    "phase_index": (_COUNT, "position of the phase in its run, from 0"),
    "step": (_COUNT, "training step, 0 before the first"),
    "phase": (_TEXT, "model_loaded, forward, backward, optimizer_step or zero_grad"),
    "micro_batch": (_COUNT, "micro-batch, from 1; 0 where the phase has none"),
    "allocated_bytes": (_COUNT, "allocated at the end of the phase"),
    "peak_allocated_bytes": (_COUNT, "the most allocated at any moment of the phase"),
    "active_bytes": (_COUNT, "in blocks not reusable at the end of the phase (CUDA)"),
    "requested_bytes": (_COUNT, "as asked for, unrounded, at the end of the phase (CUDA)"),
    "reserved_bytes": (_COUNT, "held by the allocator at the end of the phase (CUDA)"),
    "peak_reserved_bytes": (_COUNT, "the most held by the allocator in the phase (CUDA)"),
    "device_used_bytes": (_COUNT, "in use on the whole device; on the CPU resident memory of the process"),
    **{f"{name}_bytes": (_COUNT, f"{name} at the end of the phase") for name in CATEGORIES},
    **{f"peak_{name}_bytes": (_COUNT, f"{name} at the peak of the phase") for name in CATEGORIES},
    "seconds": (_SECONDS, "duration of the phase, reading excluded"),
    "reading_seconds": (_SECONDS, "time the recorder took at the end of the phase"),
    "device_name": (_TEXT, "processor or GPU"),
    "driver_version": (_TEXT, "GPU driver"),
    "cuda_version": (_TEXT, "CUDA that torch was built with"),
    "torch_version": (_TEXT, ""),
    "transformers_version": (_TEXT, ""),
    "python_version": (_TEXT, ""),
    "platform": (_TEXT, "operating system and machine"),
    "allocator_settings": (_TEXT, "PYTORCH_ALLOC_CONF or PYTORCH_CUDA_ALLOC_CONF"),
    "recorded_at": (_TEXT, "UTC, ISO 8601"),
}

_IN_EVERY_ROW = ("run_key", "workload", "device", "source", "outcome", "phase_index", "recorded_at")
_WHERE_A_PHASE_ENDED = ("step", "phase", "micro_batch", "peak_allocated_bytes")
_LARGEST = 1 << 56  # a count, or bytes: 64 PiB; sums of many fit 64 bits

# Columns that older files lack, and what the rows there mean.
_ADDED = {"memory_format": "contiguous_format", "settings": None}

Row = dict[str, Any]


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a data frame with every column of the schema, in order and of its type.

    Raises KeyError for a column that the schema does not have.
    """
    import pandas as pd

    unknown = {name for row in rows for name in row} - COLUMNS.keys()
    if unknown:
        raise KeyError(f"not in the schema: {', '.join(sorted(unknown))}")
    filled = [{"schema_version": SCHEMA_VERSION, **row} for row in rows]
    # Column by column, so that no integer passes through a float on its way.
    arrays = {
        name: pd.array([_cell(row.get(name)) for row in filled], dtype=dtype)
        for name, (dtype, _) in COLUMNS.items()
    }
    return pd.DataFrame(arrays)


def _cell(value: Any) -> Any:
    """Settings are a mapping in a row, and JSON in the table."""
    return json.dumps(value) if isinstance(value, dict) else value


def read(path: Path) -> pd.DataFrame:
    """The records in a Parquet file; no rows if there is no such file.

    Raises ProfilerError for a file that is not Parquet, holds another schema, or rows that no run can have.
    """
    return _checked(path, read_table(path)) if path.exists() else frame([])


def read_below(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The records in a file, or in all files `records.parquet` of a folder, and what to say of them.

    What to say: a line for each file that cannot be read, and one for rows that are there twice.

    Raises ProfilerError if there is no record that can be read.
    """
    import pandas as pd

    if not path.exists():
        raise ProfilerError(f"{path} does not exist; `profiler run` makes records")
    files = sorted(path.rglob("records.parquet")) if path.is_dir() else [path]
    if not files:
        raise ProfilerError(f"no records.parquet in {path}; `profiler run` makes records")
    found, problems = [], []
    for file in files:
        try:
            found.append(read(file))
        except ProfilerError as error:
            problems.append(str(error))
    found = [rows for rows in found if len(rows)]
    if not found:
        raise ProfilerError("; ".join(problems[:1]) or f"{path} holds no records; `profiler run` makes them")
    together = pd.concat(found, ignore_index=True)
    return together, [*problems, *recorded_twice(together)]


def _checked(path: Path, records: pd.DataFrame) -> pd.DataFrame:
    """Every column of its type; raises ProfilerError for what cannot be a run's row."""
    versions = set(records["schema_version"].dropna()) if "schema_version" in records else {None}
    if versions - {SCHEMA_VERSION}:
        shown = next(iter(versions - {SCHEMA_VERSION}))
        raise ProfilerError(
            f"{path} holds records of schema {shown}, not {SCHEMA_VERSION}; move it away and run again"
        )
    records = records.assign(**{n: v for n, v in _ADDED.items() if n not in records})
    missing = COLUMNS.keys() - set(records.columns)
    if missing:
        raise ProfilerError(f"{path} lacks the columns {', '.join(sorted(missing))}; it is not a record file")
    try:
        records = records[list(COLUMNS)].astype({n: t for n, (t, _) in COLUMNS.items()})
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ProfilerError(f"{path} is damaged ({first_line(error)}); move it away and run again") from error
    ended = records[records["outcome"].eq("ok").fillna(False)]
    for rows, names in ((records, _IN_EVERY_ROW), (ended, _WHERE_A_PHASE_ENDED)):
        for name in names:
            if rows[name].isna().any():
                raise ProfilerError(f"{path} is damaged: a row has no {name}; move it away and run again")
    for name, (dtype, _) in COLUMNS.items():
        if dtype == _COUNT and bool((records[name].dropna().abs() > _LARGEST).any()):
            raise ProfilerError(f"{path} is damaged: {name} is absurd; move it away and run again")
    return records


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to a Parquet file and to the CSV beside it; either file is old or new, never half.

    Several processes may append to one file: every row is kept once.

    Raises ProfilerError if the file there is not one of records, or the folder cannot be written.
    """
    import pandas as pd

    new = frame(rows)
    with alone_with(path):
        old = read(path)
        write_table(path, pd.concat([old, new], ignore_index=True) if len(old) else new)
