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


def workloads(size: str, device_type: str) -> list[Workload]:
    """BERT-large with sequences of 512, and Llama of 1B beside it, on a GPU; a tiny BERT in small.

    On a CPU such a step takes minutes in fp32, so there BERT-large has 4 of its 24 layers and sequences of
    256: weights and activations come down together, and which of them decides the peak stays the same.
    """
    if size == "small":
        return stack(Workload("bert-tiny", _TOTAL_BATCH, 128))
    if device_type == "cpu":
        return stack(Workload("bert-large", _TOTAL_BATCH, 256, layers=4))
    return stack(Workload("bert-large", _TOTAL_BATCH, 512)) + stack(Workload("llama-1b", _TOTAL_BATCH, 1024))


def stack(baseline: Workload) -> list[Workload]:
    """The baseline, and after it each technique added to those before; 8-bit Adam and Adafactor both last."""
    accumulated = replace(baseline, batch=1, micro_batches=baseline.batch)
    checkpointed = replace(accumulated, checkpointing="every_layer")
    mixed = replace(checkpointed, precision="amp_bf16")
    last = [replace(mixed, optimizer=optimizer) for optimizer in ("adamw8bit", "adafactor")]
    return [baseline, accumulated, checkpointed, mixed, *last]


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """The peaks as a waterfall, a figure a model."""
    from profiler.plots.waterfall import waterfall

    return {str(model): waterfall(rows) for model, rows in records.groupby("model", sort=False)}
