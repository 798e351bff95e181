"""Data parallelism: what it adds to one GPU, and what ZeRO's first stage takes away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.ranks.measure import LASTING_BYTES, PARAMETERS, compared, measure_each
from profiler.formula.sharding import ddp_terms, zero_redundancy_elements, zero_terms
from profiler.formula.terms import total_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "What does data parallelism add to each GPU, and does it depend on how many there are?"

_RANKS = {"small": (1, 8, 1024), "full": (1, 2, 4, 8, 16, 64, 256, 1024)}
WAYS = {"ddp": "DDP", "ddp_views": "DDP, gradients in buckets", "zero1": "DDP with ZeRO 1"}


def predicted_between_steps(way: str, ranks: int) -> int:
    """Parameters, gradients, states and buckets of one rank between two steps, and what lies beside them."""
    elements = sum(parameter.elements for parameter in PARAMETERS)
    held = total_bytes(zero_terms(elements, ranks, 0, 4, 4, 8))
    if way == "zero1":
        held += 8 * (zero_redundancy_elements(PARAMETERS, ranks) - elements)
    return held + total_bytes(ddp_terms(PARAMETERS, bucket_views=way == "ddp_views")) + LASTING_BYTES


def tables(size: str, device: str, progress: Callable[[str], None]) -> dict[str, pd.DataFrame]:
    """Measure the first rank of each world on the virtual GPU, beside the formula.

    Returns:
        `data_parallel`, one row a way and a world: way, ranks, predicted_bytes and measured_bytes (allocated
        after a step), difference_bytes (predicted - measured).
    """
    import pandas as pd

    rows = []
    asked = [(way, ranks) for way in WAYS for ranks in _RANKS[size]]
    for (way, ranks), measured in zip(asked, measure_each(asked), strict=True):
        progress(f"{WAYS[way]}, {ranks} ranks")
        predicted = predicted_between_steps(way, ranks)
        rows.append(compared(WAYS[way], ranks, predicted, measured.lasting_bytes))
    return {"data_parallel": pd.DataFrame(rows)}


def figures(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """Bytes of one rank by the number of ranks: the formula as lines, what was measured as points."""
    from experiments.ranks.measure import by_ranks

    return {"data_parallel": by_ranks(tables["data_parallel"], "allocated after a step")}
