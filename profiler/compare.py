"""Measured against predicted: one row a phase, with the difference and where it lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.ledger import CATEGORIES

if TYPE_CHECKING:
    import pandas as pd

_PHASE = ["run_key", "phase_index"]


def compare(records: pd.DataFrame, source: str = "formula") -> pd.DataFrame:
    """Join each measured phase with what `source` predicts for it.

    Args:
        records: rows of profiler.records.
        source: which predictor to hold against the measurement.

    Returns:
        One row for each phase that was both measured in full and predicted, with the columns workload,
        model, optimizer, seed, step, phase, micro_batch, device and

        - measured_bytes, predicted_bytes, difference_bytes: allocated at the end of the phase
        - measured_peak_bytes, predicted_peak_bytes, peak_difference_bytes: at its peak
        - run_peak_bytes: the most that the whole run had allocated
        - difference_percent, peak_difference_percent: of run_peak_bytes
        - <category>_difference_bytes: measured minus predicted at the end of the phase; their sum is
          difference_bytes
    """
    measured = records[(records["source"] == "measured") & (records["outcome"] == "ok")]
    predicted = records[records["source"] == source]
    joined = measured.merge(predicted, on=_PHASE, suffixes=("", "_predicted"), validate="one_to_one")
    out = joined[
        [*_PHASE, "workload", "model", "optimizer", "seed", "device", "step", "phase", "micro_batch"]
    ].copy()
    for prefix, column in (("", "allocated_bytes"), ("peak_", "peak_allocated_bytes")):
        out[f"measured_{prefix}bytes"] = joined[column]
        out[f"predicted_{prefix}bytes"] = joined[f"{column}_predicted"]
        out[f"{prefix}difference_bytes"] = joined[column] - joined[f"{column}_predicted"]
    out["run_peak_bytes"] = out.groupby("run_key")["measured_peak_bytes"].transform("max")
    for prefix in ("", "peak_"):
        share = out[f"{prefix}difference_bytes"].astype(float) / out["run_peak_bytes"].astype(float)
        out[f"{prefix}difference_percent"] = 100 * share
    for category in CATEGORIES:
        column = f"{category}_bytes"
        difference = joined[column].fillna(0) - joined[f"{column}_predicted"].fillna(0)
        out[f"{category}_difference_bytes"] = difference
    return out


def latest(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of each run's last recording, where a run was recorded more than once."""
    last = records.groupby(["run_key", "source"])["recorded_at"].transform("max")
    return records[records["recorded_at"] == last]
