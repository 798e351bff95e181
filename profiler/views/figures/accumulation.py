"""The peak against the number of micro-batches that share one optimizer step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.views.figures import style
from profiler.views.figures.panels import views
from profiler.views.figures.peaks import PHASE_WORDS, peak_rows, stacked_peaks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def accumulation(records: pd.DataFrame) -> Figure:
    """Peak by category, one bar a number of micro-batches of the same total batch, and the formula's peak.

    Args:
        records: runs of one model that differ in batch and micro_batches; a panel a device.
    """
    import matplotlib.pyplot as plt

    shown = views(records.sort_values("micro_batches", kind="stable"))
    figure, panels = plt.subplots(1, len(shown), figsize=(2.5 + 6.5 * len(shown), 6.6), squeeze=False)
    savings = []
    for axes, view in zip(panels.flat, shown, strict=True):
        peaks = peak_rows(view.truth)
        labels = [
            f"{row.micro_batches} × {row.batch}\n{PHASE_WORDS[str(row.phase)]}" for row in peaks.itertuples()
        ]
        stacked_peaks(axes, view, labels)
        first, last = (float(peaks["peak_allocated_bytes"].iloc[place]) for place in (0, -1))
        savings.append(100 * (1 - last / first))
        axes.set_title(f"{view.words}: peak {_change(savings[-1])}", fontsize=13)
        axes.set_xlabel("micro-batches × samples in each, and the phase of the peak")
    first = shown[0].truth.iloc[0]
    kept = shown[0].truth.query("phase == 'forward'").groupby("micro_batches")["activations_bytes"].max()
    total = int(first["batch"]) * int(first["micro_batches"])
    style.headline(
        figure,
        f"{kept.index.max()} micro-batches: activations {kept.iloc[0] / kept.iloc[-1]:.1f}× smaller, "
        f"the peak {_change(savings[0])}",
        f"{style.model_words(first)}, {total} samples of {first['length']} tokens a step, "
        f"{first['optimizer']}, fp32",
    )
    style.shared_legend(figure, panels.flat)
    return figure


def _change(saved_percent: float) -> str:
    return f"{abs(saved_percent):.0f} % {'lower' if saved_percent >= 0 else 'higher'}"
