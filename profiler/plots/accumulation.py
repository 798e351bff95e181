"""The peak against the number of micro-batches that share one optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.plots import style
from profiler.plots.peaks import PHASE_WORDS, peak_rows, stacked_peaks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def accumulation(records: pd.DataFrame) -> Figure:
    """Peak by category, one bar a number of micro-batches of the same total batch, and the formula's peak.

    Args:
        records: runs of one model that differ in batch and micro_batches, sources measured and formula.
    """
    import matplotlib.pyplot as plt

    measured = peak_rows(records, "measured").sort_values("micro_batches").reset_index(drop=True)
    formula = peak_rows(records, "formula").sort_values("micro_batches").reset_index(drop=True)
    figure, axes = plt.subplots(figsize=(10, 6.6))
    labels = [
        f"{row.micro_batches} × {row.batch}\npeak: {PHASE_WORDS[str(row.phase)]}"
        for row in measured.itertuples()
    ]
    stacked_peaks(axes, measured, formula, labels)
    axes.set_xlabel("micro-batches × samples in each")
    first, last = measured.iloc[0], measured.iloc[-1]
    saved = 100 * (1 - float(last["peak_allocated_bytes"]) / float(first["peak_allocated_bytes"]))
    forward = records[(records["source"] == "measured") & (records["phase"] == "forward")]
    kept = forward.groupby("micro_batches")["activations_bytes"].max()
    factor = float(kept.loc[first["micro_batches"]]) / float(kept.loc[last["micro_batches"]])
    axes.set_title(
        f"{last['micro_batches']} micro-batches: activations {factor:.1f}× smaller,\n"
        f"peak {abs(saved):.0f} % {'lower' if saved >= 0 else 'higher'}",
        pad=30,
    )
    total = int(first["batch"]) * int(first["micro_batches"])
    axes.text(
        0,
        1.015,
        f"{first['model']}, {total} samples of {first['length']} tokens a step, {first['optimizer']}, fp32",
        transform=axes.transAxes,
        color=style.MUTED,
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3)
    return figure
