"""A recorded program on the simulated GPU, compared with its trace."""

from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch

from profiler.gpu.cards import GPUS
from profiler.gpu.replay import replay_device
from profiler.gpu.simulated.device import simulated_gpu
from profiler.gpu.snapshot import load_snapshot
from tests.support.groundtruth import busiest_device, requests
from tests.support.recorded.blocks import Ledger
from tests.support.recorded.programs import Trace


@dataclass(frozen=True)
class Outcome:
    """Bytes of one run, or of its simulation."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    events: tuple[int, ...]  # bytes requested by each allocation, negative for a free, in order


def recorded(path: Path) -> Outcome:
    """What the trace holds: peaks of its replay, which must be exact, and its events."""
    snapshot = load_snapshot(path)
    device = busiest_device(snapshot)
    replayed = replay_device(device, snapshot.settings)
    if replayed.verdict != "exact":
        raise ValueError(f"{path.name}: the replay is {replayed.verdict}: {replayed.first_mismatch}")
    return Outcome(replayed.peak_allocated_bytes, replayed.peak_reserved_bytes, requests(device))


def simulated(trace: Trace) -> Outcome:
    """The program from an empty device; the peaks and events of the part that was recorded."""
    ledger = Ledger()
    with (
        simulated_gpu(
            GPUS[trace.gpu], trace.settings, observer=ledger, torch_version=trace.torch_version
        ) as device,
        closing(trace.program(device)) as program,
    ):
        next(program)
        torch.cuda.reset_peak_memory_stats()
        ledger.clear()
        next(program)
        return Outcome(
            torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(), tuple(ledger.events)
        )


def matched_events(predicted: Outcome, measured: Outcome) -> int:
    """Events equal from the first on."""
    pairs = zip(predicted.events, measured.events, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
