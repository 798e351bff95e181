"""Measured against predicted, every phase of every run, around the identity line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.records.comparison import compare
from profiler.units import MIB
from profiler.views.figures import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def measured_against_predicted(records: pd.DataFrame) -> Figure:
    """Phase levels (left) and phase peaks (right); bars span the repeats with other seeds.

    Args:
        records: rows of several runs with the sources measured, formula and textbook.
    """
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(14, 6.8))
    exact = compare(records)
    share = (exact["difference_bytes"] == 0).mean()
    style.headline(
        figure,
        f"The per-phase formula has {100 * share:.0f} % of the levels to the byte; a peak is more than a sum",
    )
    for axes, prefix, name in (
        (panels[0], "", "level at the end of a phase"),
        (panels[1], "peak_", "peak in a phase"),
    ):
        for source, colour, marker, size in (
            ("textbook", style.RED, "x", 36),
            ("formula", style.BLUE, "o", 30),
        ):
            points = _with_spread(compare(records, source), prefix)
            axes.errorbar(
                points["predicted"],
                points["measured"],
                yerr=[points["measured"] - points["low"], points["high"] - points["measured"]],
                fmt="none",
                ecolor=colour,
                elinewidth=1,
                capsize=3,
            )
            axes.scatter(
                points["predicted"],
                points["measured"],
                s=size,
                marker=marker,
                color=colour,
                alpha=0.75,
                linewidths=1.2,
                label=source,
            )
        _identity(axes)
        axes.set_title(name, fontsize=13)
        axes.set_xlabel("predicted, allocated (MiB)")
        axes.set_ylabel("measured, allocated (MiB)")
        axes.legend(loc="upper left")
    return figure


def _with_spread(compared: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """One point a (workload, phase): mean, lowest and highest measured over the seeds, in MiB."""
    import pandas as pd

    groups = compared.groupby(["workload", "device", "phase_index"], sort=False)
    measured, predicted = groups[f"truth_{prefix}bytes"], groups[f"predicted_{prefix}bytes"]
    points = {"predicted": predicted.first(), "measured": measured.mean()}
    points |= {"low": measured.min(), "high": measured.max()}
    return pd.DataFrame(points).astype(float) / MIB


def _identity(axes: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot(
        [low, high], [low, high], color=style.MUTED, linewidth=1, zorder=0, label="measured = predicted"
    )
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10, subs=(1, 3)))
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
