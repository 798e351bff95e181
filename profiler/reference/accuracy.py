"""Predictions minus recordings: their spread along each axis.

A difference is predicted minus truth: positive is over-prediction, which wastes memory; negative is
under-prediction, which runs out of it. Percentages are of the truth, what was
recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# Quantity -> the column of profiler.records.table that holds it, for each phase.
QUANTITIES = {
    "allocated": "allocated_bytes",
    "peak allocated": "peak_allocated_bytes",
    "reserved": "reserved_bytes",
    "peak reserved": "peak_reserved_bytes",
}
# Quantities of a whole run: the most over its phases.
RUN_QUANTITIES = {"run peak allocated": "peak_allocated_bytes", "run peak reserved": "peak_reserved_bytes"}
AXES = ("model", "optimizer", "precision", "technique", "batch", "length")


def differences(measured: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """Each quantity of each phase, and of each whole run, that was both measured in full and predicted.

    Args:
        measured: rows of profiler.records.table, source "measured".
        predicted: rows of any other sources.

    Returns:
        Columns run_key, workload, the AXES, phase_index, step, phase, micro_batch (phase "run" and index -1
        for a whole run), source, quantity, truth_bytes, predicted_bytes, difference_bytes and
        difference_percent.
    """
    import pandas as pd

    phase = ["phase_index", "step", "phase", "micro_batch"]
    good = measured[measured["outcome"] == "ok"].copy()
    good["technique"] = _technique(good)
    runs = _ended(good, measured).assign(phase_index=-1, step=0, phase="run", micro_batch=0)
    tables = []
    for source, all_rows in predicted.groupby("source"):
        rows = all_rows[all_rows["outcome"] == "ok"]
        for quantity, column in QUANTITIES.items():
            other = rows.set_index(["run_key", "phase_index"])[column]
            tables.append(_joined(good, other, [*phase, *AXES], source, quantity, column))
        for quantity, column in RUN_QUANTITIES.items():
            key = ["run_key", *phase, "workload", *AXES]
            most = runs.groupby(key, as_index=False, dropna=False, sort=False)[column].max()
            other = _ended(rows, all_rows).groupby("run_key")[column].max()
            other.index = pd.MultiIndex.from_product([other.index, [-1]], names=["run_key", "phase_index"])
            tables.append(_joined(most, other, [*phase, *AXES], source, quantity, column))
    found = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if found.empty:
        return found
    found["difference_bytes"] = found["predicted_bytes"] - found["truth_bytes"]
    share = found["difference_bytes"].astype(float) / found["truth_bytes"].astype(float)
    found["difference_percent"] = (100 * share).where(found["difference_bytes"] != 0, 0.0)
    return found


def _ended(good: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Of the phases that went well, those of runs that came to their end; others have no peak."""
    return good[~good["run_key"].isin(rows.loc[rows["outcome"] != "ok", "run_key"])]


def _joined(
    measured: pd.DataFrame, other: pd.Series, keep: list[str], source: object, quantity: str, column: str
) -> pd.DataFrame:
    table = measured[["run_key", "workload", *keep, column]].rename(columns={column: "truth_bytes"})
    matched = other.rename("predicted_bytes")
    joined = table.join(matched, on=["run_key", "phase_index"]).dropna(
        subset=["truth_bytes", "predicted_bytes"]
    )
    return joined.assign(source=source, quantity=quantity)


def _technique(rows: pd.DataFrame) -> pd.Series:
    """What a run does beside plain training, in words; "plain" for nothing."""

    def words(row: pd.Series) -> str:
        found = []
        if row["checkpointing"] != "none":
            found.append(f"checkpointing {row['checkpointing']}")
        if row["micro_batches"] > 1:
            found.append("accumulation")
        if row["attention"] != "sdpa":
            found.append(f"{row['attention']} attention")
        if row["memory_format"] != "contiguous_format":
            found.append(str(row["memory_format"]))
        found += [word for word in str(row["workload"]).split(", ") if word.endswith(" kernel")]
        if row["optimizer_implementation"] != "default":
            found.append(str(row["optimizer_implementation"]))
        if row["allocator_settings"]:
            found.append(str(row["allocator_settings"]))
        return ", ".join(found) or "plain"

    return rows.apply(words, axis=1) if len(rows) else rows["workload"]


def spread(found: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Differences in percent over groups: count, exact, min, median, max; over- and under-predictions apart.

    Columns beside `by`: count, exact (to the byte), min, median, max (signed), median_size (without
    its sign), over and under (how many), worst_over, worst_under (0 where there is none).
    """
    groups = found.groupby(by, sort=False, dropna=False)["difference_percent"]
    percent = found["difference_percent"]
    signs = found.assign(
        exact=found["difference_bytes"] == 0,
        over=found["difference_bytes"] > 0,
        under=found["difference_bytes"] < 0,
        size=percent.abs(),
        worst_over=percent.clip(lower=0),
        worst_under=percent.clip(upper=0),
    ).groupby(by, sort=False, dropna=False)
    table = groups.agg(["count", "min", "median", "max"])
    table["median_size"] = signs["size"].median()
    for name in ("exact", "over", "under"):
        table[name] = signs[name].sum()
    table["worst_over"], table["worst_under"] = signs["worst_over"].max(), signs["worst_under"].min()
    return table.reset_index()
