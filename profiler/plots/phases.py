"""Where the bytes are, phase by phase: measured categories as bars, the predicted levels drawn on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.ledger import CATEGORIES
from profiler.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CATEGORY_COLOURS = {
    "parameters": style.BLUE,
    "gradients": style.ORANGE,
    "optimizer_states": style.GREEN,
    "activations": style.SKY,
    "inputs": style.PINK,
    "temporaries": style.YELLOW,
    "workspaces": "#7f6bb3",
    "rounding": "#c9c9c9",
    "unattributed": "#444444",
}
_SHORT = {
    "model_loaded": "model\nloaded",
    "forward": "forward",
    "backward": "backward",
    "optimizer_step": "optimizer\nstep",
    "zero_grad": "zero\ngrad",
}


def phase_bars(run: pd.DataFrame) -> Figure:
    """One run's phases: bytes at the end of each by category, its peak, and both formulas.

    Args:
        run: the records of one run, all its sources.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(12, 6.6))
    measured = _phases(run, "measured")
    unit = _draw(axes, run, measured)
    axes.set_title(_finding(run), pad=34)
    axes.text(
        0,
        1.015,
        f"{measured['workload'].iloc[0]}, fp32, measured on {_device(measured)}",
        transform=axes.transAxes,
        color=style.MUTED,
        fontsize=12,
    )
    axes.set_ylabel(f"allocated ({unit})")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=4)
    return figure


def phase_grid(records: pd.DataFrame) -> Figure:
    """The phases of many runs, one panel a workload.

    Args:
        records: the records of several runs, all their sources.
    """
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(records["workload"]))
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(15, 4.2 * rows), squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        run = records[records["workload"] == name]
        unit = _draw(axes, run, _phases(run, "measured"), small=True)
        axes.set_title(name, fontsize=13)
        axes.set_ylabel(f"allocated ({unit})")
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    figure.suptitle(_finding(records), x=0.01, ha="left", fontsize=17, fontweight="bold")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def _draw(axes: Axes, run: pd.DataFrame, measured: pd.DataFrame, small: bool = False) -> str:
    """Draw the bars and levels of one run; returns the unit of the axis."""
    textbook, formula = _phases(run, "textbook"), _phases(run, "formula")
    top = max(measured["peak_allocated_bytes"].max(), textbook["allocated_bytes"].max())
    factor, unit = style.byte_unit(float(top))
    places = range(len(measured))
    bottom = [0.0] * len(measured)
    for category in CATEGORIES:
        heights = [float(v) / factor for v in measured[f"{category}_bytes"]]
        if max(heights) * factor >= 0.001 * float(top):
            name = category.replace("_", " ")
            axes.bar(places, heights, 0.72, bottom=bottom, color=CATEGORY_COLOURS[category], label=name)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    peaks = [float(v) / factor for v in measured["peak_allocated_bytes"]]
    # A phase that allocates nothing (zero_grad) starts at its peak; the bar before shows that already.
    extra = [
        max(0.0, peak - low) if isinstance(op, str) else 0.0
        for peak, low, op in zip(peaks, bottom, measured["detail"], strict=True)
    ]
    axes.bar(
        places,
        extra,
        0.72,
        bottom=bottom,
        color="none",
        edgecolor="#9a9a9a",
        linewidth=0.8,
        hatch="////",
        label="peak inside the phase",
    )
    _levels(axes, formula, factor, 0.42, color=style.INK, linewidth=2.4, label="formula, per phase")
    _levels(
        axes,
        textbook,
        factor,
        0.5,
        color=style.RED,
        linewidth=1.8,
        linestyle=(0, (4, 2)),
        label="textbook 4·(k·P + A)",
    )
    axes.set_xticks(list(places), [_SHORT[name] for name in measured["phase"]], fontsize=9 if small else 12)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, float(top) / factor * 1.06)
    _mark_steps(axes, measured)
    return unit


def _levels(axes: Axes, predicted: pd.DataFrame, factor: float, half_width: float, **look: Any) -> None:
    levels = [float(v) / factor for v in predicted["allocated_bytes"]]
    starts = [place - half_width for place in range(len(levels))]
    ends = [place + half_width for place in range(len(levels))]
    axes.hlines(levels, starts, ends, zorder=5, **look)


def _mark_steps(axes: Axes, measured: pd.DataFrame) -> None:
    """A thin line where a training step begins."""
    steps = list(measured["step"])
    for place in range(1, len(steps)):
        if steps[place] != steps[place - 1]:
            axes.axvline(place - 0.5, color="#d0d0d0", linewidth=1, zorder=0)
            axes.text(
                place - 0.45,
                0.985,
                f"step {steps[place]}",
                transform=axes.get_xaxis_transform(),
                color=style.MUTED,
                fontsize=10,
                va="top",
            )


def _finding(records: pd.DataFrame) -> str:
    """What the figure shows, in one sentence that holds for these records."""
    from profiler.compare import compare

    exact = compare(records)
    share = (exact["difference_bytes"] == 0).mean()
    textbook = records[records["source"] == "textbook"].groupby("run_key")["allocated_bytes"].max()
    peaks = exact.groupby("run_key")["run_peak_bytes"].first()
    excess = list(100 * (textbook.astype(float) / peaks.astype(float) - 1).dropna())
    level = "Every phase level is" if share == 1 else f"{100 * share:.0f} % of the phase levels are"
    if len(excess) == 1:
        tail = f"the textbook is {abs(excess[0]):.0f} % {'above' if excess[0] > 0 else 'below'} the peak"
    else:
        tail = f"the textbook is off by {min(excess):+.0f} to {max(excess):+.0f} % of the peak"
    return f"{level} predicted to the byte; {tail}"


def _phases(run: pd.DataFrame, source: str) -> pd.DataFrame:
    return run[run["source"] == source].sort_values("phase_index")


def _device(measured: pd.DataFrame) -> str:
    name = str(measured["device_name"].iloc[0])
    return f"CPU ({name})" if measured["device"].iloc[0] == "cpu" else name
