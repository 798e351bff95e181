"""Records: one row a (workload, device, phase, source), in pandas, kept as Parquet with CSV beside it.

A file of records only ever grows, and is replaced atomically, so that a killed run loses nothing that was
finished. Parquet is the data; the CSV of the same name is for reading.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError, first_line
from profiler.files import write_table
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

    Raises ProfilerError for a file that is not Parquet or holds another schema.
    """
    import pandas as pd
    import pyarrow as pa

    if not path.exists():
        return frame([])
    try:
        records = pd.read_parquet(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ProfilerError(
            f"{path} is not a readable Parquet file ({first_line(error)}); move it away and run again"
        ) from error
    version = records["schema_version"].max() if "schema_version" in records else None
    if version != SCHEMA_VERSION and len(records) + (version is None):
        raise ProfilerError(
            f"{path} holds records of schema {version}, not {SCHEMA_VERSION}; move it away and run again"
        )
    records = records.assign(**{n: v for n, v in _ADDED.items() if n not in records})
    missing = COLUMNS.keys() - set(records.columns)
    if missing:
        raise ProfilerError(f"{path} lacks the columns {', '.join(sorted(missing))}; it is not a record file")
    return records[list(COLUMNS)].astype({n: t for n, (t, _) in COLUMNS.items()})


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to a Parquet file and to the CSV beside it; either file is old or new, never half.

    Raises ProfilerError if the file there is not one of records, or the folder cannot be written.
    """
    import pandas as pd

    old, new = read(path), frame(rows)
    write_table(path, pd.concat([old, new], ignore_index=True) if len(old) else new)
