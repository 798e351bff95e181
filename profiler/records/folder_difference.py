"""What changed between two sets of records: runs paired by workload, phases by their place in the run.

A side with several devices, as each run on a CPU gives (it also simulates a GPU), is paired by device too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError
from profiler.records import table as records
from profiler.records.select import last_of_each_run, last_of_each_workload
from profiler.trace.difference import Change, changes
from profiler.trace.ledger import CATEGORIES
from profiler.trace.phase import Phase

if TYPE_CHECKING:
    import pandas as pd

# What happened is compared, not what a formula says of it; measured rather than simulated where both are.
_SOURCES = ("measured", "simulation")
_PHASE = ["phase_index", "step", "phase", "micro_batch"]


@dataclass(frozen=True)
class RunChange:
    """One workload on both sides: its peak, the phases whose peaks changed, and what the peak was made of.

    `workload` names the device too, where a side has several.
    """

    workload: str
    peak: Change
    phases: tuple[Change, ...]
    categories: tuple[Change, ...]


@dataclass(frozen=True)
class RecordsDifference:
    """Runs with a phase whose peak changed, the largest change of the run's peak first, and what has no pair.

    Attributes:
        runs: those that changed, in the phases to whose end both sides came.
        paired: how many runs both sides have.
        only_before, only_after: runs of one side.
        out_of_memory_before, out_of_memory_after: runs that ran out of memory on this side only.
        problems: a line for each file that could not be read, or what else is wrong with one.
    """

    runs: tuple[RunChange, ...]
    paired: int
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    out_of_memory_before: tuple[str, ...]
    out_of_memory_after: tuple[str, ...]
    problems: tuple[str, ...]


def is_records(path: Path) -> bool:
    """Whether `path` is a folder, or a Parquet file with a column of run keys."""
    if path.is_dir():
        return True
    if path.suffix != ".parquet" or not path.is_file():
        return False
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return "run_key" in pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return False


def records_difference(before: Path, after: Path) -> RecordsDifference:
    """Read both sides and pair their runs.

    Raises ProfilerError where a side has no records, or they have no run in common.
    """
    read = [records.read_below(path) for path in (before, after)]
    sides = [_phases(path, rows) for path, (rows, _) in zip((before, after), read, strict=True)]
    several = any(side["device"].nunique() > 1 for side in sides)
    run = ["workload", "seed", *(["device"] if several else [])]
    ended = [side[side["outcome"] == "ok"] for side in sides]
    first, second = (_keys(side, run) for side in ended)
    if not first & second:
        raise ProfilerError(f"{before} and {after} have no workload in common")
    joined = ended[0].merge(ended[1], on=[*run, *_PHASE], how="inner", suffixes=("_before", "_after"))
    found = [_run_change(_name(key), rows) for key, rows in joined.groupby(run, sort=False)]
    changed = [change for change in found if change.phases]
    failed = [_keys(side[side["outcome"] == "out_of_memory"], run) for side in sides]
    return RecordsDifference(
        runs=tuple(sorted(changed, key=lambda change: (-abs(change.peak.difference_bytes), change.workload))),
        paired=len(found),
        only_before=_names(first - second),
        only_after=_names(second - first),
        out_of_memory_before=_names(failed[0] - failed[1]),
        out_of_memory_after=_names(failed[1] - failed[0]),
        problems=tuple(dict.fromkeys(problem for _, problems in read for problem in problems)),
    )


def _keys(rows: pd.DataFrame, run: list[str]) -> set[tuple[Any, ...]]:
    return set(map(tuple, rows[run].astype(object).to_numpy()))


def _name(key: Sequence[Any]) -> str:
    workload, _seed, *device = key
    return ", ".join([workload, *device])


def _names(keys: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    return tuple(sorted({_name(key) for key in keys}))


def _phases(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """One row a phase of each workload's last run, by the better of its sources."""
    rows = last_of_each_workload(
        last_of_each_run(rows[rows["source"].isin(_SOURCES) & (rows["outcome"] != "skipped")])
    )
    if rows.empty:
        raise ProfilerError(f"{path} holds no run that was measured, virtual or simulated")
    run = ["workload", "seed", "device"]
    rows = rows.assign(order=rows["source"].map(_SOURCES.index))
    rows = rows[rows["order"] == rows.groupby(run)["order"].transform("min")]
    return rows.drop_duplicates([*run, *_PHASE])


def _run_change(workload: str, rows: pd.DataFrame) -> RunChange:
    names = [str(Phase(*key)) for key in rows[["step", "phase", "micro_batch"]].itertuples(index=False)]
    before, after = (
        rows[f"peak_allocated_bytes_{side}"].astype(int).tolist() for side in ("before", "after")
    )
    phases = changes(dict(zip(names, before, strict=True)), dict(zip(names, after, strict=True)))
    parts = [
        _categories(rows.iloc[max(range(len(peaks)), key=peaks.__getitem__)], side)
        for side, peaks in (("before", before), ("after", after))
    ]
    return RunChange(
        workload,
        Change("peak", max(before), max(after)),
        tuple(change for change in phases if change.difference_bytes),
        changes(*parts),
    )


def _categories(row: pd.Series, side: str) -> Mapping[str, int]:
    import pandas as pd

    sizes = {category: row[f"peak_{category}_bytes_{side}"] for category in CATEGORIES}
    return {category: int(size) for category, size in sizes.items() if not pd.isna(size) and size}
