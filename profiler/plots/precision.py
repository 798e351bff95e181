"""Number formats: what weights, gradients and states take, and what activations take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.plots import style
from profiler.plots.phases import CATEGORY_COLOURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        records: runs of one model in every precision and two batch sizes, sources measured and formula.
    """
    import matplotlib.pyplot as plt

    last = records[records["step"] == records["step"].max()]
    sizes = sorted(set(last["batch"] * last["length"]))
    figure, panels = plt.subplots(1, 1 + len(sizes), figsize=(15, 6.4))
    stepped = last[(last["phase"] == "optimizer_step") & (last["batch"] * last["length"] == sizes[0])]
    elements = _elements(stepped)
    _stacks(panels[0], stepped, ("parameters", "gradients", "optimizer_states"), elements)
    panels[0].set_ylabel("bytes a parameter")
    panels[0].set_title("after a step with Adam", fontsize=13)
    changes = []
    for axes, tokens in zip(panels[1:], sizes, strict=True):
        rows = last[(last["phase"] == "forward") & (last["batch"] * last["length"] == tokens)]
        factor, unit = style.byte_unit(float(rows["allocated_bytes"].max()))
        _stacks(axes, rows, ("parameters", "optimizer_states", "activations"), factor)
        axes.set_ylabel(f"allocated ({unit})")
        axes.set_title(f"after the forward pass, {tokens:,} tokens", fontsize=13)
        level = rows[rows["source"] == "measured"].set_index("precision")["allocated_bytes"].astype(float)
        changes.append(f"{100 * (level['amp_bf16'] / level['fp32'] - 1):+.0f} % at {tokens:,} tokens")
    handles, labels = panels[-1].get_legend_handles_labels()
    first = dict(zip(*panels[0].get_legend_handles_labels()[::-1], strict=True))
    merged = {**first, **dict(zip(labels, handles, strict=True))}
    figure.legend(merged.values(), merged.keys(), loc="outside lower center", ncols=5)
    figure.suptitle(
        f"Autocast halves no weight. After the forward pass: {', '.join(changes)}",
        x=0.01,
        ha="left",
        fontsize=17,
        fontweight="bold",
    )
    return figure


def _elements(rows: pd.DataFrame) -> float:
    fp32 = rows[(rows["precision"] == "fp32") & (rows["source"] == "measured")]
    return float(fp32["parameters_bytes"].iloc[0]) / 4


def _stacks(axes: Axes, rows: pd.DataFrame, categories: tuple[str, ...], factor: float) -> None:
    measured = rows[rows["source"] == "measured"].set_index("precision")
    formula = rows[rows["source"] == "formula"].set_index("precision")
    names = [name for name in _WORDS if name in measured.index]
    bottom = [0.0] * len(names)
    for category in categories:
        heights = [float(measured[f"{category}_bytes"][name]) / factor for name in names]
        label = category.replace("_", " ")
        axes.bar(
            range(len(names)), heights, 0.66, bottom=bottom, color=CATEGORY_COLOURS[category], label=label
        )
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for place, total in enumerate(bottom):
        axes.text(place, total, f"{total:.3g}", ha="center", va="bottom", fontsize=12)
    predicted = formula[[f"{category}_bytes" for category in categories]].sum(axis=1).astype(float)
    levels = [predicted[name] / factor for name in names]
    starts, ends = [p - 0.4 for p in range(len(names))], [p + 0.4 for p in range(len(names))]
    axes.hlines(levels, starts, ends, color=style.INK, linewidth=2.2, label="formula")
    axes.set_xticks(range(len(names)), [_WORDS[name] for name in names], fontsize=11)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(0, 1.1 * max(bottom))
