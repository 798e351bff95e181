"""`profiler record-reference`: record the reference suite on one device, as far as the time goes."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from profiler.reference.campaign import Campaign, Progress, record
from profiler.units import format_bytes


def record_reference(campaign: Campaign) -> None:
    """Record what is missing and say how each run went: a line a run, and on a terminal a bar below.

    Raises ProfilerError as profiler.reference.campaign.record does.
    """
    console = Console(highlight=False, soft_wrap=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
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
                markup=False,
            )
            if progress.outcome != "ok":
                words = progress.outcome.replace("_", " ")
                console.print(f"{'':20}{words}: {progress.detail}", markup=False, style="yellow")

        summary = record(campaign, tell)
    size_bytes = sum(path.stat().st_size for path in summary.folder.rglob("*") if path.is_file())
    console.print(
        f"{summary.recorded} of {summary.total} runs recorded, {summary.seconds:.0f} s now, "
        f"{format_bytes(size_bytes)} in {summary.folder}"
    )
    if summary.time_was_over:
        console.print("the time was over; the same command goes on from here")
