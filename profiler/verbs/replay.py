"""`profiler replay`: a recorded CUDA memory snapshot against the model of the caching allocator."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.gpu import replay as replaying
from profiler.gpu.snapshot import load_snapshot
from profiler.views import screen

SUMMARY = "a recorded CUDA snapshot through the model of the allocator: is every address as recorded?"
DESCRIPTION = "Replay a snapshot's requests and compare every address. Exit code 4: it differs."
EXAMPLES = ""
DIFFERS = 4  # exit code


def add_options(parser: ArgumentParser) -> None:
    """The recording."""
    parser.add_argument(
        "snapshot", type=Path, metavar="SNAPSHOT", help="a file of torch.cuda.memory._dump_snapshot"
    )


def run(options: Namespace) -> int:
    """Print for each device what the replay matched; returns DIFFERS unless all that was recorded is exact.

    Raises ProfilerError for a file that is no snapshot, or that holds no events.
    """
    path: Path = options.snapshot
    snapshot = load_snapshot(path)
    results = [result for result in replaying.replay(snapshot) if result.verdict != "empty"]
    if not results:
        raise ProfilerError(f"{path}: no events; record with torch.cuda.memory._record_memory_history()")
    console = screen.console()
    for result in results:
        table = screen.table("", "", lines=False)
        table.show_header = False
        for name, value in replaying.summary(result):
            table.add_row(name, value)
        console.print(table)
    return 0 if all(result.verdict == "exact" for result in results) else DIFFERS
