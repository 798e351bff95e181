"""Predicted against the truth: one row a phase, with predicted minus truth, and where the difference lies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from profiler.records.select import how_known
from profiler.trace.ledger import CATEGORIES

if TYPE_CHECKING:
    import pandas as pd

_SHARED = ["workload", "model", "optimizer", "seed", "device", "step", "phase", "micro_batch"]
_QUANTITIES = {"": "allocated_bytes", "peak_": "peak_allocated_bytes"}


def compare(
    records: pd.DataFrame, source: str = "formula", truth: str = "measured", across_devices: bool = False
) -> pd.DataFrame:
    """Join each phase of `truth` with what `source` predicts for it.

    Args:
        records: rows of profiler.records.table.
        source: which predictor to hold against the truth.
        truth: measured, or simulation, which is the truth where nothing was measured.
        across_devices: join runs of the same workload on different devices, as one measured on a CPU and
            simulated on a GPU, in place of those of the same run.

    Returns:
        One row for each phase that both have in full, with the columns run_key, phase_index, workload, model,
        optimizer, seed, device (the truth's), step, phase, micro_batch and

        - truth_bytes, predicted_bytes, difference_bytes: allocated at the phase's end
        - truth_peak_bytes, predicted_peak_bytes, peak_difference_bytes: at its peak
        - run_peak_bytes: the most that the whole run had allocated, in truth
        - difference_percent, peak_difference_percent: of truth_bytes, of truth_peak_bytes
        - <category>_difference_bytes, peak_<category>_difference_bytes: their sums are difference_bytes and
          peak_difference_bytes

        - predicted_device: that of the prediction
        - truth_known, predicted_known: how either is known (profiler.records.select.how_known)

        Every difference is predicted minus truth: positive where more was predicted than there was.
    """
    ok = records[(records["outcome"] == "ok") & records["allocated_bytes"].notna()]
    ok = ok.assign(workload_key=ok["run_key"].str.split("-").str[0], known=how_known(ok))
    true, predicted = ok[ok["source"] == truth], ok[ok["source"] == source]
    if across_devices:
        joined = true.merge(
            predicted,
            on=["workload_key", "phase_index"],
            suffixes=("", "_predicted"),
            validate="many_to_many",
        )
        joined = joined[joined["device"] != joined["device_predicted"]]
    else:
        joined = true.merge(
            predicted, on=["run_key", "phase_index"], suffixes=("", "_predicted"), validate="one_to_one"
        )
    out = joined[["run_key", "phase_index", *_SHARED]].copy()
    for prefix, column in _QUANTITIES.items():
        out[f"truth_{prefix}bytes"] = joined[column]
        out[f"predicted_{prefix}bytes"] = joined[f"{column}_predicted"]
        out[f"{prefix}difference_bytes"] = joined[f"{column}_predicted"] - joined[column]
    out["run_peak_bytes"] = out.groupby("run_key")["truth_peak_bytes"].transform("max")
    for prefix in _QUANTITIES:
        share = out[f"{prefix}difference_bytes"].astype(float) / out[f"truth_{prefix}bytes"].astype(float)
        out[f"{prefix}difference_percent"] = 100 * share
        for category in CATEGORIES:
            column = f"{prefix}{category}_bytes"
            difference = joined[f"{column}_predicted"].fillna(0) - joined[column].fillna(0)
            out[f"{prefix}{category}_difference_bytes"] = difference
    return out.assign(
        predicted_device=joined["device_predicted"],
        truth_known=joined["known"],
        predicted_known=joined["known_predicted"],
    )


def silent_categories(records: pd.DataFrame, source: str) -> list[str]:
    """The categories of which a predictor says nothing at any phase: none of its bytes are there."""
    rows = records[records["source"] == source]
    columns = {c: [f"{prefix}{c}_bytes" for prefix in _QUANTITIES] for c in CATEGORIES}
    return [category for category, names in columns.items() if rows[names].isna().all(axis=None)]


def set_aside(compared: pd.DataFrame, silent: Sequence[str]) -> tuple[pd.Series, list[str]]:
    """The differences of `compare`, in bytes, without the `silent` categories; and those of them that differ.

    See `silent_categories`: what a predictor says nothing of is named, not held against it.
    """
    parts = compared[[f"{category}_difference_bytes" for category in silent]]
    named = [category for category in silent if compared[f"{category}_difference_bytes"].any()]
    return compared["difference_bytes"] - parts.sum(axis=1), named


def side_by_side(records: pd.DataFrame) -> pd.DataFrame:
    """Everything that is known of each phase in one row: measured, by formula, by textbook, simulated.

    Returns:
        One row a (workload, device, phase) with the columns workload, seed, device, step, phase, micro_batch,
        then allocated_bytes and peak_allocated_bytes of each source as <source>_bytes and
        <source>_peak_bytes, peak_reserved_bytes of the simulation as simulation_peak_reserved_bytes, its
        engine (virtual or simulated) as simulation_engine, and peak_difference: where the formula's peak
        differs from the measured one (the simulated one, where nothing was measured), and by how many bytes,
        in words.
    """
    import pandas as pd

    key = ["run_key", "phase_index"]
    known = records[records["outcome"] == "ok"]
    known = known.assign(known=how_known(known))
    out = known.drop_duplicates(key)[
        [*key, *(name for name in _SHARED if name not in ("model", "optimizer"))]
    ]
    for source in ("measured", "formula", "textbook", "simulation"):
        rows = known[known["source"] == source].set_index(key)
        columns = {f"{source}_{prefix}bytes": rows[column] for prefix, column in _QUANTITIES.items()}
        if source == "simulation":
            columns["simulation_peak_reserved_bytes"] = rows["peak_reserved_bytes"]
            columns["simulation_engine"] = rows["known"]
        out = out.merge(pd.DataFrame(columns), how="left", left_on=key, right_index=True)
    compared = pd.concat([compare(known, truth=truth) for truth in ("measured", "simulation")])
    compared["peak_difference"] = [
        ", ".join(f"{category} {size_bytes:+,}" for category, size_bytes in parts)
        for parts in peak_differences(compared)
    ]
    compared = compared.drop_duplicates(key)
    out = out.merge(compared[[*key, "peak_difference"]], how="left", on=key)
    return out.drop(columns=key)


def peak_differences(compared: pd.DataFrame) -> list[list[tuple[str, int]]]:
    """For each row of `compare`, where the peaks differ: categories and bytes, the largest first."""
    found = []
    for row in compared.to_dict("records"):
        parts = [(category, int(row[f"peak_{category}_difference_bytes"])) for category in CATEGORIES]
        found.append(sorted((part for part in parts if part[1]), key=lambda part: -abs(part[1])))
    return found
