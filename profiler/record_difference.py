"""What changed between two sets of records: runs paired by workload, phases by their place in the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from profiler import records
from profiler.compare import latest
from profiler.difference import Change, changes
from profiler.errors import ProfilerError
from profiler.ledger import CATEGORIES
from profiler.training_step import Phase

if TYPE_CHECKING:
    import pandas as pd

# What happened is compared, not what a formula says of it; measured rather than simulated where both are.
_SOURCES = ("measured", "simulation")
_RUN = ["workload", "seed"]
_PHASE = [*_RUN, "phase_index", "step", "phase", "micro_batch"]


@dataclass(frozen=True)
class RunChange:
    """One workload on both sides: its peak, the phases whose peaks changed, and what the peak was made of."""

    workload: str
    peak: Change
    phases: tuple[Change, ...]
    categories: tuple[Change, ...]


@dataclass(frozen=True)
class RecordsDifference:
    """Runs with a phase whose peak changed, the largest change of the run's peak first, and what has no pair.

    `paired` counts the runs that both sides have.
    """

    runs: tuple[RunChange, ...]
    paired: int
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


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

    Raises ProfilerError where a side has no records, holds several devices, or they have no run in common.
    """
    sides = [_phases(path) for path in (before, after)]
    names = [set(map(tuple, side[_RUN].astype(object).to_numpy())) for side in sides]
    if not names[0] & names[1]:
        raise ProfilerError(f"{before} and {after} have no workload in common")
    joined = sides[0].merge(sides[1], on=_PHASE, how="inner", suffixes=("_before", "_after"))
    found = [_run_change(str(key[0]), rows) for key, rows in joined.groupby(_RUN, sort=False)]
    changed = [run for run in found if run.phases]
    return RecordsDifference(
        runs=tuple(sorted(changed, key=lambda run: (-abs(run.peak.difference_bytes), run.workload))),
        paired=len(found),
        only_before=tuple(sorted({str(name) for name, _ in names[0] - names[1]})),
        only_after=tuple(sorted({str(name) for name, _ in names[1] - names[0]})),
    )


def _phases(path: Path) -> pd.DataFrame:
    """One row a phase of each run's last recording."""
    import pandas as pd

    files = sorted(path.rglob("records.parquet")) if path.is_dir() else [path]
    if not files:
        raise ProfilerError(f"no records.parquet in {path}; `profiler run` makes records")
    rows = pd.concat([records.read(file) for file in files], ignore_index=True)
    rows = latest(rows[rows["source"].isin(_SOURCES) & (rows["outcome"] == "ok")])
    if rows.empty:
        raise ProfilerError(f"{path} holds no measured or simulated run that came to its end")
    devices = rows["device"].unique()
    if len(devices) > 1:
        raise ProfilerError(f"{path} holds {len(devices)} devices ({', '.join(devices)}); name one's folder")
    rows = rows.assign(order=rows["source"].map(_SOURCES.index)).sort_values("order", kind="stable")
    return rows.drop_duplicates(_PHASE)


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
