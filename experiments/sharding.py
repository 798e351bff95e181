"""Sharding: what each rank of FSDP2 holds between steps, and what it gathers on top of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.ranks.measure import BACKWARD_BYTES, LASTING_BYTES, PARAMETERS, compared, measure_each
from profiler.formula.sharding import FSDP2, fsdp2_backward_terms, fsdp2_lasting_terms
from profiler.formula.terms import total_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "How does a rank's memory fall with the number of ranks, and what does not become smaller?"

_RANKS = {"small": (1, 8, 1024), "full": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)}


def predicted_of_fsdp2(ranks: int) -> tuple[int, int]:
    """Of the first rank of FSDP2: after a step, and at the peak of the backward pass."""
    model = FSDP2(tuple((parameter,) for parameter in PARAMETERS), (), ranks)
    lasting = total_bytes(fsdp2_lasting_terms(model))
    return lasting + LASTING_BYTES, lasting + total_bytes(fsdp2_backward_terms(model)) + BACKWARD_BYTES


def tables(size: str, device: str, progress: Callable[[str], None]) -> dict[str, pd.DataFrame]:
    """Measure the first rank of each world on the virtual GPU, beside the formula.

    Returns:
        `sharding`, two rows a world: way ("after a step", "peak of the backward pass"), ranks,
        predicted_bytes and measured_bytes (allocated), difference_bytes (predicted - measured).
    """
    import pandas as pd

    rows = []
    asked = [("fsdp2", ranks) for ranks in _RANKS[size]]
    for (_, ranks), measured in zip(asked, measure_each(asked), strict=True):
        progress(f"FSDP2, {ranks} ranks")
        pairs = zip(predicted_of_fsdp2(ranks), (measured.lasting_bytes, measured.backward_bytes), strict=True)
        for way, (predicted, found) in zip(("after a step", "peak of the backward pass"), pairs, strict=True):
            rows.append(compared(way, ranks, predicted, found))
    return {"sharding": pd.DataFrame(rows)}


def figures(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """Bytes of one rank by the number of ranks: the formula as lines, what was measured as points."""
    from experiments.ranks.measure import by_ranks

    return {"sharding": by_ranks(tables["sharding"], "allocated on one rank of FSDP2")}
