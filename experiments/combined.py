"""The techniques one on top of the other, on BERT-large."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from profiler.views.figures import style
from profiler.views.figures.panels import View, of_the_first, views
from profiler.views.figures.peaks import PHASE_WORDS, peak_rows, stacked_peaks
from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = "How far does the peak come down as the techniques are added one by one?"

_TOTAL_BATCH = 4
_BERT = Workload("bert-large", _TOTAL_BATCH, 512)
_LLAMA = Workload("llama-1b", _TOTAL_BATCH, 1024)


def workloads(size: str, device: str) -> list[Workload]:
    """BERT-large with sequences of 512, and on a GPU Llama of 1B beside it; a tiny BERT in small.

    BERT-large takes up to 12 GiB and a minute a run; Llama, more than a CPU should be asked for. A
    simulation needs a few seconds and little memory: both large models in small, too.
    """
    if size == "full":
        return stack(_BERT) + (stack(_LLAMA) if device != "cpu" else [])
    tiny = stack(Workload("bert-tiny", _TOTAL_BATCH, 128))
    return tiny + (stack(_BERT) + stack(_LLAMA) if device == "absent" else [])


def stack(baseline: Workload) -> list[Workload]:
    """The baseline, and after it each technique added to those before; 8-bit Adam and Adafactor both last."""
    accumulated = replace(baseline, batch=1, micro_batches=baseline.batch)
    checkpointed = replace(accumulated, checkpointing="every_layer")
    mixed = replace(checkpointed, precision="amp_bf16")
    last = [replace(mixed, optimizer=optimizer) for optimizer in ("adamw8bit", "adafactor")]
    return [baseline, accumulated, checkpointed, mixed, *last]


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """The peaks as a waterfall, a figure a model."""
    return {str(model): waterfall(rows) for model, rows in records.groupby("model", sort=False)}


_OPTIMIZER_WORDS = {"adamw8bit": "8-bit\nAdamW", "adafactor": "\nAdafactor", "adam": "Adam"}


def waterfall(records: pd.DataFrame) -> Figure:
    """One bar a run in the order in which they ran: the peak by category, its phase, and the change.

    Args:
        records: runs of one model, each with one technique more than the one before; a panel a device. Runs
            that change only the optimizer at the end are each compared with the last before.
    """
    import matplotlib.pyplot as plt

    shown = views(records)
    figure, panels = plt.subplots(1, len(shown), figsize=(3 + 8 * len(shown), 7.2), squeeze=False)
    findings = [_draw(axes, view) for axes, view in zip(panels.flat, shown, strict=True)]
    row = shown[0].truth.iloc[0]
    total = row["batch"] * row["micro_batches"]
    style.headline(
        figure,
        f"{row['model']}, one technique on the other: {findings[0]}{of_the_first(shown)}",
        f"{style.model_words(row)}, {total} samples of {row['length']} tokens a step; "
        "each bar adds to the one before, and names the phase of its peak",
    )
    style.shared_legend(figure, panels.flat)
    return figure


def _draw(axes: Axes, view: View) -> str:
    """One panel; returns in words how far the peak comes down."""
    truth, formula = peak_rows(view.truth), peak_rows(view.by("formula"))
    factor, unit = stacked_peaks(axes, view, _steps(truth))
    peaks = [float(v) / factor for v in truth["peak_allocated_bytes"]]
    levels = [float(v) / factor for v in formula["peak_allocated_bytes"]]
    base = None  # the bar with which the next is compared, once there is one that fits
    for place, (run_key, peak, phase) in enumerate(zip(truth["run_key"], peaks, truth["phase"], strict=True)):
        if run_key in view.out_of_memory:
            words = f"out of memory\nin {PHASE_WORDS[view.out_of_memory[run_key]]}"
        else:
            change = f"{100 * (peak / peaks[base] - 1):+.0f} %\n" if base is not None else ""
            words = f"{change}in {PHASE_WORDS[phase]}"
            base = place if base is None or _is_technique(truth, place) else base
        above = max(peak, levels[place]) + 0.012 * max(peaks)
        axes.text(place, above, words, ha="center", va="bottom", fontsize=12, linespacing=1.1)
    axes.set_ylim(0, 1.17 * max(*peaks, *levels))
    low = min(range(len(peaks)), key=peaks.__getitem__)
    finding = f"{peaks[0]:.3g} {unit} become {peaks[low]:.3g}, {100 * (1 - peaks[low] / peaks[0]):.0f} % less"
    if truth["run_key"].iloc[0] in view.out_of_memory:
        finding = f"what did not fit takes {peaks[low]:.3g} {unit}"
    axes.set_title(f"{view.words}: {finding}", fontsize=13)
    return finding


def _is_technique(truth: pd.DataFrame, place: int) -> bool:
    """Whether the next bars build on this one: swaps of the optimizer are alternatives to each other."""
    return str(truth["optimizer"].iloc[place]) == str(truth["optimizer"].iloc[0])


def _steps(truth: pd.DataFrame) -> list[str]:
    """What each run adds to the one before."""
    rows = list(truth.itertuples())
    words = [f"{_OPTIMIZER_WORDS.get(rows[0].optimizer, rows[0].optimizer)}\nfp32"]
    for before, row in pairwise(rows):
        if row.micro_batches != before.micro_batches:
            words.append(f"+ {row.micro_batches} micro-\nbatches")
        elif row.checkpointing != before.checkpointing:
            words.append("+ check-\npointing")
        elif row.precision != before.precision:
            words.append("+ autocast\nbf16")
        else:
            joined = "or" if before.optimizer != rows[0].optimizer else "+"
            words.append(
                f"{joined} {_OPTIMIZER_WORDS.get(row.optimizer, row.optimizer)}".replace(" \n", "\n")
            )
    return words
