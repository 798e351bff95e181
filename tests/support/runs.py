"""Runs for tests: written by hand, or simulated in a fresh process."""

from dataclasses import replace

from profiler.device import CPU, SIMULATED, Device
from profiler.gpu.cards import GPUS, UNLIMITED_BYTES
from profiler.runs.execute import run_in_fresh_process
from profiler.trace.run import Run, phases_told_by

A100 = GPUS["A100-40GB"]


def run_of(entries, reserved_bytes=(), device=None, **known):
    """A run of these entries; `known` as the fields of Run."""
    known = {"name": "by hand", "phases": phases_told_by(entries, reserved_bytes), **known}
    return Run(device or Device(CPU), entries=entries, reserved_bytes=reserved_bytes, **known)


def simulated_apart(workload, gpu=A100, memory_bytes=UNLIMITED_BYTES):
    """The workload in a fresh process, on a `gpu` whose allocator may take so much."""
    return run_in_fresh_process(workload, Device(SIMULATED, replace(gpu, memory_bytes=memory_bytes)))
