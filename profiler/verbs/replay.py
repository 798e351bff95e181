"""`profiler replay`: a recorded CUDA memory snapshot against the model of the caching allocator."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from profiler.errors import ProfilerError
from profiler.gpu import replay as replaying
from profiler.gpu.snapshot import SnapshotError, load_snapshot

DIFFERS = 4  # exit code


def replay(path: Path) -> int:
    """Print for each device what the replay matched; returns DIFFERS unless all that was recorded is exact.

    Raises ProfilerError for a file that is no snapshot, or that holds no events.
    """
    try:
        snapshot = load_snapshot(path)
    except SnapshotError as error:
        raise ProfilerError(str(error)) from error
    results = [result for result in replaying.replay(snapshot) if result.verdict != "empty"]
    if not results:
        raise ProfilerError(f"{path}: no events; record with torch.cuda.memory._record_memory_history()")
    console = Console(highlight=False)
    for result in results:
        table = Table(show_header=False, box=None)
        for name, value in replaying.summary(result):
            table.add_row(name, value)
        console.print(table)
    return 0 if all(result.verdict == "exact" for result in results) else DIFFERS
