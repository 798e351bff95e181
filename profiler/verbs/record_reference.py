"""`profiler record-reference`: record the reference suite on one device, as far as the time goes."""

from __future__ import annotations

from rich.console import Console

from profiler.reference.campaign import Campaign, Progress, record
from profiler.units import format_bytes


def record_reference(campaign: Campaign) -> None:
    """Record what is missing and say how each run went.

    Raises ProfilerError as profiler.reference.campaign.record does.
    """
    console = Console(highlight=False)

    def tell(progress: Progress) -> None:
        line = f"[{progress.number:3}/{progress.total}] {progress.seconds:5.1f} s  {progress.name}"
        console.print(line, markup=False)
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
