"""Number formats: what is kept in 16 bits and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.views.figures import style
from profiler.views.figures.panels import View, of_the_first, views
from profiler.views.figures.phases import CATEGORY_COLOURS
from profiler.workload import PRECISIONS, Workload

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = "What does mixed precision halve, and when does it use more memory?"


def workloads(size: str, device: str) -> list[Workload]:
    """Every precision with few and with many tokens, all with Adam."""
    if size == "full":
        shapes = (("gpt2", 1, 16, 4), ("gpt2", 4, 128, 4))
    else:
        shapes = (("gpt2-tiny", 1, 16, 0), ("gpt2-tiny", 8, 64, 0))
    return [
        Workload(model, batch, length, precision=precision, layers=layers)
        for model, batch, length, layers in shapes
        for precision in PRECISIONS
    ]


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """Bytes a parameter, and activations with few and with many tokens."""
    return {"layouts": precision_layouts(records)}


_WORDS = {
    "fp32": "fp32",
    "amp_bf16": "autocast\nbf16",
    "amp_fp16": "autocast\nfp16",
    "bf16": "pure\nbf16",
    "fp16_master": "fp16 +\nmaster",
}


def precision_layouts(records: pd.DataFrame) -> Figure:
    """Bytes a parameter after a step (left), allocated after the forward pass with few and many tokens.

    Args:
        records: runs of one model in every precision and two batch sizes; a row of panels a device.
    """
    import matplotlib.pyplot as plt

    shown = views(records[records["step"] == records["step"].max()])
    sizes = sorted(set(records["batch"] * records["length"]))
    figure, grid = plt.subplots(
        len(shown), 1 + len(sizes), figsize=(15, 1.6 + 4.8 * len(shown)), squeeze=False
    )
    changes = [_row(panels, view, sizes) for panels, view in zip(grid, shown, strict=True)]
    row = shown[0].truth.iloc[0]
    style.headline(
        figure,
        f"Autocast halves no weight. After the forward pass: {', '.join(changes[0])}{of_the_first(shown)}",
        f"{style.model_words(row)}, Adam; the changes are autocast bf16's against fp32",
    )
    style.shared_legend(figure, grid.flat)
    return figure


def _row(panels: np.ndarray, view: View, sizes: list[int]) -> list[str]:
    """One device's panels; returns how autocast changes what is allocated, for each amount of tokens."""
    tokens = view.records["batch"] * view.records["length"]
    stepped = view.records[(view.records["phase"] == "optimizer_step") & (tokens == sizes[0])]
    _stacks(panels[0], view, stepped, ("parameters", "gradients", "optimizer_states"), _elements(view))
    panels[0].set_ylabel("bytes a parameter")
    panels[0].set_title(f"{view.words}: after a step", fontsize=13)
    changes = []
    for axes, size in zip(panels[1:], sizes, strict=True):
        rows = view.records[(view.records["phase"] == "forward") & (tokens == size)]
        factor, unit = style.byte_unit(float(rows["allocated_bytes"].max()))
        _stacks(axes, view, rows, ("parameters", "optimizer_states", "activations", "workspaces"), factor)
        axes.set_ylabel(f"allocated ({unit})")
        level = rows[rows["source"] == view.source].set_index("precision")["allocated_bytes"].astype(float)
        changes.append(f"{100 * (level['amp_bf16'] / level['fp32'] - 1):+.0f} % at {size:,} tokens")
        axes.set_title(f"after the forward pass: {changes[-1]}", fontsize=13)
    return changes


def _elements(view: View) -> float:
    return float(view.truth.query("precision == 'fp32'")["parameters_bytes"].iloc[0]) / 4


def _stacks(axes: Axes, view: View, rows: pd.DataFrame, categories: tuple[str, ...], factor: float) -> None:
    truth = rows[rows["source"] == view.source].set_index("precision")
    formula = rows[rows["source"] == "formula"].set_index("precision")
    names = [name for name in _WORDS if name in truth.index]
    bottom = [0.0] * len(names)
    for category in categories:
        heights = [float(truth[f"{category}_bytes"][name]) / factor for name in names]
        if any(heights):
            label, colour = category.replace("_", " "), CATEGORY_COLOURS[category]
            axes.bar(range(len(names)), heights, 0.66, bottom=bottom, color=colour, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for place, total in enumerate(bottom):
        axes.text(place, 1.005 * total, f"{total:.3g}", ha="center", va="bottom", fontsize=12)
    predicted = formula[[f"{category}_bytes" for category in categories]].sum(axis=1).astype(float)
    levels = [predicted[name] / factor for name in names]
    starts, ends = [p - 0.4 for p in range(len(names))], [p + 0.4 for p in range(len(names))]
    axes.hlines(levels, starts, ends, color=style.INK, linewidth=2.2, label="formula")
    axes.set_xticks(range(len(names)), [_WORDS[name] for name in names], fontsize=11)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 1.1 * max(bottom))
