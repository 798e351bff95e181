"""Measuring on the CPU: the real step with its real tensors, each allocation of torch's CPU allocator.

The events come from inside the allocator (c10's `reportMemoryUsageToProfiler`, which torch.profiler
collects with `profile_memory=True`), so every tensor is seen, those inside an op too, and nothing that
autograd decides is changed. A TorchDispatchMode would change it: under any mode autograd accumulates
gradients out of place (`isTensorSubclassLike` in ATen/TensorSubclassLikeUtils.h).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.ledger import Allocation, Free, Mark, account
from profiler.live_tensors import labels
from profiler.measure import PhaseMeasurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from profiler.training_step import Phase, TrainingState

_MARK = "profiler phase end"


@dataclass
class _Boundary:
    mark: Mark
    seconds: float
    reading_seconds: float
    resident_bytes: int | None


class CpuRecorder:
    """Records a run on the CPU. Use as `with CpuRecorder() as recorder: train(..., recorder)`.

    `measurements()` then gives one PhaseMeasurement for each phase, a phase that raised included: what was
    allocated until then is its account. `baseline` is what was alive before, in this order.
    """

    def __init__(
        self, on_phase: Callable[[Phase], None] = lambda phase: None, baseline: Sequence[Allocation] = ()
    ) -> None:
        self._baseline = baseline
        self._on_phase = on_phase
        self._boundaries: list[_Boundary] = []
        self._profile: Any = None

    def __enter__(self) -> CpuRecorder:
        from torch.profiler import ProfilerActivity, profile

        gc.collect()
        gc.freeze()  # what is alive now is not ours: collecting at each boundary stays fast
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        self._profile.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._profile.__exit__(None, None, None)
        gc.unfreeze()

    @contextmanager
    def phase(self, phase: Phase, state: TrainingState) -> Iterator[None]:
        """Record one phase of the training step."""
        import torch
        from torch.profiler import record_function

        self._on_phase(phase)
        started = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            gc.collect()
            with record_function(_MARK):
                mark = Mark(phase, labels(state, torch.device("cpu")))
            resident_bytes = _resident_bytes()
            self._boundaries.append(
                _Boundary(mark, ended - started, time.perf_counter() - ended, resident_bytes)
            )

    @cached_property
    def entries(self) -> Sequence[Allocation | Free | Mark]:
        """Everything that happened, in order; ask for it after the `with` block."""
        marks = [boundary.mark for boundary in self._boundaries]
        return [*self._baseline, *_ledger_entries(self._profile, marks)]

    def measurements(self) -> list[PhaseMeasurement]:
        """One measurement a phase, in order; call it after the `with` block."""
        return [
            PhaseMeasurement(
                account=phase_account,
                seconds=boundary.seconds,
                reading_seconds=boundary.reading_seconds,
                device_used_bytes=boundary.resident_bytes,
                memory_stats={},
            )
            for phase_account, boundary in zip(account(self.entries), self._boundaries, strict=True)
        ]


def _ledger_entries(profile: Any, marks: list[Mark]) -> list[Allocation | Free | Mark]:
    """The profile's allocations, frees and phase ends in the order in which they happened."""
    from torch._C._profiler import _EventType

    timed: list[tuple[int, Allocation | Free | Mark]] = []
    remaining_marks = iter(marks)
    pending = list(profile.profiler.kineto_results.experimental_event_tree())
    found_marks: list[int] = []
    while pending:
        event = pending.pop()
        pending.extend(event.children)
        if event.tag == _EventType.Allocation:
            timed.append((event.start_time_ns, _allocation_or_free(event)))
        elif event.name == _MARK:
            found_marks.append(event.start_time_ns)
    timed.extend((time_ns, next(remaining_marks)) for time_ns in sorted(found_marks))
    return [entry for _, entry in sorted(timed, key=lambda pair: pair[0])]


def _allocation_or_free(event: Any) -> Allocation | Free:
    fields = event.extra_fields
    if fields.alloc_size < 0:
        return Free(fields.ptr)
    op = event.parent.name if event.parent is not None else ""
    return Allocation(fields.ptr, fields.alloc_size, fields.alloc_size, op)


def _resident_bytes() -> int | None:
    """Resident memory of this process, where the system has /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    import os

    return pages * os.sysconf("SC_PAGE_SIZE")
