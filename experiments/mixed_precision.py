"""Number formats: what is kept in 16 bits and what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiler.workload import PRECISIONS, Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "What does mixed precision halve, and when does it use more memory?"


def workloads(size: str) -> list[Workload]:
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
    from profiler.views.figures.precision import precision_layouts

    return {"layouts": precision_layouts(records)}
