"""What the recorders share: the frame around a phase, and its measurements."""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Self

import torch

from profiler.device import Device
from profiler.trace.events import Entry, Mark
from profiler.trace.ledger import account
from profiler.trace.phase import Phase
from profiler.trace.run import PhaseMeasurement, Refusal, Run, until_last_phase
from profiler.trace.segments import Changes
from profiler.training.step import TrainingState


@dataclass(frozen=True)
class Reading:
    """What a recorder reads of its device when a phase ends; see PhaseMeasurement."""

    mark: Mark
    device_used_bytes: int | None = None
    memory_stats: dict[str, int] = field(default_factory=dict)


class PhaseRecorder(ABC):
    """Records a run on one kind of device. Use as `with recorder: train(workload, device, recorder)`.

    `measurements()` then gives one PhaseMeasurement for each phase, a phase that raised included: what was
    allocated until then is its account. What happens between two phases is part of the later one.

    `device` is what the step takes; that of a GPU which is not there is known inside the block.
    """

    device: torch.device

    def __init__(self, on_phase: Callable[[Phase], None] = lambda phase: None) -> None:
        self._on_phase = on_phase
        self._boundaries: list[tuple[Reading, float, float]] = []  # with seconds and reading seconds
        self._open = ExitStack()

    def __enter__(self) -> Self:
        gc.collect()
        with ExitStack() as stack:
            self._start(stack)
            if not gc.get_freeze_count():  # whoever has frozen already keeps it so
                gc.freeze()  # what is alive now is not ours: collecting at each boundary stays fast
                stack.callback(gc.unfreeze)
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    @contextmanager
    def phase(self, phase: Phase, state: TrainingState) -> Iterator[None]:
        """Record one phase of the training step."""
        self._on_phase(phase)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._synchronize()
            ended = time.perf_counter()
            gc.collect()
            reading = self._read(phase, state)
            self._boundaries.append((reading, ended - started, time.perf_counter() - ended))

    def run(self, device: Device, name: str) -> Run:
        """All that was recorded of what ran on `device`; call it after the `with` block."""
        end = until_last_phase(self.entries)
        return Run(
            device,
            name,
            self.entries[:end],
            tuple(self.measurements()),
            self.reserved_bytes[:end],
            {at: changes for at, changes in self.segment_changes.items() if at < end},
            refusals=tuple(self.refusals),
            rests_on=tuple(map(str, self.rests_on)),
        )

    def measurements(self) -> list[PhaseMeasurement]:
        """One measurement a phase, in order; call it after the `with` block."""
        return [
            PhaseMeasurement(
                account=phase_account,
                seconds=seconds,
                reading_seconds=reading_seconds,
                device_used_bytes=reading.device_used_bytes,
                memory_stats=reading.memory_stats,
            )
            for phase_account, (reading, seconds, reading_seconds) in zip(
                account(self.entries), self._boundaries, strict=True
            )
        ]

    @property
    @abstractmethod
    def entries(self) -> Sequence[Entry]:
        """Everything that happened on the device, in order; ask for it after the `with` block."""

    @property
    def reserved_bytes(self) -> Sequence[int]:
        """What the allocator held after each entry; empty where nobody looks."""
        return ()

    @property
    def segment_changes(self) -> Changes:
        """What the allocator took from the driver and gave back; empty where nobody looks."""
        return {}

    @property
    def refusals(self) -> Sequence[Refusal]:
        """The requests that the device had no room for, in order; empty where nobody looks."""
        return ()

    @property
    def rests_on(self) -> Sequence[object]:
        """What it rests on, a line each: what was read and not computed, or called and not modelled."""
        return ()

    @abstractmethod
    def _start(self, stack: ExitStack) -> None:
        """Begin to record; `stack` closes when the recording ends."""

    @abstractmethod
    def _read(self, phase: Phase, state: TrainingState) -> Reading:
        """Read the device at the end of a phase, and begin the next one."""

    def _synchronize(self) -> None:  # noqa: B027  not every device runs on by itself
        """Wait for what the device still does."""
