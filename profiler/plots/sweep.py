"""Activations over a swept dimension: measured points on the curve of a formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from profiler.plots import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_CLOSED = "closed form (Korthikanti et al. 2022, and both ends)"


def batch_sweep(forward: pd.DataFrame, closed_forms: Mapping[str, Callable[[int], int]]) -> Figure:
    """Activations against the batch, one panel a model, with the straight line through the origin.

    Args:
        forward: rows of the forward phase, with the sources measured and formula.
        closed_forms: activation bytes by batch, for the models that have a closed form.
    """
    import matplotlib.pyplot as plt

    models = list(dict.fromkeys(forward["model"]))
    figure, panels = plt.subplots(1, len(models), figsize=(7 * len(models), 5.6), squeeze=False)
    for axes, model in zip(panels.flat, models, strict=True):
        rows = forward[forward["model"] == model]
        _sweep(axes, rows, "batch", style.BLUE)
        if model in closed_forms:
            batches = sorted({int(batch) for batch in rows["batch"]})
            factor, _ = style.byte_unit(float(rows["activations_bytes"].max()))
            sizes = [closed_forms[model](batch) / factor for batch in batches]
            axes.plot(batches, sizes, color=style.ORANGE, linewidth=6, alpha=0.45, zorder=1, label=_CLOSED)
        axes.set_title(model, fontsize=13)
        axes.set_xlabel("batch (samples)")
        axes.legend(loc="upper left")
    figure.suptitle(
        f"Activations grow in proportion to the batch: {_per_sample(forward)}",
        x=0.01,
        ha="left",
        fontsize=15,
        fontweight="bold",
    )
    return figure


def length_sweep(forward: pd.DataFrame) -> Figure:
    """Activations against the sequence length, eager and fused attention in one panel.

    Args:
        forward: rows of the forward phase, with the sources measured and formula.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 6.2))
    for attention, colour, name in (
        ("eager", style.RED, "eager attention"),
        ("sdpa", style.GREEN, "fused attention"),
    ):
        _sweep(axes, forward[forward["attention"] == attention], "length", colour, name)
    measured = forward[forward["source"] == "measured"]
    longest = measured["length"].max()
    at_longest = measured[measured["length"] == longest].set_index("attention")["activations_bytes"]
    ratio = float(at_longest["eager"]) / float(at_longest["sdpa"])
    axes.set_title(
        f"Eager attention keeps the score matrix: {ratio:.1f}× the activations at {longest} tokens"
    )
    axes.set_xlabel("sequence length (tokens)")
    axes.legend(loc="upper left")
    return figure


def _sweep(axes: Axes, rows: pd.DataFrame, dimension: str, colour: str, name: str = "") -> None:
    measured = rows[rows["source"] == "measured"].sort_values(dimension)
    formula = rows[rows["source"] == "formula"].sort_values(dimension)
    factor, unit = style.byte_unit(float(rows["activations_bytes"].max()))
    axes.plot(
        formula[dimension].astype(float),
        formula["activations_bytes"].astype(float) / factor,
        color=colour,
        linewidth=2,
        label=f"{name}: formula" if name else "formula (autograd graph)",
    )
    axes.plot(
        measured[dimension].astype(float),
        measured["activations_bytes"].astype(float) / factor,
        linestyle="none",
        marker="o",
        markersize=8,
        markerfacecolor="white",
        markeredgewidth=2,
        color=colour,
        label=f"{name}: measured" if name else "measured",
    )
    axes.set_ylabel(f"activations after forward ({unit})")
    axes.set_xticks([float(value) for value in measured[dimension]])
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)


def _per_sample(forward: pd.DataFrame) -> str:
    """Bytes that one more sample costs, by model, from the two ends of the sweep."""
    words = []
    for model, rows in forward[forward["source"] == "measured"].groupby("model", sort=False):
        ends = rows.sort_values("batch").iloc[[0, -1]]
        batches, sizes = list(ends["batch"]), list(ends["activations_bytes"])
        slope = (sizes[1] - sizes[0]) / (batches[1] - batches[0])
        words.append(f"{slope / style.MIB:.2f} MiB a sample ({model})")
    return ", ".join(words)
