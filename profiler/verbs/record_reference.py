"""`profiler record-reference`: record the reference suite on one device, as far as the time goes."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from profiler.device import device_called
from profiler.units import format_bytes
from profiler.verbs.options import add_virtual, again_virtually
from profiler.views import screen

if TYPE_CHECKING:
    from profiler.reference.campaign import Progress

SUMMARY = "record the reference suite on a GPU, as far as the time goes"
DESCRIPTION = (
    "Record the runs and kernel probes that predictions are held against, most informative first. What has "
    "been recorded is not run again, so the same command goes on where it stopped."
)
EXAMPLES = "example: profiler record-reference --minutes 9"


def add_options(parser: ArgumentParser) -> None:
    """Where to record, how much, and for how long."""
    parser.add_argument(
        "--device", default="cuda", metavar="DEVICE", help="cuda (default), cpu, or a GPU's name to rehearse"
    )
    add_virtual(parser)
    parser.add_argument("--size", choices=["quick", "small", "full"], default="full", help="default: full")
    parser.add_argument("--minutes", type=float, default=9.0, help="start no run after this; default: 9")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), metavar="FOLDER", help="default: results"
    )


def run(options: Namespace) -> int | None:
    """Record what is missing and say how each run went: a line a run, and on a terminal a bar below.

    Raises ProfilerError as profiler.reference.campaign.record does.
    """
    if options.virtual:
        return again_virtually(options)
    from profiler.reference.campaign import Campaign, record_suite

    campaign = Campaign(device_called(options.device), options.results, options.size, options.minutes)
    console = screen.console()
    console.soft_wrap = True
    text = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), text)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("looking at the device", total=None)

        def tell(progress: Progress) -> None:
            if not progress.outcome:
                bar.update(
                    task, completed=progress.number - 1, total=progress.total, description=progress.name
                )
                return
            console.print(
                f"[{progress.number:3}/{progress.total}] {progress.seconds:5.1f} s  {progress.name}",
            )
            if progress.outcome != "ok":
                words = progress.outcome.replace("_", " ")
                console.print(f"{'':20}{words}: {progress.detail}", style="yellow")

        summary = record_suite(campaign, tell)
    size_bytes = sum(path.stat().st_size for path in summary.folder.rglob("*") if path.is_file())
    console.print(
        f"{summary.recorded} of {summary.total} runs recorded, {summary.seconds:.0f} s now, "
        f"{format_bytes(size_bytes)} in {summary.folder}"
    )
    if summary.time_was_over:
        console.print("the time was over; the same command goes on from here")
    return None
