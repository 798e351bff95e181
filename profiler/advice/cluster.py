"""A grid's cells on a cluster: Slurm's, or whatever else submitit runs jobs on.

A job is a sweep of its share of the cells into the same folder, which all machines see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.advice.grid import Cell
from profiler.advice.sweep import Row, Unanswered, answered, read_rows, sweep
from profiler.errors import ProfilerError, first_line

if TYPE_CHECKING:
    import submitit

_POLL_SECONDS = 0.5
_CLUSTERS = ("slurm", "local")


@dataclass(frozen=True)
class Cluster:
    """Where jobs run.

    Attributes:
        name: "slurm", or "local" for processes on this machine.
        jobs: how many at a time share the cells.
        parameters: of a job, as submitit's `update_parameters` takes them: timeout_min, cpus_per_task,
            mem_gb, slurm_partition and so on.
    """

    name: str
    jobs: int
    parameters: Mapping[str, Any]

    def __post_init__(self) -> None:
        if self.name not in _CLUSTERS:
            raise ProfilerError(f"unknown cluster {self.name!r}; known: {', '.join(_CLUSTERS)}")
        if self.jobs < 1:
            raise ProfilerError("--jobs is at least 1")


def answer_share(cells: Sequence[Cell], folder: Path) -> None:
    """The inside of a job: the cells of its share that nobody has answered yet, one after the other.

    Raises ProfilerError for a cell whose process died, once the others have been answered.
    """
    unanswered = sweep(cells, folder, processes=1)
    if unanswered:
        raise ProfilerError(f"{unanswered[0].cell}: {unanswered[0].reason}")


@dataclass
class _Share:
    """Cells of one job; `fruitless`: how many jobs in a row ended without an answer."""

    cells: list[Cell]
    job: submitit.Job[None]
    fruitless: int = 0


def sweep_on(
    cluster: Cluster,
    cells: Sequence[Cell],
    folder: Path,
    on_answer: Callable[[Row | Unanswered], object] = lambda row: None,
) -> tuple[Unanswered, ...]:
    """Answer the cells that `folder` has no row of, in jobs; see profiler.advice.sweep.sweep.

    A job that ends early, killed or out of time, costs the cell at which it was: another job goes on with the
    rest of its share. A share of which two jobs in a row answered nothing is given up. Ctrl-C cancels the
    jobs; if this process is killed they go on, and what they answer counts.

    Raises ProfilerError without submitit, without Slurm, and for parameters that it does not know.
    """
    keys = answered(folder)
    todo = [cell for cell in cells if cell.key not in keys]
    if not todo:
        return ()
    executor = _executor(cluster, folder)
    count = min(cluster.jobs, len(todo))
    unanswered: list[Unanswered] = []
    shares: list[_Share] = []
    seen = set(keys)

    def lose(cell: Cell, reason: str) -> None:
        unanswered.append(Unanswered(cell, reason))
        on_answer(unanswered[-1])

    def collect() -> None:
        new = answered(folder) - seen
        seen.update(new)
        for row in read_rows(folder, [cell for cell in todo if cell.key in new]):
            on_answer(row)

    try:
        with executor.batch():  # one array of jobs
            for part in (todo[at::count] for at in range(count)):
                shares.append(_Share(part, executor.submit(answer_share, part, folder.absolute())))
        while shares:
            time.sleep(_POLL_SECONDS)
            ended = [share for share in shares if share.job.done()]
            collect()
            for share in ended:
                shares.remove(share)
                left = [cell for cell in share.cells if cell.key not in seen]
                if not left:
                    continue
                reason = _reason(share.job)
                fruitless = share.fruitless + 1 if len(left) == len(share.cells) else 0
                lose(left[0], reason)
                if fruitless < 2 and left[1:]:
                    job = executor.submit(answer_share, left[1:], folder.absolute())
                    shares.append(_Share(left[1:], job, fruitless))
                else:
                    for cell in left[1:]:
                        lose(cell, reason)
    except BaseException:
        for share in shares:
            share.job.cancel()
        raise
    return tuple(unanswered)


def _executor(cluster: Cluster, folder: Path) -> submitit.AutoExecutor:
    try:
        import submitit
    except ImportError as error:
        raise ProfilerError("submitit is not installed: pip install 'everybyte[cluster]'") from error
    try:
        executor = submitit.AutoExecutor(folder=folder.with_name(f"{folder.name}-jobs"), cluster=cluster.name)
        executor.update_parameters(**cluster.parameters)
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise ProfilerError(f"no jobs on {cluster.name}: {first_line(error)}") from error
    return executor


def _reason(job: submitit.Job[None]) -> str:
    """Why a job answered less than its share, in one line."""
    error = job.exception()
    if error is None:
        return "its job ended"
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"job {job.job_id}: {lines[-1] if lines else type(error).__name__}"
