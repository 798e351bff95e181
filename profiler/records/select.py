"""Choosing rows among recorded ones: of several recordings the last; those without an end; what gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.device import SIMULATED, VIRTUAL
from profiler.trace.phase import Phase

if TYPE_CHECKING:
    import pandas as pd

_PHASE = ["run_key", "source", "phase_index"]


def how_known(records: pd.DataFrame) -> pd.Series[str]:
    """What gave each row: "measured", "virtual", "simulated"; of a formula its source.

    The sources "measured" and "simulation" are the run where the workload was sent and the run beside it. A
    virtual GPU, which its name says, is either: the program's own (`profiler run --virtual`), with a
    simulation beside it, or the one beside the CPU, alone under its run key.
    """
    virtual = records["device_name"].str.startswith("virtual ").fillna(False).astype(bool)
    measured = records["source"] == "measured"
    simulated = records["source"] == "simulation"
    beside = records["run_key"].isin(records.loc[measured, "run_key"])
    words = records["source"].astype(str).mask(simulated, SIMULATED)
    return words.mask(virtual & (measured | (simulated & ~beside)), VIRTUAL)


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
    records = records.assign(known=how_known(records))
    for row in records[records["outcome"] != "ok"].itertuples():
        how = f"{row.workload}, {row.known} on {row.device}"
        if row.outcome == "out_of_memory":
            lines.append(f"out of memory: {how}, in {Phase(row.step, row.phase, row.micro_batch)}")
        else:
            lines.append(f"{row.outcome}: {how}: {row.detail}")
    return lines
