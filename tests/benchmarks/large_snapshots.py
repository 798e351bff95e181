"""What replay, report and diff take of snapshots with millions of events: seconds, peak memory, and ratios.

Run from the repository root:

    python tests/benchmarks/large_snapshots.py [EVENTS]

It makes two snapshots of a training loop with batches of many lengths (2 million events unless told
otherwise; `own_stacks` gives every allocation a list of frames of its own, as PyTorch does), and runs each
verb in a process of its own. The ratios are to what the verbs took when every event was an object, on a
machine with two cores: above 1 is faster, or less memory.
"""

import os
import pickle
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from profiler.gpu.allocator import CachingAllocator

LAYERS = 24
FRAMES_DEEP = 20
BEFORE_SECONDS = {"replay": 17.0, "report": 32.0, "diff": 55.0}  # of 2 million events
BEFORE_BYTES = 1_300_000_000


class Recorder:
    """Events as torch.cuda.memory._snapshot() gives them, of an allocator that really hands out."""

    def __init__(self, own_stacks, seed):
        self.random = random.Random(seed)
        self.own_stacks = own_stacks
        self.events = []
        self.allocator = CachingAllocator(on_segment_event=self._segment)
        self.living = {}
        self.stacks = {}
        self.frames = [{"filename": f"model_{i % 40}.py", "line": i, "name": f"f{i}"} for i in range(600)]

    def _segment(self, event):
        self._event(event[0], event[1], event[2], [])

    def _event(self, action, address, size_bytes, frames):
        self.events.append(
            {
                "action": action,
                "addr": address,
                "size": size_bytes,
                "stream": 0,
                "time_us": 1_750_000_000_000_000 + 7 * len(self.events),
                "compile_context": "N/A",
                "user_metadata": "",
                "frames": frames,
            }
        )

    def _stack(self, place):
        if place not in self.stacks:
            self.stacks[place] = random.Random(place).sample(self.frames, FRAMES_DEEP)
        stack = self.stacks[place]
        return list(stack) if self.own_stacks else stack

    def alloc(self, size_bytes, place):
        frames = self._stack(place)
        address = self.allocator.malloc(size_bytes)
        self._event("alloc", address, size_bytes, frames)
        self.living[address] = (size_bytes, frames)
        return address

    def free(self, address):
        size_bytes, frames = self.living.pop(address)
        self.allocator.free(address)
        for action in ("free_requested", "free_completed"):
            self._event(action, address, size_bytes, frames)

    def snapshot(self):
        return {
            "segments": [
                {
                    "device": 0,
                    "address": each.address,
                    "total_size": each.total_size_bytes,
                    "stream": 0,
                    "segment_type": each.segment_type,
                    "segment_pool_id": (0, 0),
                    "is_expandable": False,
                    "frames": [],
                    "blocks": [
                        {
                            "address": b.address,
                            "size": b.size_bytes,
                            "requested_size": b.requested_bytes,
                            "state": b.state,
                            "frames": [],
                        }
                        for b in each.blocks
                    ],
                }
                for each in self.allocator.segments()
            ],
            "device_traces": [self.events],
            "allocator_settings": {"PYTORCH_CUDA_ALLOC_CONF": ""},
        }


def step(recorder, width, grown):
    """One training step: kept activations, short-lived temporaries, gradients, and small scalars."""
    tokens = recorder.random.randrange(256, 2048)
    kept = []
    for layer in range(LAYERS):
        for operation in range(12):
            kept.append(recorder.alloc(tokens * width * (1 + operation % 4), f"forward {layer} {operation}"))
            scratch = [recorder.alloc(tokens * 4 * (1 + i), f"scratch {operation} {i}") for i in range(3)]
            for address in scratch:
                recorder.free(address)
    gradients = []
    for layer in reversed(range(LAYERS)):
        for operation in reversed(range(12)):
            flowing = recorder.alloc(tokens * width, f"backward {layer} {operation}")
            recorder.free(kept.pop())
            gradients.append(recorder.alloc(width * width * 4, f"gradient {layer} {operation}"))
            recorder.free(flowing)
    norms = [recorder.alloc(4, f"norm {i}") for i in range(40)]
    for address in [*norms, *gradients]:
        recorder.free(address)
    if recorder.random.random() < 0.1:
        grown.append(recorder.alloc(recorder.random.randrange(1 << 24), "kept for ever"))


def write(path, events, own_stacks, seed):
    """A snapshot of about so many events."""
    recorder = Recorder(own_stacks, seed)
    parameters = [recorder.alloc(1 << 22, f"parameter {i}") for i in range(200)]
    while len(recorder.events) < events:
        step(recorder, 768, parameters)
    path.write_bytes(pickle.dumps(recorder.snapshot(), 4))


def timed(arguments):
    """Seconds and peak resident bytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "profiler", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{arguments}: {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main(arguments):
    events = int(arguments[0]) if arguments else 2_000_000
    with tempfile.TemporaryDirectory() as folder:
        for own_stacks in (False, True):
            first, second = (Path(folder) / f"{name}.pickle" for name in "ab")
            if os.fork() == 0:  # so that the memory of making them is not that of this process
                write(first, events, own_stacks, seed=1)
                write(second, events, own_stacks, seed=2)
                os._exit(0)
            os.wait()
            print(f"{events:,} events, {first.stat().st_size / 1e6:,.0f} MB, {own_stacks=}", flush=True)
            page = Path(folder) / "page.html"
            commands = {
                "replay": [first],
                "report": [first, "-o", page],
                "diff": [first, second],
            }
            for verb, words in commands.items():
                seconds, peak_bytes = timed([verb, *map(str, words)])
                faster = BEFORE_SECONDS[verb] * events / 2e6 / seconds
                print(
                    f"{verb:>7}: {seconds:6.1f} s ({faster:.1f} x as fast), {peak_bytes / 1e6:,.0f} MB "
                    f"({BEFORE_BYTES * events / 2e6 / peak_bytes:.1f} x less)",
                    flush=True,
                )
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main(sys.argv[1:])
