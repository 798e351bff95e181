"""Allocation traces as small files: the ledger's entries of one run, as Parquet.

One row an entry, in order. An end of phase is one row for each label and then one for the mark itself. Words
are dictionary encoded, sizes and addresses too (a caching allocator hands the same blocks out again and
again), and all is compressed with zstd: two steps of GPT-2 take 20 KB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from profiler.errors import ProfilerError, first_line
from profiler.files import write_atomically
from profiler.trace.events import Allocation, Free, Mark, Place
from profiler.trace.ledger import CATEGORIES
from profiler.trace.phase import Phase

Entry = Allocation | Free | Mark

# Column -> what it says. Numbers are 0 and words "" where an entry has none; `module` is null without place.
COLUMNS = {
    "kind": "alloc, free, label (what lives at an address at the end of a phase) or mark (the end itself)",
    "address": "of the block",
    "size_bytes": "alloc: the block's size",
    "requested_bytes": "alloc: as asked for",
    "op": "alloc: the operation, or the line of Python, that asked",
    "category": "alloc: where known at birth; label: what the block is",
    "module": "alloc: the path of the module that was running",
    "line": "alloc: the line of the program",
    "step": "mark: training step",
    "phase": "mark: name of the phase",
    "micro_batch": "mark: micro-batch",
}
_NUMBERS = ("address", "size_bytes", "requested_bytes", "step", "micro_batch")
_LARGEST = 1 << 60
_NOTHING: dict[str, Any] = {name: 0 if name in _NUMBERS else "" for name in COLUMNS} | {"module": None}


def write_trace(path: Path, entries: Iterable[Entry]) -> None:
    """Write the entries of one run; the file is whole or not there.

    Raises ProfilerError if the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{**_NOTHING, **row} for entry in entries for row in _rows(entry)]
    types = {name: pa.int64() if name in _NUMBERS else pa.string() for name in COLUMNS}
    schema = pa.schema(list(types.items()))
    table = pa.table({name: [row[name] for row in rows] for name in COLUMNS}, schema=schema)
    write_atomically(
        path, lambda temporary: pq.write_table(table, temporary, compression="zstd", compression_level=19)
    )


def read_trace(path: Path) -> list[Entry]:
    """The entries of a file of `write_trace`.

    Raises ProfilerError for a file that is missing or not such a trace.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(path, columns=list(COLUMNS)).to_pydict()
    except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
        raise ProfilerError(f"{path} is not a readable trace ({first_line(error)})") from error
    if set(columns) != set(COLUMNS):
        raise ProfilerError(f"{path} is not a trace: it lacks {', '.join(COLUMNS.keys() - columns.keys())}")
    if problem := _problem(columns):
        raise ProfilerError(f"{path} is not a readable trace ({problem})")
    rows = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
    return list(_entries(rows))


def _problem(columns: dict[str, list[Any]]) -> str:
    """What no run can have written, or ""."""
    for name, values in columns.items():
        kinds = set(map(type, values))
        if name in _NUMBERS:
            if kinds - {int} or any(not 0 <= value < _LARGEST for value in values):
                return f"{name} has what is no size or number"
        elif kinds - ({str, type(None)} if name in ("module", "line") else {str}):
            return f"{name} has what is no text"
    for name, known in (("kind", {"alloc", "free", "label", "mark"}), ("category", {"", *CATEGORIES})):
        if unknown := set(columns[name]) - known:
            return f"{name} {min(unknown)[:40]!r} is unknown"
    if any(kind == "label" and not of for kind, of in zip(columns["kind"], columns["category"], strict=True)):
        return "a label names no category"
    return ""


def _rows(entry: Entry) -> Iterator[dict[str, Any]]:
    if isinstance(entry, Allocation):
        row = {
            "kind": "alloc",
            "address": entry.address,
            "size_bytes": entry.size_bytes,
            "requested_bytes": entry.requested_bytes,
            "op": entry.op,
            "category": entry.category,
        }
        yield row if entry.where is None else {**row, **entry.where._asdict()}
    elif isinstance(entry, Free):
        yield {"kind": "free", "address": entry.address}
    else:
        for address, category in entry.labels.items():
            yield {"kind": "label", "address": address, "category": category}
        phase = entry.phase
        yield {"kind": "mark", "step": phase.step, "phase": phase.name, "micro_batch": phase.micro_batch}


def _entries(rows: Iterable[dict[str, Any]]) -> Iterator[Entry]:
    labels: dict[int, str] = {}
    for row in rows:
        if row["kind"] == "alloc":
            where = None if row["module"] is None else Place(row["module"], row["line"] or "")
            yield Allocation(
                row["address"], row["size_bytes"], row["requested_bytes"], row["op"], row["category"], where
            )
        elif row["kind"] == "free":
            yield Free(row["address"])
        elif row["kind"] == "label":
            labels[row["address"]] = row["category"]
        else:
            yield Mark(Phase(row["step"], row["phase"], row["micro_batch"]), labels)
            labels = {}
