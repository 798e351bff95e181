"""The peak as techniques are added one by one."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from profiler.plots import style
from profiler.plots.peaks import PHASE_WORDS, peak_rows, stacked_peaks
from profiler.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_OPTIMIZER_WORDS = {"adamw8bit": "8-bit AdamW", "adafactor": "Adafactor", "adam": "Adam"}


def waterfall(records: pd.DataFrame) -> Figure:
    """One bar a run in the order in which they ran: the peak by category, its phase, and the change.

    Args:
        records: runs of one model, each with one technique more than the one before, sources measured and
            formula. Runs that change only the optimizer at the end are each compared with the last before.
    """
    import matplotlib.pyplot as plt

    measured, formula = peak_rows(records, "measured"), peak_rows(records, "formula")
    figure, axes = plt.subplots(figsize=(11, 7))
    factor, _ = stacked_peaks(axes, measured, formula, _steps(measured))
    peaks = [float(v) / factor for v in measured["peak_allocated_bytes"]]
    base = 0
    for place, (peak, phase) in enumerate(zip(peaks, measured["phase"], strict=True)):
        words = f"in {PHASE_WORDS[phase]}"
        if place:
            words = f"{100 * (peak / peaks[base] - 1):+.0f} %\n{words}"
            axes.hlines(peaks[base], base + 0.31, place + 0.31, color=style.MUTED, linewidth=1, linestyle=":")
        axes.text(place, peak, words, ha="center", va="bottom", fontsize=12, linespacing=1.1)
        if _is_technique(measured, place):
            base = place
    axes.set_ylim(0, 1.17 * max(peaks))
    low = int(min(range(len(peaks)), key=peaks.__getitem__))
    first = format_bytes(int(measured["peak_allocated_bytes"].iloc[0]))
    last = format_bytes(int(measured["peak_allocated_bytes"].iloc[low]))
    axes.set_title(f"{first} become {last}: {100 * (1 - peaks[low] / peaks[0]):.0f} % less", pad=34)
    row = measured.iloc[0]
    axes.text(
        0,
        1.015,
        f"{row['model']}, {row['batch']} samples of {row['length']} tokens a step, "
        f"measured on {row['device']}; the phase is that of the peak",
        transform=axes.transAxes,
        color=style.MUTED,
        fontsize=11,
    )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=4)
    return figure


def _is_technique(measured: pd.DataFrame, place: int) -> bool:
    """Whether the next bars build on this one: swaps of the optimizer are alternatives to each other."""
    return str(measured["optimizer"].iloc[place]) == str(measured["optimizer"].iloc[0])


def _steps(measured: pd.DataFrame) -> list[str]:
    """What each run adds to the one before."""
    rows = list(measured.itertuples())
    words = [f"{_OPTIMIZER_WORDS.get(rows[0].optimizer, rows[0].optimizer)}\nfp32"]
    for before, row in pairwise(rows):
        if row.micro_batches != before.micro_batches:
            words.append(f"+ {row.micro_batches} micro-\nbatches")
        elif row.checkpointing != before.checkpointing:
            words.append("+ check-\npointing")
        elif row.precision != before.precision:
            words.append("+ autocast\nbf16")
        else:
            joined = "or" if before.optimizer != rows[0].optimizer else "+"
            words.append(
                f"{joined} {_OPTIMIZER_WORDS.get(row.optimizer, row.optimizer)}".replace(" ", "\n", 1)
            )
    return words
