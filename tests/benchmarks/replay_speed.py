"""How many recorded trace events a second the replay handles, backward and forward pass together.

Run from the repository root, on one or more snapshot files:

    python tests/benchmarks/replay_speed.py SNAPSHOT [SNAPSHOT ...]

or with none, on all files of the folder PROFILER_GROUNDTRUTH (default ../shared/groundtruth). Loading is not
counted, and the time is that of this process alone, so that busy neighbours disturb it less. It prints the
best and the median of several rounds, and their ratio to the goal.
"""

import gc
import os
import statistics
import sys
import time
from pathlib import Path

from profiler.gpu.replay import replay
from profiler.gpu.snapshot import Snapshot, load_snapshot

GOAL_EVENTS_PER_SECOND = 300_000
ROUNDS = 5


def events_per_second(snapshots: list[Snapshot]) -> float:
    """One round over all snapshots."""
    gc.collect()
    start = time.process_time()
    events = sum(result.events for snapshot in snapshots for result in replay(snapshot))
    return events / (time.process_time() - start)


def main(arguments: list[str]) -> None:
    groundtruth = Path(os.environ.get("PROFILER_GROUNDTRUTH", "../shared/groundtruth")) / "snapshots"
    paths = [Path(argument) for argument in arguments] or sorted(groundtruth.glob("*/*.xz"))
    if not paths:
        sys.exit(f"no snapshots in {groundtruth}: name files, or set PROFILER_GROUNDTRUTH")
    snapshots = [load_snapshot(path) for path in paths]
    events = sum(len(device.events) for snapshot in snapshots for device in snapshot.devices)
    gc.freeze()  # the loaded snapshots are no garbage
    rounds = [events_per_second(snapshots) for _ in range(ROUNDS)]
    print(f"{len(paths)} snapshots, {events:,} events, {ROUNDS} rounds")
    for name, speed in (("best", max(rounds)), ("median", statistics.median(rounds))):
        print(f"{name:>6}: {speed:>9,.0f} events/s, {speed / GOAL_EVENTS_PER_SECOND:.2f} x the goal")


if __name__ == "__main__":
    main(sys.argv[1:])
