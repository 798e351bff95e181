"""Runs as small files: the columns and words of all that a Run has, as Parquet.

One row an entry, in order. An end of phase is one row for each label and then one for the mark itself. Words
are dictionary encoded, sizes and addresses too (a caching allocator hands the same blocks out again and
again), and all is compressed with zstd: two steps of GPT-2 take 30 KB. What is of the run as a whole is JSON
in the file's metadata (profiler.trace.file_metadata); a file without it is a trace alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.errors import ProfilerError, first_line
from profiler.files import write_atomically
from profiler.trace.events import Allocation, Entries, Entry, Free, Mark, Place
from profiler.trace.ledger import CATEGORIES
from profiler.trace.phase import Phase
from profiler.trace.segments import SEGMENT_ACTIONS, Changes, SegmentChange

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
# Columns that files of before lack.
ADDED = {
    "reserved_bytes": "alloc, free, mark: what the allocator held after it; null where nobody looked",
    "stream": "segment_...: what PyTorch's snapshots call so, before the entry that follows; its stream",
    "measurement": "mark: what else was read at the end of the phase, as JSON",
}
_NUMBERS = ("address", "size_bytes", "requested_bytes", "step", "micro_batch", "stream", "reserved_bytes")
_ENTRIES = ("alloc", "free", "mark")
_METADATA = b"profiler run"
_LARGEST = 1 << 60
_NULL = ("module", "reserved_bytes")
_NOTHING: dict[str, Any] = {
    name: None if name in _NULL else 0 if name in _NUMBERS else "" for name in (*COLUMNS, *ADDED)
}


@dataclass(frozen=True)
class Content:
    """What a file holds: the entries, and what belongs to each of them, to each phase and to the run.

    Attributes:
        entries: in order.
        reserved_bytes: one an entry, or empty.
        segment_changes: by the entry that they precede.
        phase_words: one a mark, as `profiler.trace.file_metadata` writes them; fewer, or "", for none.
        run_words: the same for the whole run; "" in a file of entries alone.
    """

    entries: Entries
    reserved_bytes: Sequence[int]
    segment_changes: Changes
    phase_words: Sequence[str]
    run_words: str


def write_content(path: Path, content: Content) -> None:
    """Write one run; the file is whole or not there.

    Raises ProfilerError if the folder cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{**_NOTHING, **row} for row in _rows(content)]
    types = {name: pa.int64() if name in _NUMBERS else pa.string() for name in (*COLUMNS, *ADDED)}
    schema = pa.schema(list(types.items()), metadata={_METADATA: content.run_words.encode()})
    table = pa.table({name: [row[name] for row in rows] for name in types}, schema=schema)
    write_atomically(
        path, lambda temporary: pq.write_table(table, temporary, compression="zstd", compression_level=19)
    )


def read_content(path: Path) -> Content:
    """What `write_content` wrote, this version's or an older one's; its words are not looked at.

    Raises ProfilerError for a file that is missing or not such a run.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        names = [*COLUMNS, *(name for name in ADDED if name in schema.names)]
        columns = pq.read_table(path, columns=names).to_pydict()
        run_words = (schema.metadata or {}).get(_METADATA, b"").decode()
    except (pa.ArrowException, OSError, KeyError, ValueError, OverflowError) as error:
        raise ProfilerError(f"{path} is not a readable trace ({first_line(error)})") from error
    if missing := COLUMNS.keys() - columns.keys():
        raise ProfilerError(f"{path} is not a trace: it lacks {', '.join(missing)}")
    if problem := _problem(columns):
        raise ProfilerError(f"{path} is not a readable trace ({problem})")
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    reserved: list[Any] = [row.get("reserved_bytes") for row in rows if row["kind"] in _ENTRIES]
    if None in reserved:
        reserved = []
    phase_words = [row.get("measurement", "") for row in rows if row["kind"] == "mark"]
    return Content(list(_entries(rows)), reserved, _changes(rows), phase_words, run_words)


def _problem(columns: dict[str, list[Any]]) -> str:
    """What no run can have written, or ""."""
    for name, values in columns.items():
        kinds = set(map(type, values)) - ({type(None)} if name in (*_NULL, "line") else set())
        if name in _NUMBERS:
            if kinds - {int} or any(not 0 <= value < _LARGEST for value in values if value is not None):
                return f"{name} has what is no size or number"
        elif kinds - {str}:
            return f"{name} has what is no text"
    for name, known in (("kind", {*_ENTRIES, "label", *SEGMENT_ACTIONS}), ("category", {"", *CATEGORIES})):
        if unknown := set(columns[name]) - known:
            return f"{name} {min(unknown)[:40]!r} is unknown"
    if any(kind == "label" and not of for kind, of in zip(columns["kind"], columns["category"], strict=True)):
        return "a label names no category"
    return ""


def _rows(content: Content) -> Iterator[dict[str, Any]]:
    reserved: Sequence[int | None] = content.reserved_bytes or [None] * len(content.entries)
    phases = iter(content.phase_words)
    for index, (entry, reserved_bytes) in enumerate(zip(content.entries, reserved, strict=True)):
        for change in content.segment_changes.get(index, ()):
            action, address, size_bytes, stream = change
            yield {"kind": action, "address": address, "size_bytes": size_bytes, "stream": stream}
        *labels, last = _rows_of(entry)
        yield from labels
        if isinstance(entry, Mark):
            last["measurement"] = next(phases, "")
        yield {**last, "reserved_bytes": reserved_bytes}


def _rows_of(entry: Entry) -> Iterator[dict[str, Any]]:
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


def _changes(rows: Iterable[dict[str, Any]]) -> dict[int, list[SegmentChange]]:
    changes: dict[int, list[SegmentChange]] = {}
    entries = 0
    for row in rows:
        entries += row["kind"] in _ENTRIES
        if row["kind"] in SEGMENT_ACTIONS:
            words = (row["kind"], row["address"], row["size_bytes"], row.get("stream", 0))
            changes.setdefault(entries, []).append(SegmentChange(*words))
    return changes


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
        elif row["kind"] == "mark":
            yield Mark(Phase(row["step"], row["phase"], row["micro_batch"]), labels)
            labels = {}
