"""The same training run with and without a recorder, in fresh processes: what measuring adds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from profiler.runs.processes import in_fresh_process
from profiler.units import MIB
from profiler.workload import Workload

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from profiler.trace.phase import Phase
    from profiler.training.step import TrainingState

QUESTION = (
    "What does measuring cost: how much slower is a recorded run, and how much more memory does it take?"
)

_WORKLOADS = [Workload("mlp", 64), Workload("gpt2-tiny", 8, 128), Workload("resnet-tiny", 8, 64)]
_REPEATS = {"small": 1, "full": 5}


class _Bare:
    """A recorder that only keeps time."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> _Bare:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    @contextlib.contextmanager
    def phase(self, phase: Phase, state: TrainingState) -> Iterator[None]:
        import torch

        started = time.perf_counter()
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        if phase.step == 2:
            self.seconds += time.perf_counter() - started


def tables(size: str, device: str, progress: Callable[[str], None]) -> dict[str, pd.DataFrame]:
    """Run each workload with and without its recorder, alternating.

    Returns:
        `overhead`, one row a run: workload, recorded, repeat, seconds (step 2, reading at the boundaries
        excluded), reading_seconds (all boundaries of step 2), resident_bytes (the process's peak) and, on
        CUDA, peak_allocated_bytes.
    """
    import pandas as pd

    rows = []
    for workload in _WORKLOADS:
        for repeat in range(_REPEATS[size]):
            for recorded in (False, True):
                progress(f"{workload}, {'recorded' if recorded else 'bare'}, repeat {repeat + 1}")
                rows.append({"workload": str(workload), "repeat": repeat, **_run(workload, recorded, device)})
    return {"overhead": pd.DataFrame(rows)}


def _run(workload: Workload, recorded: bool, device: str) -> dict[str, Any]:
    name = f"{workload}, {'recorded' if recorded else 'bare'}"
    row: dict[str, Any] = in_fresh_process(_measure, workload, recorded, device, name=name)
    return row


def _measure(workload: Workload, recorded: bool, device: str) -> dict[str, Any]:
    import resource

    import torch

    from profiler.recording.cpu import CpuRecorder
    from profiler.recording.cuda import CudaRecorder
    from profiler.training.step import train

    on_cuda = device == "cuda"
    recorder: Any = (CudaRecorder() if on_cuda else CpuRecorder()) if recorded else _Bare()
    with recorder:
        train(workload, torch.device(device), recorder)
    row: dict[str, Any] = {
        "recorded": recorded,
        "resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_allocated_bytes": None,
    }
    if recorded:
        measurements = recorder.measurements()
        step_two = [m for m in measurements if m.account.phase.step == 2]
        row["seconds"] = sum(m.seconds for m in step_two)
        row["reading_seconds"] = sum(m.reading_seconds for m in step_two)
        if on_cuda:  # the recorder resets the device's own peak at each phase
            peaks = [m.memory_stats["allocated_bytes.all.peak"] for m in measurements]
            row["peak_allocated_bytes"] = max(peaks)
    else:
        row |= {"seconds": recorder.seconds, "reading_seconds": 0.0}
        if on_cuda:
            row["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
    return row


def figures(tables: dict[str, pd.DataFrame]) -> dict[str, Figure]:
    """Seconds of a steady step, bare and recorded, and the resident memory that recording adds."""
    import matplotlib.pyplot as plt

    from profiler.views.figures import style

    overhead = tables["overhead"]
    names = list(dict.fromkeys(overhead["workload"]))
    figure, (times, sizes) = plt.subplots(1, 2, figsize=(14, 5.2))
    medians = overhead.groupby(["workload", "recorded"]).median(numeric_only=True)
    for place, name in enumerate(names):
        bare, recorded = medians.loc[(name, False)], medians.loc[(name, True)]
        times.bar(place - 0.2, bare["seconds"] * 1000, 0.38, color=style.MUTED, label="bare")
        times.bar(place + 0.2, recorded["seconds"] * 1000, 0.38, color=style.BLUE, label="recorded")
        times.bar(
            place + 0.2,
            recorded["reading_seconds"] * 1000,
            0.38,
            bottom=recorded["seconds"] * 1000,
            color=style.SKY,
            label="reading at the boundaries",
        )
        runs = overhead[overhead["workload"] == name].pivot(
            index="repeat", columns="recorded", values="resident_bytes"
        )
        added = (runs[True] - runs[False]) / MIB
        sizes.scatter([place] * len(added), added, s=60, color=style.BLUE, alpha=0.7)
        sizes.annotate(f"median {added.median():+.0f} MiB", (place + 0.08, added.median()), va="center")
    ratio = (medians.xs(True, level=1)["seconds"] / medians.xs(False, level=1)["seconds"]).max()
    figure.suptitle(
        f"A recorded step takes at most {ratio:.2f}× the time of a bare one, its readings apart",
        x=0.01,
        ha="left",
        fontsize=17,
        fontweight="bold",
    )
    times.set_title("a steady training step", fontsize=13)
    times.set_ylabel("milliseconds (median)")
    sizes.axhline(0, color=style.INK, linewidth=1)
    sizes.set_xlim(-0.5, len(names) - 0.2)
    sizes.set_title("host memory, recorded run less bare run, one point a repeat", fontsize=13)
    sizes.set_ylabel("resident at its peak (MiB)")
    for axes in (times, sizes):
        axes.set_xticks(range(len(names)), [name.replace(", ", "\n", 1) for name in names])
        axes.grid(axis="x", visible=False)
    handles, labels = times.get_legend_handles_labels()
    times.legend(handles[:3], labels[:3])
    return {"overhead": figure}
