"""Where the bytes are, phase by phase: categories as bars, the levels of the formulas drawn on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from profiler.records.comparison import compare, set_aside, silent_categories
from profiler.trace.ledger import CATEGORIES
from profiler.views.figures import style
from profiler.views.figures.panels import View, views

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
    """One workload's phases: bytes at the end of each by category, its peak, and both formulas.

    Args:
        run: the records of one workload, a panel a device.
    """
    import matplotlib.pyplot as plt

    shown = views(run)
    figure, panels = plt.subplots(len(shown), 1, figsize=(13, 2.2 + 4.6 * len(shown)), squeeze=False)
    for axes, view in zip(panels.flat, shown, strict=True):
        unit = _draw(axes, view)
        axes.set_title(view.words + _dominated(view), fontsize=14)
        axes.set_ylabel(f"allocated ({unit})")
    row = shown[0].truth.iloc[0]
    style.headline(figure, _finding(*shown), f"{row['workload']}, {row['precision']}")
    style.shared_legend(figure, panels.flat)
    return figure


def phase_grid(view: View) -> Figure:
    """The phases of many runs on one device, one panel a workload."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(view.records["workload"]))
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(15, 4.2 * rows), squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        run = replace(view, records=view.records[view.records["workload"] == name])
        unit = _draw(axes, run, small=True)
        axes.set_title(name + _dominated(run), fontsize=13)
        axes.set_ylabel(f"allocated ({unit})")
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    style.headline(figure, _finding(view), view.words)
    style.shared_legend(figure, grid.flat)
    return figure


def _draw(axes: Axes, run: View, small: bool = False) -> str:
    """Draw the bars and levels of one run; returns the unit of the axis."""
    truth = run.truth.sort_values("phase_index")
    textbook, formula = (run.by(source).sort_values("phase_index") for source in ("textbook", "formula"))
    top = max(truth["peak_allocated_bytes"].max(), textbook["allocated_bytes"].max())
    factor, unit = style.byte_unit(float(top))
    places = range(len(truth))
    bottom = [0.0] * len(truth)
    for category in CATEGORIES:
        heights = [float(v) / factor for v in truth[f"{category}_bytes"].fillna(0)]
        if max(heights) * factor >= 0.001 * float(top):
            name = category.replace("_", " ")
            axes.bar(places, heights, 0.72, bottom=bottom, color=CATEGORY_COLOURS[category], label=name)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    peaks = [float(v) / factor for v in truth["peak_allocated_bytes"]]
    # A phase that allocates nothing (zero_grad) starts at its peak; the bar before shows that already.
    extra = [
        max(0.0, peak - low) if isinstance(op, str) else 0.0
        for peak, low, op in zip(peaks, bottom, truth["detail"], strict=True)
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
    axes.set_xticks(list(places), [_SHORT[name] for name in truth["phase"]], fontsize=9 if small else 12)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, float(top) / factor * 1.06)
    _mark_steps(axes, truth)
    return unit


def _levels(axes: Axes, predicted: pd.DataFrame, factor: float, half_width: float, **look: Any) -> None:
    levels = [float(v) / factor for v in predicted["allocated_bytes"]]
    starts = [place - half_width for place in range(len(levels))]
    ends = [place + half_width for place in range(len(levels))]
    axes.hlines(levels, starts, ends, zorder=5, **look)


def _mark_steps(axes: Axes, truth: pd.DataFrame) -> None:
    """A thin line where a training step begins."""
    steps = list(truth["step"])
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


def _dominated(view: View) -> str:
    """Words for a panel whose peak is mostly workspaces: of a small model they hide what the formula says."""
    highest = view.truth.loc[view.truth["peak_allocated_bytes"].astype(float).idxmax()]
    share = 100 * float(highest["peak_workspaces_bytes"] or 0) / float(highest["peak_allocated_bytes"])
    return f": {share:.0f} % of the peak are cuBLAS workspaces" if share > 50 else ""


def _finding(*shown: View) -> str:
    """What the figure shows, in one sentence that holds for every panel of it."""
    import pandas as pd

    exact = pd.concat([compare(view.records, truth=view.source) for view in shown])
    silent = silent_categories(pd.concat([view.records for view in shown]), "formula")
    left, _ = set_aside(exact, silent)
    share = (left == 0).mean()
    excess = []
    for view in shown:
        textbook = view.by("textbook").groupby("run_key")["allocated_bytes"].max().astype(float)
        peaks = view.truth.groupby("run_key")["peak_allocated_bytes"].max().astype(float)
        excess += list(100 * (textbook / peaks - 1).dropna())
    level = "Every phase level is" if share == 1 else f"{100 * share:.0f} % of the phase levels are"
    beside = " beside workspaces and rounding" if exact["difference_bytes"].any() and share else ""
    if len({round(one) for one in excess}) == 1:
        tail = f"the textbook is {abs(excess[0]):.0f} % {'above' if excess[0] > 0 else 'below'} the peak"
    else:
        tail = f"the textbook is off by {min(excess):+.0f} to {max(excess):+.0f} % of the peak"
    return f"{level} predicted to the byte{beside}; {tail}"
