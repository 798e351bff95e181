"""One rank of many on the virtual GPU, as the experiments of data parallelism and sharding measure it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.distributed.lone_rank import LoneRank, as_lone_rank
from profiler.errors import ProfilerError
from profiler.formula.terms import Parameter
from profiler.gpu.cards import find_gpu
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.gpu.virtual.launch import environment
from profiler.runs.processes import threads_side_by_side
from profiler.units import MIB

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LAYERS, WIDTH = 8, 2048
PARAMETERS = tuple(Parameter((WIDTH, WIDTH)) for _ in range(LAYERS))
# Beside what the formula adds up: a batch of one row; a workspace of cuBLAS for each of two threads on Hopper
# (:4096:8); in the backward pass each layer's input again, the loss and its gradient.
ROW_BYTES = 4 * WIDTH
LASTING_BYTES = ROW_BYTES + 2 * 32 * MIB
BACKWARD_BYTES = LASTING_BYTES + LAYERS * ROW_BYTES + 2 * 512


@dataclass(frozen=True)
class Measured:
    """Bytes that PyTorch's allocator had given out.

    lasting_bytes: after the second step. backward_bytes: at most during its backward pass.
    """

    lasting_bytes: int
    backward_bytes: int


def measure(way: str, ranks: int, rank: int = 0) -> Measured:
    """Two steps of step.py as that rank of `ranks` H100.

    Raises ProfilerError where there is no virtual GPU, or if the program fails.
    """
    command = [sys.executable, "-m", "experiments.ranks.step", way, str(LAYERS), str(WIDTH)]
    lone = as_lone_rank(LoneRank(rank, ranks), VirtualGPUs(find_gpu("H100-80GB")))
    with lone as (gpus, inherited), tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command,
            env=environment(gpus, Path(folder), inherited=inherited),
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise ProfilerError(f"{way} on {ranks} ranks: {done.stderr.strip().splitlines()[-1:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    return Measured(said["lasting"], said["backward"])


def measure_each(asked: Sequence[tuple[str, int]]) -> Iterator[Measured]:
    """The first rank of each way and number of ranks, in order; as many at a time as there are processors."""
    with threads_side_by_side() as threads:
        yield from threads.map(lambda each: measure(*each), asked)


def compared(way: str, ranks: int, predicted_bytes: int, measured_bytes: int) -> dict[str, str | int]:
    """A row: what the formula says of a rank beside what was measured."""
    return {
        "way": way,
        "ranks": ranks,
        "predicted_bytes": predicted_bytes,
        "measured_bytes": measured_bytes,
        "difference_bytes": predicted_bytes - measured_bytes,
    }


def _how_close(difference_bytes: pd.Series[int]) -> str:
    worst = int(difference_bytes.abs().max())
    return f"the formula is off by {worst:,} bytes at most" if worst else "the formula is equal to the byte"


def by_ranks(table: pd.DataFrame, title: str) -> Figure:
    """Bytes by the number of ranks, a line for each way: the formula. What was measured: points."""
    import matplotlib.pyplot as plt

    from profiler.views.figures import style

    figure, axes = plt.subplots(figsize=(11, 5.6))
    for color, (way, rows) in zip(
        (style.BLUE, style.ORANGE, style.GREEN), table.groupby("way", sort=False), strict=False
    ):
        axes.plot(rows["ranks"], rows["predicted_bytes"] / MIB, color=color, label=f"{way}, formula")
        axes.scatter(rows["ranks"], rows["measured_bytes"] / MIB, s=60, color=color, label="virtual GPU")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(table["ranks"])), [str(ranks) for ranks in sorted(set(table["ranks"]))])
    axes.set_ylim(0)
    axes.set_xlabel("ranks")
    axes.set_ylabel("MiB on one GPU")
    axes.set_title(f"{title}: {_how_close(table['difference_bytes'])}")
    axes.legend()
    return figure
