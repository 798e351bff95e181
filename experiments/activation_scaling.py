"""Activations against batch size and sequence length, with and without fused attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from profiler.formula.closed_form import bert_activation_bytes
from profiler.units import format_bytes
from profiler.views.figures import style
from profiler.views.figures.panels import View, views
from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = "How do activations grow with the batch and with the sequence, and what does fused attention save?"

_BATCHES = (1, 2, 4, 8, 16, 32)
_LENGTHS = (64, 128, 256, 512, 1024)


def workloads(size: str, device: str) -> list[Workload]:
    """Sweeps of the batch (BERT, ResNet) and of the sequence (Llama, eager and fused attention)."""
    batches = [
        Workload(model, batch, 64, optimizer="sgd", attention=attention, steps=1)
        for model, attention in (
            ("bert-tiny", "eager"),
            ("resnet-tiny", "sdpa"),
        )  # a ResNet has none to choose
        for batch in (_BATCHES if size == "full" else _BATCHES[:3])
    ]
    lengths = [
        Workload("llama-tiny", 1, length, optimizer="sgd", attention=attention, steps=1)
        for attention in ("eager", "sdpa")
        for length in (_LENGTHS if size == "full" else _LENGTHS[:3])
    ]
    return batches + lengths


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """One picture a sweep."""

    def bert(batch: int) -> int:
        return bert_activation_bytes(batch, 64, hidden=64, heads=4, layers=2, vocabulary=1000)

    forward = records[records["phase"] == "forward"]
    return {
        "batch": batch_sweep(
            forward[forward["model"].isin(["bert-tiny", "resnet-tiny"])], {"bert-tiny": bert}
        ),
        "sequence_length": length_sweep(forward[forward["model"] == "llama-tiny"]),
    }


_CLOSED = "closed form (Korthikanti et al. 2022, and both ends)"
_ALIKE = 1.05  # a ratio of activations below which two curves are one


def batch_sweep(forward: pd.DataFrame, closed_forms: Mapping[str, Callable[[int], int]]) -> Figure:
    """Activations against the batch: a row of panels a device, one a model.

    Args:
        forward: rows of the forward phase.
        closed_forms: activation bytes by batch on the CPU, for the models that have a closed form.
    """
    import matplotlib.pyplot as plt

    shown, models = views(forward), list(dict.fromkeys(forward["model"]))
    figure, grid = plt.subplots(
        len(shown), len(models), figsize=(7 * len(models), 1.4 + 4.6 * len(shown)), squeeze=False
    )
    for panels, view in zip(grid, shown, strict=True):
        for axes, model in zip(panels, models, strict=True):
            rows = view.records[view.records["model"] == model]
            factor = _sweep(axes, view, rows, "batch", style.BLUE)
            if model in closed_forms and view.on_cpu:
                batches = sorted({int(batch) for batch in rows["batch"]})
                sizes = [closed_forms[model](batch) / factor for batch in batches]
                line, *_ = axes.plot(batches, sizes, color=style.ORANGE, zorder=1, label=_CLOSED)
                line.set(linewidth=6, alpha=0.45)
            axes.set_title(f"{model}, {view.words}: {_per_sample(view, model)} a sample", fontsize=13)
            axes.set_xlabel("batch (samples)")
            axes.legend(loc="upper left")
    style.headline(figure, "Activations grow in proportion to the batch")
    return figure


def length_sweep(forward: pd.DataFrame) -> Figure:
    """Activations against the sequence length, eager attention and sdpa in one panel, a panel a device.

    Args:
        forward: rows of the forward phase.
    """
    import matplotlib.pyplot as plt

    shown = views(forward)
    figure, panels = plt.subplots(1, len(shown), figsize=(2 + 6 * len(shown), 6), squeeze=False)
    ratios = []
    for axes, view in zip(panels.flat, shown, strict=True):
        rows = view.records
        for attention, colour, name in (
            ("eager", style.RED, "eager attention"),
            ("sdpa", style.GREEN, "sdpa"),
        ):
            _sweep(axes, view, rows, "length", colour, attention, name)
        longest = view.truth["length"].max()
        at_longest = view.truth[view.truth["length"] == longest].set_index("attention")["activations_bytes"]
        ratios.append(float(at_longest["eager"]) / float(at_longest["sdpa"]))
        axes.set_title(f"{view.words}: {ratios[-1]:.1f}× at {longest} tokens", fontsize=13)
        axes.set_xlabel("sequence length (tokens)")
        axes.legend(loc="upper left")
    first = shown[0].truth.iloc[0]
    # Without a fused kernel for the inputs (fp32 with grouped queries on CUDA) sdpa computes as eager does.
    unfused = ", and so does sdpa where no kernel fuses it" if min(ratios) < _ALIKE else ""
    style.headline(
        figure,
        f"Eager attention keeps the score matrix{unfused}: up to {max(ratios):.1f}× the activations",
        f"{style.model_words(first)}, batch {first['batch']}",
    )
    return figure


def _sweep(
    axes: Axes,
    view: View,
    rows: pd.DataFrame,
    dimension: str,
    colour: str,
    attention: str = "",
    name: str = "",
) -> float:
    """Draw one curve, that of `attention` only if given; returns the bytes in a unit of the y axis."""
    factor, unit = style.byte_unit(float(rows["activations_bytes"].max()))
    chosen = rows[rows["attention"] == attention] if attention else rows
    formula, truth = (
        chosen[chosen["source"] == source].sort_values(dimension) for source in ("formula", view.source)
    )
    prefix = f"{name}: " if name else ""
    axes.plot(
        formula[dimension].astype(float),
        formula["activations_bytes"].astype(float) / factor,
        color=colour,
        linewidth=2,
        label=f"{prefix}formula",
    )
    axes.plot(
        truth[dimension].astype(float),
        truth["activations_bytes"].astype(float) / factor,
        linestyle="none",
        marker="o",
        markersize=8,
        markerfacecolor="white",
        markeredgewidth=2,
        color=colour,
        label=prefix + view.known,
    )
    axes.set_ylabel(f"activations after forward ({unit})")
    axes.set_xticks([float(value) for value in truth[dimension]])
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    return factor


def _per_sample(view: View, model: str) -> str:
    """Bytes that one more sample costs, from the two ends of the sweep."""
    ends = view.truth[view.truth["model"] == model].sort_values("batch").iloc[[0, -1]]
    batches, sizes = list(ends["batch"]), list(ends["activations_bytes"])
    return format_bytes(round((sizes[1] - sizes[0]) / (batches[1] - batches[0])))
