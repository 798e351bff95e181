"""What the peak of a run is made of: rows and bars that several figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from profiler.trace.ledger import CATEGORIES
from profiler.views.figures import style
from profiler.views.figures.phases import CATEGORY_COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from profiler.views.figures.panels import View

PHASE_WORDS = {
    "model_loaded": "loading",
    "forward": "forward",
    "backward": "backward",
    "optimizer_step": "step",
    "zero_grad": "zero grad",
}


def peak_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of each run's highest peak (the earliest of equals), in the order of the runs.

    Args:
        rows: of one source.
    """
    order = rows.sort_values(["peak_allocated_bytes", "phase_index"], ascending=[False, True], kind="stable")
    highest = order.drop_duplicates("run_key").set_index("run_key")
    return highest.loc[list(dict.fromkeys(rows["run_key"]))].reset_index()


def stacked_peaks(axes: Axes, view: View, labels: Sequence[str]) -> tuple[float, str]:
    """One bar a run, its peak by category, with the formula's peak as a line across.

    Returns:
        The factor and the name of the unit of the y axis.
    """
    truth, formula = peak_rows(view.truth), peak_rows(view.by("formula"))
    factor, unit = style.byte_unit(float(truth["peak_allocated_bytes"].max()))
    places = range(len(truth))
    bottom = [0.0] * len(truth)
    for category in CATEGORIES:
        heights = [float(v) / factor for v in truth[f"peak_{category}_bytes"].fillna(0)]
        if max(heights) >= 0.002 * max(bottom, default=0) and max(heights) > 0:
            name = category.replace("_", " ")
            axes.bar(places, heights, 0.62, bottom=bottom, color=CATEGORY_COLOURS[category], label=name)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    levels = [float(v) / factor for v in formula["peak_allocated_bytes"]]
    starts, ends = [p - 0.38 for p in places], [p + 0.38 for p in places]
    axes.hlines(levels, starts, ends, color=style.INK, linewidth=2.4, zorder=5, label="formula")
    axes.set_xticks(list(places), list(labels))
    axes.grid(axis="x", visible=False)
    axes.set_ylabel(f"peak allocated ({unit})")
    return factor, unit
