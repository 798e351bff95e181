"""Allocations that only the recording, or only the simulation, made: found by aligning traces, and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.trace.alignment import Explanation, Request, Unmatched, explain
from profiler.trace.events import Allocation, Entry

if TYPE_CHECKING:
    import pandas as pd

_PROBE = ["operation", "shape", "dtype", "option"]


@dataclass(frozen=True)
class Residual:
    """How two traces differ.

    Attributes:
        explanation: the alignment; "first" is the measured trace, "second" the simulated one.
        named: groups of either side whose cause is known: a line of Python, or an operation.
        unnamed: allocations of the measured trace that nothing names (made in C++ outside any Python line).
        unnamed_bytes: what those asked for together.
    """

    explanation: Explanation
    named: tuple[Unmatched, ...]
    unnamed: int
    unnamed_bytes: int


def residual(measured: Sequence[Entry], simulated: Sequence[Entry]) -> Residual:
    """Align the requests of two traces of one run."""
    explanation = explain(_requests(measured), _requests(simulated))
    groups = (*explanation.only_first, *explanation.only_second)
    unnamed = [group for group in explanation.only_first if not group.cause]
    return Residual(
        explanation,
        tuple(group for group in groups if group.cause),
        sum(group.times for group in unnamed),
        sum(group.total_bytes for group in unnamed),
    )


def _requests(entries: Sequence[Entry]) -> list[Request]:
    return [Request(e.requested_bytes, e.op) for e in entries if isinstance(e, Allocation)]


def compare_probes(measured: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """One row a probe: its requests in order, measured and by the rules.

    Args:
        measured, predicted: tables of profiler.reference.probes.

    Returns:
        Columns operation, shape, dtype, option, measured (requests in bytes, a tuple), predicted, exact; one
        row for each probe that ran on both.
    """
    import pandas as pd

    tables = {}
    for name, table in (("measured", measured), ("predicted", predicted)):
        good = table[table["outcome"] == "ok"]
        requests = good.groupby(_PROBE, sort=False)["requested_bytes"]
        tables[name] = requests.agg(lambda sizes: tuple(int(size) for size in sizes if size > 0))
    joined = pd.concat(tables, axis=1, join="inner").reset_index()
    return joined.assign(exact=joined["measured"] == joined["predicted"])
