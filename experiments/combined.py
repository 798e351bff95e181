"""The techniques one on top of the other, on BERT-large."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "How far does the peak come down as the techniques are added one by one?"

_TOTAL_BATCH = 4
_BERT = Workload("bert-large", _TOTAL_BATCH, 512)
_LLAMA = Workload("llama-1b", _TOTAL_BATCH, 1024)


def workloads(size: str, device_type: str) -> list[Workload]:
    """BERT-large with sequences of 512, and on a GPU Llama of 1B beside it; a tiny BERT in small.

    BERT-large takes up to 12 GiB and a minute a run; Llama, more than a CPU should be asked for.
    """
    if size == "small":
        return stack(Workload("bert-tiny", _TOTAL_BATCH, 128))
    return stack(_BERT) + (stack(_LLAMA) if device_type == "cuda" else [])


def simulated_workloads(size: str) -> list[Workload]:
    """Both large models in small, too: a simulation needs a few seconds and little memory."""
    return stack(_LLAMA) + (stack(_BERT) if size == "small" else [])


def stack(baseline: Workload) -> list[Workload]:
    """The baseline, and after it each technique added to those before; 8-bit Adam and Adafactor both last."""
    accumulated = replace(baseline, batch=1, micro_batches=baseline.batch)
    checkpointed = replace(accumulated, checkpointing="every_layer")
    mixed = replace(checkpointed, precision="amp_bf16")
    last = [replace(mixed, optimizer=optimizer) for optimizer in ("adamw8bit", "adafactor")]
    return [baseline, accumulated, checkpointed, mixed, *last]


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """The peaks as a waterfall, a figure a model."""
    from profiler.views.figures.waterfall import waterfall

    return {str(model): waterfall(rows) for model, rows in records.groupby("model", sort=False)}
