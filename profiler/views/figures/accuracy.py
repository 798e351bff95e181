"""How far predictions lie from recordings: runs around the identity line, and differences along each axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from profiler.units import format_bytes
from profiler.views.figures import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOKS = (("textbook", style.RED, "x"), ("formula", style.ORANGE, "^"), ("simulation", style.BLUE, "o"))
_RUN_PEAK = "run peak allocated"
# The axes of profiler.reference.accuracy, in two columns of about the same height.
_COLUMNS = (("model", "optimizer", "precision", "batch"), ("technique", "length"))
_ROW_INCHES = 0.27


def peaks_of_runs(differences: pd.DataFrame, device_name: str) -> Figure:
    """The peak of every run, allocated and reserved, measured across and predicted upwards.

    Args:
        differences: table of profiler.reference.accuracy.differences.
        device_name: for the title.
    """
    import matplotlib.pyplot as plt

    quantities = [q for q in (_RUN_PEAK, "run peak reserved") if q in set(differences["quantity"])]
    figure, panels = plt.subplots(1, len(quantities), figsize=(7 * len(quantities), 8.4), squeeze=False)
    for axes, quantity in zip(panels[0], quantities, strict=True):
        chosen = differences[differences["quantity"] == quantity]
        for source, colour, marker in _LOOKS:
            points = chosen[chosen["source"] == source]
            if points.empty:
                continue
            exact = (points["difference_bytes"] == 0).sum()
            axes.scatter(
                points["truth_bytes"].astype(float),
                points["predicted_bytes"].astype(float),
                color=colour,
                marker=marker,
                alpha=0.75,
                label=f"{source}: median error {points['difference_percent'].abs().median():.2f} %, "
                f"exact in {exact} of {len(points)}",
            )
        axes.set_title(quantity.removeprefix("run ") + " of each run", fontsize=13)
        axes.set_xlabel("measured")
        axes.set_ylabel("predicted")
        _logarithmic(axes, chosen[["truth_bytes", "predicted_bytes"]].astype(float))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=11)
    _headline(figure, f"{differences['run_key'].nunique()} runs on {device_name}, measured and predicted")
    return figure


def _logarithmic(axes: Axes, bytes_: pd.DataFrame) -> None:
    """Both directions from the smallest to the largest, with powers of two for ticks, and the identity."""
    low, high = bytes_.to_numpy().min() / 1.5, bytes_.to_numpy().max() * 1.5
    ticks = [tick for tick in (4**power for power in range(10, 21)) if low <= tick <= high]
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [format_bytes(tick).replace(".00", "") for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.plot([low, high], [low, high], color=style.MUTED, linewidth=1, zorder=0)


def differences_by_axis(differences: pd.DataFrame, source: str) -> Figure:
    """The error of every run's peak by one source, along each axis; right of zero is over-prediction.

    Args:
        differences: table of profiler.reference.accuracy.differences.
        source: whose differences.
    """
    import matplotlib.pyplot as plt

    chosen = differences[(differences["source"] == source) & (differences["quantity"] == _RUN_PEAK)]
    values = {axis: sorted(chosen[axis].unique(), reverse=True) for column in _COLUMNS for axis in column}
    rows = max(sum(len(values[axis]) + 3 for axis in column) for column in _COLUMNS)
    figure = plt.figure(figsize=(15, 1.6 + _ROW_INCHES * rows))
    reach = 1.1 * max(1.0, chosen["difference_percent"].abs().max()) if len(chosen) else 1.0
    parts: Any = figure.subfigures(1, 2)
    for part, column in zip(parts, _COLUMNS, strict=True):
        heights = [len(values[axis]) + 1 for axis in column]
        panels = part.subplots(len(column), 1, gridspec_kw={"height_ratios": heights}, squeeze=False)
        for axes, axis in zip(panels[:, 0], column, strict=True):
            _strip(axes, chosen, axis, values[axis])
            axes.set_xlim(-reach, reach)
        panels[-1, 0].set_xlabel("predicted − measured (% of measured)")
    _headline(figure, _finding(chosen, source))
    figure.supxlabel(
        "A dot is a run, grey of a tiny model: on a GPU mostly cuBLAS's workspaces. A bar is a median.",
        x=0.01,
        ha="left",
        fontsize=11,
        color=style.MUTED,
    )
    return figure


def _finding(chosen: pd.DataFrame, source: str) -> str:
    """How many peaks are exact, and between which differences the others lie."""
    words = f"The {source}'s peaks of {len(chosen)} runs"
    missed = chosen.loc[chosen["difference_bytes"] != 0, "difference_percent"]
    if missed.empty:
        return f"{words}: all exact"
    return (
        f"{words}: {len(chosen) - len(missed)} exact, the others {missed.min():+.2f} to {missed.max():+.2f} %"
    )


def _strip(axes: Axes, chosen: pd.DataFrame, axis: str, values: list[object]) -> None:
    """One row a value: a dot for each run, a bar at the median."""
    for row, value in enumerate(values):
        runs = chosen[chosen[axis] == value]
        for tiny, colour in ((True, style.MUTED), (False, style.BLUE)):
            percent = runs.loc[runs["model"].str.endswith("-tiny") == tiny, "difference_percent"]
            axes.scatter(percent, [row] * len(percent), color=colour, alpha=0.6, s=22)
        larger = runs[~runs["model"].str.endswith("-tiny")]
        median = (runs if larger.empty else larger)["difference_percent"].median()
        axes.vlines(median, row - 0.35, row + 0.35, color=style.INK, linewidth=2)
    axes.axvline(0, color=style.MUTED, linewidth=1)
    axes.set_yticks(range(len(values)), [str(value) for value in values])
    axes.set_ylim(-0.7, len(values) - 0.3)
    axes.tick_params(labelsize=9)
    axes.set_title(axis, fontsize=12, pad=6)


def _headline(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=15, fontweight="bold")
