"""One large batch against micro-batches of the same total."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.views.figures import style
from profiler.views.figures.panels import of_the_first, views
from profiler.views.figures.peaks import PHASE_WORDS, peak_rows, stacked_peaks
from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "What does gradient accumulation save, and what does it keep?"

_MICRO_BATCHES = (1, 2, 4, 8, 16)


def workloads(size: str, device: str) -> list[Workload]:
    """A total batch of 16 in 1 to 16 micro-batches; in full size also with GPT-2's width."""
    tiny = [Workload("gpt2-tiny", 16 // k, 64, micro_batches=k) for k in _MICRO_BATCHES]
    if size == "small":
        return tiny
    return tiny + [Workload("gpt2", 16 // k, 128, micro_batches=k, layers=4) for k in _MICRO_BATCHES]


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """The composition of the peak against the number of micro-batches, a figure a model."""
    return {str(model): accumulation(rows) for model, rows in records.groupby("model", sort=False)}


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
        f"the peak {_change(savings[0])}{of_the_first(shown)}",
        f"{style.model_words(first)}, {total} samples of {first['length']} tokens a step, "
        f"{first['optimizer']}, fp32",
    )
    style.shared_legend(figure, panels.flat)
    return figure


def _change(saved_percent: float) -> str:
    return f"{abs(saved_percent):.0f} % {'lower' if saved_percent >= 0 else 'higher'}"
