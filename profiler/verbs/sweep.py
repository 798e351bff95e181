"""`profiler sweep`: a grid of workloads and cards, each cell answered once, here or on a cluster."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from profiler.errors import ProfilerError
from profiler.files import check_writable
from profiler.verbs.options import refuse, whole_number
from profiler.views import screen

if TYPE_CHECKING:
    from profiler.advice.grid import Grid
    from profiler.advice.sweep import Row, Unanswered

SUMMARY = "a grid of workloads and cards: which fit, in processes here or on a cluster (needs no GPU)"
DESCRIPTION = (
    "Answer every combination of a grid once, as rows of one Parquet data set. What has been answered is not "
    "run again, so a stopped sweep continues. Exit code 1: cells have no answer, as their process died."
)
EXAMPLES = (
    "examples: profiler sweep grid.toml; "
    "profiler sweep grid.toml --cluster slurm --jobs 20 --job cpus_per_task=2 --job slurm_partition=cpu; "
    "duckdb -c \"SELECT gpu, model, max(batch) FROM 'grid/*.parquet' WHERE outcome = 'fits' GROUP BY ALL\""
)
_REASONS_SHOWN = 5


def add_options(parser: ArgumentParser) -> None:
    """The grid, where its rows go, and who answers."""
    parser.add_argument(
        "grid", type=Path, metavar="GRID.toml", help="fields of a workload, gpu: a value or a list of them"
    )
    parser.add_argument(
        "--results", type=Path, metavar="FOLDER", help="default: the grid's name without its ending"
    )
    parser.add_argument(
        "--processes", type=whole_number, metavar="N", help="at a time; default: one a processor"
    )
    parser.add_argument("--cluster", metavar="NAME", help="jobs through submitit: slurm, or local")
    parser.add_argument("--jobs", type=whole_number, metavar="N", help="of a cluster, that share the cells")
    parser.add_argument(
        "--job", action="append", default=[], metavar="NAME=VALUE", help="a parameter of submitit's jobs"
    )


def run(options: Namespace) -> int:
    """Sweep, draw the grid's map beside its folder, and say what fits.

    Raises ProfilerError for a grid that is none, and a folder that cannot be written.
    """
    from profiler.advice.cluster import Cluster, sweep_on
    from profiler.advice.grid import read_grid
    from profiler.advice.sweep import alone_in, answered, read_rows, sweep
    from profiler.views.figures import style
    from profiler.views.figures.grid import grid_map

    console = screen.console()
    grid = read_grid(options.grid)
    folder = options.results or Path(options.grid.stem)
    cluster = None
    if options.cluster:
        refuse(options, ["processes"], "is for processes here; a job of a cluster has one at a time")
        cluster = Cluster(options.cluster, options.jobs or 1, dict(map(_parameter, options.job)))
    else:
        refuse(options, ["jobs", "job"], "is for --cluster")
    check_writable(folder)
    with alone_in(folder, lambda: console.print("  another process sweeps into this folder; waiting for it")):
        there = answered(folder)
        known = sum(cell.key in there for cell in grid.cells)
        _say_what_is_asked(grid, known, console)
        with _progress(len(grid.cells), known) as on_answer:
            if cluster is not None:
                unanswered = sweep_on(cluster, grid.cells, folder, on_answer)
            else:
                unanswered = sweep(grid.cells, folder, on_answer=on_answer, processes=options.processes)
        rows = read_rows(folder, grid.cells)
    _say_what_was_found(rows, unanswered, console)
    if rows:
        style.use_style()
        path, _ = style.save(grid_map(rows, grid.axes, options.grid.name), folder.parent, folder.name)
        console.print(f"{path}, {folder}/*.parquet", soft_wrap=True)
    return 1 if unanswered else 0


def _parameter(word: str) -> tuple[str, Any]:
    name, separator, text = word.partition("=")
    if not separator or not name:
        raise ProfilerError(f"--job takes NAME=VALUE, not {word!r}")
    try:
        return name, json.loads(text)
    except json.JSONDecodeError:
        return name, text


def _say_what_is_asked(grid: Grid, known: int, console: Console) -> None:
    axes = " × ".join(f"{len(values)} {name}" for name, values in grid.axes.items()) or "one combination"
    console.print(f"{len(grid.cells):,} cells: {axes}" + (f"; {known:,} answered already" if known else ""))
    reasons = Counter(reason for _, reason in grid.impossible)
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        console.print(f"  {count:,} combinations left out: {reason}", style="yellow", soft_wrap=True)


def _say_what_was_found(rows: Sequence[Row], unanswered: Sequence[Unanswered], console: Console) -> None:
    outcomes = Counter(row["outcome"] for row in rows)
    console.print(", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common()))
    failures = Counter(row["detail"] for row in rows if row["outcome"] == "failed")
    for detail, count in failures.most_common(_REASONS_SHOWN):
        console.print(f"  {count:,} cannot run: {detail}", style="yellow", soft_wrap=True)
    for each in unanswered[:_REASONS_SHOWN]:
        console.print(f"  no answer: {each.cell}: {each.reason}", style="yellow", soft_wrap=True)
    if unanswered:
        console.print(f"  {len(unanswered):,} cells have no answer; run the sweep again to try them again")


@contextmanager
def _progress(total: int, known: int) -> Iterator[Callable[[Row | Unanswered], None]]:
    """A bar on a terminal; gives what is told each answer."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    to = Console(stderr=True)
    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    last = TextColumn("{task.description}", style="dim", markup=False)
    with Progress(*columns, last, console=to, transient=True, disable=not to.is_terminal) as progress:
        task = progress.add_task("", total=total, completed=known)

        def on_answer(row: Row | Unanswered) -> None:
            words = row["cell"] if isinstance(row, dict) else str(row.cell)
            progress.update(task, advance=1, description=screen.plain(words))

        yield on_answer
