"""One large batch against micro-batches of the same total."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "What does gradient accumulation save, and what does it keep?"

_MICRO_BATCHES = (1, 2, 4, 8, 16)


def workloads(size: str) -> list[Workload]:
    """A total batch of 16 in 1 to 16 micro-batches; in full size also with GPT-2's width."""
    tiny = [Workload("gpt2-tiny", 16 // k, 64, micro_batches=k) for k in _MICRO_BATCHES]
    if size == "small":
        return tiny
    return tiny + [Workload("gpt2", 16 // k, 128, micro_batches=k, layers=4) for k in _MICRO_BATCHES]


def figures(records: pd.DataFrame) -> dict[str, Figure]:
    """The composition of the peak against the number of micro-batches, a figure a model."""
    from profiler.views.figures.accumulation import accumulation

    return {str(model): accumulation(rows) for model, rows in records.groupby("model", sort=False)}
