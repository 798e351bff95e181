"""Runs for tests: written by hand, or simulated in a fresh process."""

import time
from dataclasses import replace
from pathlib import Path

from profiler.device import CPU, SIMULATED, VIRTUAL, Device
from profiler.gpu.cards import GPUS, UNLIMITED_BYTES
from profiler.gpu.device_used import in_total, process_terms
from profiler.runs.execute import run_in_fresh_process, run_on
from profiler.trace.run import Run, phases_told_by

A100 = GPUS["A100-40GB"]


def run_of(entries, reserved_bytes=(), device=None, **known):
    """A run of these entries; `known` as the fields of Run."""
    known = {"name": "by hand", "phases": phases_told_by(entries, reserved_bytes), **known}
    return Run(device or Device(CPU), entries=entries, reserved_bytes=reserved_bytes, **known)


def simulated_apart(workload, gpu=A100, memory_bytes=UNLIMITED_BYTES):
    """The workload in a fresh process, on a `gpu` whose allocator may take so much."""
    beside_bytes = in_total(process_terms(gpu)).typical_bytes
    limited = replace(gpu, memory_bytes=memory_bytes + beside_bytes)
    return run_in_fresh_process(workload, Device(SIMULATED, limited))


def cost_of_virtual_run(workload, gpu):
    """In a process on the virtual GPU: the processor's seconds, most resident bytes, and peak allocated."""
    started = time.process_time()
    run = run_on(workload, Device(VIRTUAL, gpu))
    seconds = time.process_time() - started
    status = Path("/proc/self/status").read_text().splitlines()
    resident_kib = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return seconds, resident_kib * 1024, run.peak_allocated_bytes
