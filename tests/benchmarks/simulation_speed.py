"""What a simulated training step costs: seconds and memory of this machine, as ratios to their limits.

    python tests/benchmarks/simulation_speed.py            # GPT-2 small, Llama 7B; layers; MemTracker
    python tests/benchmarks/simulation_speed.py --large    # Llama 70B and 405B too

Each case trains two Adam steps in fp32 in a fresh process, attribution included. Seconds are those of the
processor, so that busy neighbours disturb them less, from building the model to the finished account; imports
are not counted. Memory is the most that the process ever had resident.

MemTracker (torch.distributed._tools) runs the same step on the same model under FakeTensorMode, on fake CPU
tensors: without a GPU PyTorch cannot run a backward pass on fake CUDA tensors.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from profiler import simulate
from profiler.gpu.cards import find_gpu
from profiler.training import models
from profiler.workload import Workload

MEMORY_LIMIT_BYTES = 2 << 30
ROOMY = "16000 GiB"  # the question is what it costs, not whether it fits
GIB, MIB = 1 << 30, 1 << 20

# Model, batch, length, seconds that it may take.
CASES = [("gpt2", 8, 512, 3.0), ("llama-7b", 1, 4096, 15.0)]
LARGE_CASES = [("llama-70b", 1, 4096, 45.0), ("llama-405b", 1, 4096, 90.0)]
LAYERS = (12, 24, 48, 96)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run cost this machine, and what it found."""

    seconds: float
    resident_bytes: int
    allocations: int
    peak_allocated_bytes: int


def simulated(model: str, batch: int, length: int, layers: int | None = None) -> Cost:
    """Two steps on a simulated A100 without a limit of memory."""
    import torch  # noqa: F401  imported before the clock starts
    import transformers  # noqa: F401

    started = time.process_time()
    simulation = simulate(Workload(model, batch, length, layers=layers or 0), find_gpu(ROOMY))
    return _cost(started, simulation.allocations, simulation.peak().allocated_bytes)


def tracked_by_mem_tracker(model: str, batch: int, length: int) -> Cost:
    """The same two steps under PyTorch's own MemTracker, on fake CPU tensors."""
    import torch
    import transformers  # noqa: F401
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    workload = Workload(model, batch, length)
    started = time.process_time()
    with FakeTensorMode():
        module = models.build_model(workload, initialize=False)
        optimizer = torch.optim.Adam(module.parameters(), lr=1e-4, foreach=True)
        tracker = MemTracker()
        tracker.track_external(module, optimizer)
        with tracker:
            for _ in range(2):
                tracker.reset_mod_stats()  # it keeps one pass a module
                batch_tensors = models.make_batch(workload, torch.device("cpu"))
                module(**batch_tensors).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    return _cost(started, 0, next(size for kind, size in peak.items() if "otal" in str(kind)))


def _cost(started: float, allocations: int, peak_bytes: int) -> Cost:
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resident_bytes = resident if sys.platform == "darwin" else resident * 1024
    return Cost(time.process_time() - started, resident_bytes, allocations, peak_bytes)


def in_fresh_process(function: Callable[..., Cost], *arguments: Any) -> Cost:
    """Call it where nothing has run yet: peaks of memory, and PyTorch's one slot for a device."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def main(arguments: list[str]) -> None:
    """Print every cost with its ratio to what is allowed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="70B and 405B too")
    options = parser.parse_args(arguments)
    gpt2 = None
    for name, batch, length, limit_seconds in CASES + (LARGE_CASES if options.large else []):
        cost = in_fresh_process(simulated, name, batch, length)
        gpt2 = gpt2 or cost
        print(
            f"{name}, {batch} × {length}: {cost.seconds:.2f} s, {cost.seconds / limit_seconds:.2f} of its"
            f" limit {limit_seconds:.0f} s; {cost.resident_bytes / MIB:,.0f} MiB resident,"
            f" {cost.resident_bytes / MEMORY_LIMIT_BYTES:.2f} of 2 GiB; {cost.allocations:,} allocations;"
            f" peak {cost.peak_allocated_bytes / GIB:,.2f} GiB",
            flush=True,
        )
    costs = {layers: in_fresh_process(simulated, "gpt2", 1, 128, layers) for layers in LAYERS}
    (few, first), (many, last) = min(costs.items()), max(costs.items())
    per_allocation = (last.seconds - first.seconds) / (last.allocations - first.allocations)
    print(
        "GPT-2 with "
        + ", ".join(f"{n} layers: {c.seconds:.2f} s for {c.allocations:,}" for n, c in costs.items())
        + f" allocations; {1e6 * per_allocation:.0f} µs for each more; {many // few} times the layers take"
        f" {last.seconds / first.seconds:.2f} times as long"
    )
    tracker = in_fresh_process(tracked_by_mem_tracker, *CASES[0][:3])
    assert gpt2 is not None
    print(
        f"MemTracker, gpt2, 8 × 512: {tracker.seconds:.2f} s, {tracker.seconds / gpt2.seconds:.2f} times the"
        f" simulation; peak {tracker.peak_allocated_bytes / GIB:.2f} GiB, the simulation's"
        f" {gpt2.peak_allocated_bytes / GIB:.2f} GiB"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
