"""Activation checkpointing against the depth of the model."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING

from profiler.views.figures import style
from profiler.views.figures.panels import View, views
from profiler.workload import CHECKPOINTING, Workload

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = "What does recomputing activations save as models get deeper, and what does it cost in time?"

_DEPTHS = (4, 9, 16, 25, 36, 49, 64)


def workloads(size: str, device: str) -> list[Workload]:
    """A narrow BERT with eager attention, 4 to 64 layers (16 in small), under each kind of checkpoint."""
    depths = _DEPTHS if size == "full" else (_DEPTHS[0], _DEPTHS[2])
    return [
        Workload("bert-tiny", 4, 128, "sgd", "eager", checkpointing=checkpointing, layers=layers)
        for layers in depths
        for checkpointing in CHECKPOINTING
    ]


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """Kept activations, activations at the peak, and time, against the depth."""
    return {"depth": depth_sweep(records)}


_LOOKS = {
    "none": (style.RED, "o"),
    "selective": (style.ORANGE, "D"),
    "every_layer": (style.BLUE, "s"),
    "sqrt": (style.GREEN, "^"),
}


def depth_sweep(records: pd.DataFrame) -> Figure:
    """Kept activations (left), activations at the backward pass's peak (middle), seconds of a step (right).

    Args:
        records: runs of one model that differ in layers and checkpointing; a row of panels a device.
    """
    import matplotlib.pyplot as plt

    shown = views(records)
    figure, grid = plt.subplots(len(shown), 3, figsize=(15, 1.6 + 4.4 * len(shown)), squeeze=False)
    for panels, view in zip(grid, shown, strict=True):
        _row(panels, view)
    row = shown[0].truth.iloc[0]
    style.headline(
        figure,
        _finding(shown),
        f"{row['model']}, batch {row['batch']} × {row['length']} tokens, {row['attention']} attention",
    )
    style.shared_legend(figure, grid.flat)
    return figure


def _row(panels: np.ndarray, view: View) -> None:
    kept, peak, time = panels
    forward, backward = (view.records[view.records["phase"] == name] for name in ("forward", "backward"))
    _lines(kept, view, forward, forward["activations_bytes"].astype(float))
    resting = ("parameters", "optimizer_states", "gradients", "inputs", "workspaces", "rounding")
    at_rest = backward[[f"peak_{category}_bytes" for category in resting]].fillna(0).sum(axis=1)
    _lines(peak, view, backward, (backward["peak_allocated_bytes"] - at_rest).astype(float))
    kept.set_title("kept after the forward pass", fontsize=13)
    peak.set_title("at the backward pass's peak", fontsize=13)
    if view.known == "measured":
        seconds = _seconds(view)
        for name, (colour, marker) in _LOOKS.items():
            line = seconds.loc[name].sort_index()
            time.plot(line.index.astype(float), line, color=colour, marker=marker, markersize=7, linewidth=2)
        time.set_ylabel("seconds a step")
        time.set_title(f"shorter of two timings: √L {_more_time(seconds):+.0f} % at the deepest", fontsize=13)
    else:
        time.set_axis_off()  # kernels did not run
    kept.set_ylabel(f"{view.words}\n{kept.get_ylabel()}")
    for axes in panels:
        axes.set_xlabel("layers")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.set_xticks([float(depth) for depth in sorted(set(view.records["layers"]))])


def _seconds(view: View) -> pd.Series:
    """Seconds of the shorter step, by checkpointing and layers.

    Plain SGD does the same in both: what the longer one took more is a process's first use of things, or
    another process.
    """
    timed = view.truth[view.truth["step"] > 0]
    steps = timed.groupby(["checkpointing", "layers", "step"])["seconds"].sum().astype(float)
    return steps.groupby(["checkpointing", "layers"]).min()


def _lines(axes: Axes, view: View, rows: pd.DataFrame, values: pd.Series) -> None:
    factor, unit = style.byte_unit(float(values.max()))
    for name, (colour, marker) in _LOOKS.items():
        for source in ("formula", view.source):
            chosen = rows[(rows["checkpointing"] == name) & (rows["source"] == source)]
            line = values.loc[chosen.index].groupby(chosen["layers"]).max() / factor
            look = {"linewidth": 2} if source == "formula" else {"linestyle": "none", "marker": marker}
            label = name.replace("_", " ") if source == view.source else None
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


def _more_time(seconds: pd.Series) -> float:
    """Percent that √L segments take more than none, in the deepest model."""
    deepest = max(layers for _, layers in seconds.index)
    return float(100 * (seconds["sqrt", deepest] / seconds["none", deepest] - 1))


def _finding(shown: Sequence[View]) -> str:
    """With which exponents kept activations grow, and the saving in the deepest model, on every device."""
    found = [_growth(view) for view in shown]
    none, root = (_range([growth[place] for growth in found], ".2f") for place in (0, 1))
    less, deepest = _range([growth[2] for growth in found], ".0f"), max(shown[0].records["layers"])
    return (
        f"Kept activations grow as L^{none} without checkpoints, as L^{root} with √L segments:\n"
        f"{less}× less at {deepest} layers"
    )


def _range(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def _growth(view: View) -> tuple[float, float, float]:
    """The exponents of all layers' activations without and with √L segments, and how many times less."""
    forward = view.truth.query("phase == 'forward'")
    table = forward.groupby(["checkpointing", "layers"])["activations_bytes"].max().astype(float)
    depths = sorted(set(forward["layers"]))
    before, deepest = depths[-2], depths[-1]

    def slope(name: str) -> float:
        """Bytes that one more layer adds, between the two deepest models."""
        return (table[name, deepest] - table[name, before]) / (deepest - before)

    constant = table["none", deepest] - deepest * slope("none")  # what is there without any layer

    def growth(name: str) -> float:
        ratio = (table[name, deepest] - constant) / (table[name, depths[0]] - constant)
        return log(ratio) / log(float(deepest) / float(depths[0]))

    return growth("none"), growth("sqrt"), table["none", deepest] / table["sqrt", deepest]
