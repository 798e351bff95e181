"""What an answer on the virtual GPU costs: seconds of the processor and the clock, as ratios to limits.

    python tests/benchmarks/virtual_engine.py           # a prediction, both engines; fit of a 7B model; 405B
    python tests/benchmarks/virtual_engine.py --grid    # and 200 configurations of GPT-2 small

A prediction is forked from a process that has the libraries imported: what that takes to start is measured
apart, as "the first". Seconds of the processor are those of all processes of the answer, so that busy
neighbours disturb them less; on two idle cores the clock shows at most as many.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from profiler.advice.fit import Question, fit
from profiler.device import SIMULATED, VIRTUAL, Device
from profiler.gpu.cards import GPU, find_gpu
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.runs.execute import run_in_fresh_process
from profiler.runs.processes import threads_side_by_side
from profiler.runs.virtual_process import in_virtual_process
from profiler.workload import Workload
from tests.support.runs import cost_of_virtual_run

A100, ROOMY = find_gpu("A100-40GB"), find_gpu("64000 GiB")
GPT2 = Workload("gpt2", 8, 512)


def cost_inside(workload: Workload, gpu: GPU) -> tuple[float, int, int]:
    """One run in its process: see tests.support.runs.cost_of_virtual_run."""
    gpus = VirtualGPUs(gpu)
    return in_virtual_process(cost_of_virtual_run, workload, gpu, gpus=gpus, name=str(workload)).result


def clock(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def say(what: str, seconds: float, limit_seconds: float, more: str = "") -> None:
    ratio = seconds / limit_seconds
    print(f"{what}: {seconds:.2f} s, {ratio:.2f} of its limit {limit_seconds:g} s{more}", flush=True)


def main() -> None:
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")
    first = clock(lambda: run_in_fresh_process(GPT2, Device(VIRTUAL, A100)))
    seconds = min(clock(lambda: run_in_fresh_process(GPT2, Device(VIRTUAL, A100))) for _ in range(5))
    processor_seconds, _, peak_bytes = cost_inside(GPT2, A100)
    say("gpt2, 8 × 512, of the processor", processor_seconds, 0.5, f"; the first {first:.1f} s by the clock")
    say("gpt2, 8 × 512, by the clock, result included", seconds, 0.5)
    simulated = run_in_fresh_process(GPT2, Device(SIMULATED, A100))
    slower = min(clock(lambda: run_in_fresh_process(GPT2, Device(SIMULATED, A100))) for _ in range(3))
    print(
        f"  the simulated engine takes {slower / seconds:.1f} times as long and is"
        f" {simulated.peak_allocated_bytes - peak_bytes:+,} B off of {peak_bytes:,}"
    )
    for model, length, limit_seconds in (("llama-7b", 2048, 2.0), ("llama-405b", 2048, 10.0)):
        workload = Workload(model, 1, length, precision="bf16", optimizer="adamw")
        processor_seconds, resident_bytes, peak_bytes = cost_inside(workload, ROOMY)
        resident = f"; {resident_bytes / 2**30:.2f} GiB resident; peak {peak_bytes / 2**30:,.1f} GiB"
        say(f"{model}, 1 × {length}, bf16, of the processor", processor_seconds, limit_seconds, resident)
    workload = Workload("LlamaConfig", 1, 2048)
    for gpu in ("H200", "A100-40GB"):
        found = fit(workload, find_gpu(gpu), Question())
        seconds = clock(lambda: fit(workload, find_gpu(gpu), Question()))  # noqa: B023  called at once
        say(
            f"fit of LlamaConfig ({found.run.parameters:,} parameters) on {gpu}, by the clock",
            seconds,
            20.0,
            f"; {found.verdict}, {found.simulations} runs, largest batch {found.largest.fits},"
            f" {sum(len(r.techniques) > 1 for r in found.techniques)} pairs",
        )
    if "--grid" in sys.argv:
        grid = [
            replace(GPT2, batch=batch, length=length, precision=precision)
            for batch in range(1, 21)
            for length in (128, 256, 384, 512, 768)
            for precision in ("fp32", "amp_bf16")
        ]
        with threads_side_by_side() as threads:
            seconds = clock(
                lambda: list(threads.map(lambda w: run_in_fresh_process(w, Device(VIRTUAL, ROOMY)), grid))
            )
        say(f"{len(grid)} configurations of gpt2, by the clock", seconds, 90.0)


if __name__ == "__main__":
    main()
