"""Every recorded program on the virtual GPU, with the torch of its recording: `python -m
tests.benchmarks.virtual_gpu_traces [PART OF A FILE NAME]`.

Prints what the run and the recording reached at their peaks. PROFILER_TORCH_2_6 and PROFILER_TORCH_2_11 name
folders with those versions (see tests/support/virtual_gpu.py).
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from profiler.gpu.snapshot import load_snapshot
from profiler.gpu.virtual.installation import Installation
from profiler.units import MIB
from tests.support.groundtruth import SNAPSHOTS, busiest_device
from tests.support.recorded.comparison import recorded
from tests.support.recorded.programs import TRACES, Trace
from tests.support.virtual_gpu import one, run_python, torch_of_version


def predicted(number: int, trace: Trace, installation: Installation, rising: bool = False) -> dict[str, int]:
    """Peaks of the program on the virtual GPU."""
    settings = (
        {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} if trace.settings.expandable_segments else {}
    )
    gpus = replace(one(trace.gpu), rising_addresses=rising)
    done, _ = run_python(
        ["-m", "tests.support.recorded.on_virtual_gpu", str(number)], gpus, installation, **settings
    )
    if done.returncode:
        raise SystemExit(f"{trace.ran}: {done.stderr[-2000:]}")
    peaks: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return peaks


def likely_cause(path: Path) -> str:
    """Why a run may differ from its recording: what the recording itself tells."""
    lowest = min(segment.address for segment in busiest_device(load_snapshot(path)).segments)
    if lowest < 1 << 40:
        return "recorded where the driver gives out addresses from the lowest on, in an order not known"
    return "not known"


def main() -> None:
    part = sys.argv[1] if len(sys.argv) > 1 else ""
    exact = count = 0
    for number, trace in enumerate(TRACES):
        installation = torch_of_version(trace.torch_version)
        if isinstance(installation, str):
            raise SystemExit(installation)
        for path in sorted(SNAPSHOTS.glob(trace.file)):
            if part not in path.name and part not in trace.file:
                continue
            started = time.monotonic()
            peaks = predicted(number, trace, installation)
            truth = recorded(path)
            allocated = peaks["allocated"] - truth.peak_allocated_bytes
            reserved = peaks["reserved"] - truth.peak_reserved_bytes
            count += 1
            exact += allocated == reserved == 0
            print(
                f"{number:3} {trace.ran:60} {trace.gpu:18}"
                f" allocated {truth.peak_allocated_bytes / MIB:10.2f} MiB {allocated / MIB:+9.3f}"
                f"  reserved {truth.peak_reserved_bytes / MIB:9.0f} MiB {reserved / MIB:+9.3f}"
                f"  {time.monotonic() - started:5.1f} s",
                flush=True,
            )
            if allocated or reserved:
                print(f"    likely cause: {likely_cause(path)}", flush=True)
    print(f"both peaks exact: {exact} of {count}")


if __name__ == "__main__":
    main()
