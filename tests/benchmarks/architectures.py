"""Tiny training steps of many architectures of transformers on both engines: peaks and requests of each.

    python -m tests.benchmarks.architectures [--gpu A100-40GB] [NAME ...]

Two AdamW steps each, the first under bfloat16 autocast, the second in float32. Prints a line for each
architecture, with what only one engine asks for, and the counts: of the runs as they are, and of the virtual
GPU's without the workspaces of cuDNN's convolutions, which the simulated one does not model. Exit code 4 if
any differs otherwise.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections import Counter, defaultdict

from profiler.device import SIMULATED, VIRTUAL, Device
from profiler.errors import ProfilerError, first_line
from profiler.gpu.allocator import AllocatorSettings
from profiler.gpu.cards import DEFAULT_GPU, find_gpu
from profiler.reference.unmatched import residual
from profiler.runs.execute import in_process_on
from profiler.trace.run import Run
from tests.benchmarks.accuracy_suite import played, set_apart
from tests.support.architectures.catalog import ARCHITECTURES
from tests.support.architectures.step import SETTINGS, two_steps

PEAKS = ("allocated", "reserved")


def run(name: str, device: Device) -> Run | str:
    """The run in a process of its own, or why there is none."""
    try:
        return in_process_on(device, two_steps, name, device, settings=SETTINGS, name=name)
    except ProfilerError as error:
        return first_line(error)


def difference(virtual: Run, simulated: Run) -> str:
    """In words; empty for two runs that are alike."""
    explained = residual(virtual.entries, simulated.entries).explanation
    words = []
    for engine, groups in (("virtual", explained.only_first), ("simulated", explained.only_second)):
        asked: dict[str, list[str]] = defaultdict(list)
        for group in groups:
            asked[group.cause].append(f"{group.times} x {group.size_bytes:,}")
        words += [f"only {engine}: {cause} {', '.join(sizes)}" for cause, sizes in asked.items()]
    for what in ("peak_allocated_bytes", "peak_reserved_bytes"):
        here, there = getattr(virtual, what), getattr(simulated, what)
        if here != there:
            words.append(f"{what} {there:,} simulated, {there - here:+,}")
    return "; ".join(words)


def main() -> int:
    parser = ArgumentParser()
    parser.add_argument("--gpu", default=DEFAULT_GPU)
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES))
    options = parser.parse_args()
    gpu = find_gpu(options.gpu)
    counts: Counter[str] = Counter()
    for name in options.names:
        runs = [run(name, Device(kind, gpu)) for kind in (VIRTUAL, SIMULATED)]
        failed = [each for each in runs if isinstance(each, str)]
        if failed:
            counts["not run"] += 1
            print(f"{name}: {'; '.join(failed)}", flush=True)
            continue
        virtual, simulated = (each for each in runs if isinstance(each, Run))
        peaks, others = ((r.peak_allocated_bytes, r.peak_reserved_bytes) for r in (virtual, simulated))
        workspaces, same = set_apart(virtual.entries, simulated.entries)
        counts["requests"] += same and not workspaces
        counts.update(what for what, a, b in zip(PEAKS, peaks, others, strict=True) if a == b)
        if workspaces:
            left = [entry for place, entry in enumerate(virtual.entries) if place not in workspaces]
            peaks = played(left, AllocatorSettings())
        counts["requests without"] += same
        counts.update(f"{what} without" for what, a, b in zip(PEAKS, peaks, others, strict=True) if a == b)
        print(f"{name}: {difference(virtual, simulated) or 'alike'}", flush=True)
    print(f"of {len(options.names)}: {counts['not run']} not run; alike: ", end="")
    for end, words in (("", ""), (" without", "; without the workspaces of convolutions: ")):
        print(
            words, ", ".join(f"{what} {counts[what + end]}" for what in ("requests", *PEAKS)), sep="", end=""
        )
    print()
    wanted = len(options.names) - counts["not run"]
    return 0 if all(counts[f"{what} without"] == wanted for what in ("requests", *PEAKS)) else 4


if __name__ == "__main__":
    sys.exit(main())
