"""Choosing rows among recorded ones: of several recordings the last, and those without an end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.trace.phase import Phase

if TYPE_CHECKING:
    import pandas as pd

_PHASE = ["run_key", "source", "phase_index"]


def last_of_each_run(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last recording, where a run was recorded more than once.

    Each of its phases once, also where two processes recorded it in the same second.
    """
    last = records.groupby(["run_key", "source"])["recorded_at"].transform("max")
    return records[records["recorded_at"] == last].drop_duplicates(_PHASE, keep="last")


def recorded_twice(records: pd.DataFrame) -> list[str]:
    """A line if phases of a run were recorded twice in the same second, as by two processes at once."""
    rows = records[records.duplicated([*_PHASE, "recorded_at"], keep="last")]
    if rows.empty:
        return []
    runs = rows["run_key"].nunique()
    return [f"{len(rows)} rows of {runs} runs are recorded twice; of each the last is taken"]


def last_of_each_workload(records: pd.DataFrame) -> pd.DataFrame:
    """Of a workload's runs under several names (see runner.run_key), the rows of the last on each device."""
    in_order = records.sort_values("recorded_at", kind="stable")
    last = in_order.groupby(["workload", "seed", "device"])["run_key"].transform("last")
    return records[records["run_key"] == last.loc[records.index]]


def without_end(records: pd.DataFrame) -> list[str]:
    """A line for each run that ran out of memory, or that could not be simulated."""
    lines = []
    for row in records[records["outcome"] != "ok"].itertuples():
        how = f"{row.workload}, {row.source} on {row.device}"
        if row.outcome == "out_of_memory":
            lines.append(f"out of memory: {how}, in {Phase(row.step, row.phase, row.micro_batch)}")
        else:
            lines.append(f"{row.outcome}: {how}: {row.detail}")
    return lines
