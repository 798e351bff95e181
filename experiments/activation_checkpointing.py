"""Activation checkpointing against the depth of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.workload import CHECKPOINTING, Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "What does recomputing activations save as models get deeper, and what does it cost in time?"

_DEPTHS = (4, 9, 16, 25, 36, 49, 64)


def workloads(size: str) -> list[Workload]:
    """A narrow BERT with eager attention, 4 to 64 layers (16 in small), under each kind of checkpoint."""
    depths = _DEPTHS if size == "full" else (_DEPTHS[0], _DEPTHS[2])
    return [
        Workload("bert-tiny", 4, 128, "sgd", "eager", checkpointing=checkpointing, layers=layers)
        for layers in depths
        for checkpointing in CHECKPOINTING
    ]


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """Kept activations, activations at the peak, and time, against the depth."""
    from profiler.views.figures.depth import depth_sweep

    return {"depth": depth_sweep(records)}
