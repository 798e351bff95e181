"""What others recorded on real GPUs: where it is, and how tests read it.

The folder is $PROFILER_GROUNDTRUTH, or ../shared/groundtruth beside the repository. It holds `snapshots/`,
memory snapshots with an `index.csv`, and `published/`, tables of peaks. Tests skip where it is missing.
"""

import csv
import os
from functools import lru_cache
from pathlib import Path

import pytest

from profiler.gpu.snapshot import DeviceSnapshot, Snapshot, load_snapshot

GROUNDTRUTH = Path(
    os.environ.get("PROFILER_GROUNDTRUTH", Path(__file__).parents[3] / "shared" / "groundtruth")
)
SNAPSHOTS = GROUNDTRUTH / "snapshots"
PEAKS_OF_OPERATIONS = GROUNDTRUTH / "published" / "liger_kernel_memory_rows.csv"

needs_snapshots = pytest.mark.skipif(
    not (SNAPSHOTS / "index.csv").is_file(),
    reason=f"no recorded snapshots in {SNAPSHOTS}; set PROFILER_GROUNDTRUTH to the folder that has them",
)
needs_published_peaks = pytest.mark.skipif(
    not PEAKS_OF_OPERATIONS.is_file(),
    reason=f"no published table at {PEAKS_OF_OPERATIONS}; set PROFILER_GROUNDTRUTH to the folder that has it",
)


def snapshot_paths() -> list[Path]:
    """All recorded snapshots."""
    return sorted(SNAPSHOTS.glob("*/*.xz"))


def snapshot_path(beginning: str) -> Path:
    """The snapshot whose "folder/file" begins so. Raises ValueError unless it is exactly one."""
    (path,) = SNAPSHOTS.glob(f"{beginning}*.xz")
    return path


@lru_cache(maxsize=16)
def load(beginning: str) -> Snapshot:
    """That snapshot, read without running what a pickle may hold."""
    return load_snapshot(snapshot_path(beginning))


def busiest_device(snapshot: Snapshot) -> DeviceSnapshot:
    """The device with the most events."""
    return max(snapshot.devices, key=lambda device: len(device.events))


def index_rows() -> list[dict[str, str]]:
    """What is known of each snapshot (empty where there are none)."""
    if not (SNAPSHOTS / "index.csv").is_file():
        return []
    with (SNAPSHOTS / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def requests(device: DeviceSnapshot) -> tuple[int, ...]:
    """Bytes of each allocation (positive) and free (negative), in order."""
    sign = {"alloc": 1, "free_completed": -1}
    return tuple(sign[event.action] * event.size_bytes for event in device.events if event.action in sign)
