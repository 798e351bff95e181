"""The experiments there are, by name, and what each of them has.

One that runs workloads, which are then measured and predicted (WORKLOADS):

- `QUESTION`, one line;
- `workloads(size, device)`: what to run in a size ("small" or "full") on a device ("cpu", "cuda", or
  "absent": the GPU that is not there, beside a CPU);
- `figures(records)`: pictures by name of the resulting rows (profiler.records.table).

One that makes tables of its own (TABLES):

- `QUESTION`;
- `tables(size, device, progress)`: data frames by name; tells `progress` in a few words what it is doing;
- `figures(tables)`: pictures of them by name.
"""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Protocol

from experiments import (
    activation_checkpointing,
    activation_scaling,
    combined,
    data_parallel,
    gradient_accumulation,
    measuring_overhead,
    mixed_precision,
    naive_step,
    optimizers,
    sharding,
)
from experiments.numbers import float_formats, loss_scaling, master_weights
from profiler.errors import ProfilerError
from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class RunsWorkloads(Protocol):
    """An experiment of WORKLOADS."""

    QUESTION: str

    def workloads(self, size: str, device: str) -> list[Workload]: ...

    def figures(self, records: pd.DataFrame) -> dict[str, Figure]: ...


class MakesTables(Protocol):
    """An experiment of TABLES."""

    QUESTION: str

    def tables(self, size: str, device: str, progress: Callable[[str], None]) -> dict[str, pd.DataFrame]: ...

    def figures(self, tables: dict[str, pd.DataFrame]) -> dict[str, Figure]: ...


WORKLOADS: dict[str, RunsWorkloads] = {
    "naive_step": naive_step,
    "activation_scaling": activation_scaling,
    "optimizers": optimizers,
    "gradient_accumulation": gradient_accumulation,
    "activation_checkpointing": activation_checkpointing,
    "mixed_precision": mixed_precision,
    "combined": combined,
}
TABLES: dict[str, MakesTables] = {
    "master_weights": master_weights,
    "loss_scaling": loss_scaling,
    "float_formats": float_formats,
    "measuring_overhead": measuring_overhead,
    "data_parallel": data_parallel,
    "sharding": sharding,
}


def questions() -> dict[str, str]:
    """The question of each experiment by name."""
    return {
        **{name: experiment.QUESTION for name, experiment in WORKLOADS.items()},
        **{name: experiment.QUESTION for name, experiment in TABLES.items()},
    }


def check_name(name: str) -> None:
    """Raise ProfilerError if there is no experiment of that name."""
    known = questions()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
        raise ProfilerError(f"unknown experiment {name!r}{hint}")
