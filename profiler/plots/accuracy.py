"""How far predictions lie from recordings: runs around the identity line, and errors along each axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.plots import style
from profiler.reference.accuracy import AXES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_LOOKS = (("textbook", style.RED, "x"), ("formula", style.ORANGE, "^"), ("simulation", style.BLUE, "o"))
_RUN_PEAK = "run peak allocated"


def measured_against_predicted(errors: pd.DataFrame, device_name: str) -> Figure:
    """The peak of every run, allocated and reserved, measured across and predicted upwards.

    Args:
        errors: table of profiler.reference.accuracy.errors.
        device_name: for the caption.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(14, 6.8))
    for axes, quantity in zip(panels, (_RUN_PEAK, "run peak reserved"), strict=True):
        chosen = errors[errors["quantity"] == quantity]
        for source, colour, marker in _LOOKS:
            points = chosen[chosen["source"] == source]
            if points.empty:
                continue
            axes.scatter(
                points["measured_bytes"].astype(float) / style.MIB,
                points["predicted_bytes"].astype(float) / style.MIB,
                color=colour,
                marker=marker,
                alpha=0.75,
                label=f"{source}: median error {points['error_percent'].abs().median():.2f} %",
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.axline((1, 1), (10, 10), color=style.MUTED, linewidth=1, zorder=0)
        axes.set_xlabel("measured (MiB)")
        axes.set_ylabel("predicted (MiB)")
        axes.set_title(quantity, fontsize=13)
        if not chosen.empty:
            axes.legend(loc="upper left")
    figure.suptitle(f"Peaks of {errors['run_key'].nunique()} runs on {device_name}", x=0.01, ha="left")
    return figure


def errors_by_axis(errors: pd.DataFrame, source: str) -> Figure:
    """The error of every run's peak by one source, along each axis; above zero is over-prediction.

    Args:
        errors: table of profiler.reference.accuracy.errors.
        source: whose errors.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(16, 9), sharey=True)
    chosen = errors[(errors["source"] == source) & (errors["quantity"] == _RUN_PEAK)]
    for axes, axis in zip(panels.flat, AXES, strict=True):
        values = sorted(chosen[axis].unique())
        for position, value in enumerate(values):
            percent = chosen.loc[chosen[axis] == value, "error_percent"]
            axes.scatter([position] * len(percent), percent, color=style.BLUE, alpha=0.5, s=24)
            axes.hlines(percent.median(), position - 0.3, position + 0.3, color=style.INK, linewidth=2)
        axes.axhline(0, color=style.MUTED, linewidth=1)
        axes.set_xticks(range(len(values)), [str(value) for value in values], rotation=60, ha="right")
        axes.tick_params(axis="x", labelsize=9)
        axes.set_title(axis, fontsize=13)
    for axes in panels[:, 0]:
        axes.set_ylabel("predicted − measured (%)")
    figure.suptitle(f"Error of the {source}'s peak, run by run; bars are medians", x=0.01, ha="left")
    return figure
