"""Activations and time against the depth of a model, under each kind of checkpointing."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

from profiler.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LOOKS = {
    "none": (style.RED, "o"),
    "selective": (style.ORANGE, "D"),
    "every_layer": (style.BLUE, "s"),
    "sqrt": (style.GREEN, "^"),
}


def depth_sweep(records: pd.DataFrame) -> Figure:
    """Kept activations (left), activations at the backward pass's peak (middle), seconds a step (right).

    Args:
        records: runs of one model that differ in layers and checkpointing, sources measured and formula.
    """
    import matplotlib.pyplot as plt

    figure, (kept, peak, time) = plt.subplots(1, 3, figsize=(14, 6))
    forward, backward = records[records["phase"] == "forward"], records[records["phase"] == "backward"]
    _lines(kept, forward, forward["activations_bytes"].astype(float))
    resting = (backward["parameters_bytes"] + backward["peak_gradients_bytes"]).astype(float)
    _lines(peak, backward, backward["peak_allocated_bytes"].astype(float) - resting)
    timed = records[(records["source"] == "measured") & (records["step"] == records["step"].max())]
    seconds = timed.groupby(["checkpointing", "layers"])["seconds"].sum().astype(float)
    for name, (colour, marker) in _LOOKS.items():
        line = seconds.loc[name].sort_index()
        time.plot(line.index.astype(float), line, color=colour, marker=marker, markersize=7, linewidth=2)
    time.set_ylabel("seconds a step")
    kept.set_title("kept after the forward pass", fontsize=13)
    peak.set_title("at the backward pass's peak", fontsize=13)
    time.set_title("time", fontsize=13)
    for axes in (kept, peak, time):
        axes.set_xlabel("layers")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    handles, labels = kept.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    figure.suptitle(_finding(forward, seconds), x=0.01, ha="left", fontsize=17, fontweight="bold")
    return figure


def _lines(axes: object, rows: pd.DataFrame, values: pd.Series) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    factor, unit = style.byte_unit(float(values.max()))
    for name, (colour, marker) in _LOOKS.items():
        for source in ("formula", "measured"):
            chosen = rows[(rows["checkpointing"] == name) & (rows["source"] == source)]
            line = values.loc[chosen.index].groupby(chosen["layers"]).max() / factor
            look = {"linewidth": 2} if source == "formula" else {"linestyle": "none", "marker": marker}
            label = name.replace("_", " ") if source == "measured" else None
            axes.plot(
                line.index.astype(float),
                line,
                color=colour,
                markersize=8,
                markerfacecolor="white",
                markeredgewidth=2,
                label=label,
                **look,
            )
    axes.plot([], [], color=style.INK, linewidth=2, label="lines: formula")
    axes.set_ylabel(f"activations ({unit})")


def _finding(forward: pd.DataFrame, seconds: pd.Series) -> str:
    """The exponent with which kept activations grow between the two deepest models, and the saving there."""
    measured = forward[forward["source"] == "measured"]
    table = measured.groupby(["checkpointing", "layers"])["activations_bytes"].max().astype(float)
    depths = sorted(set(measured["layers"]))
    before, deepest = depths[-2], depths[-1]

    def slope(name: str) -> float:
        """Bytes that one more layer adds, between the two deepest models."""
        return (table[name, deepest] - table[name, before]) / (deepest - before)

    constant = table["none", deepest] - deepest * slope("none")  # what is there without any layer

    def growth(name: str) -> float:
        ratio = (table[name, deepest] - constant) / (table[name, depths[0]] - constant)
        return log(ratio) / log(float(deepest) / float(depths[0]))

    extra = 100 * (seconds["sqrt", deepest] / seconds["none", deepest] - 1)
    less = table["none", deepest] / table["sqrt", deepest]
    return (
        f"Kept activations grow as L^{growth('none'):.2f} without checkpoints, "
        f"as L^{growth('sqrt'):.2f} with √L segments:\n{less:.0f}× less at {deepest} layers, "
        f"for {extra:+.0f} % time"
    )
