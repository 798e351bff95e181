"""Measuring on the CPU: the real step with its real tensors, each allocation of torch's CPU allocator.

The events come from inside the allocator (c10's `reportMemoryUsageToProfiler`, which torch.profiler
collects with `profile_memory=True`), so every tensor is seen, those inside an op too, and nothing that
autograd decides is changed. A TorchDispatchMode would change it: under any mode autograd accumulates
gradients out of place (`isTensorSubclassLike` in ATen/TensorSubclassLikeUtils.h).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

from profiler.recording.owners import labels
from profiler.recording.recorder import PhaseRecorder, Reading
from profiler.trace.events import Allocation, Entry, Free, Mark
from profiler.trace.phase import Phase
from profiler.training.step import TrainingState

_MARK = "profiler phase end"
_KINETO_LOG_LEVEL = "KINETO_LOG_LEVEL"
_KINETO_SAYS_NOTHING = "6"  # above STAGE and USDT (kineto's ILoggerObserver.h)


class CpuRecorder(PhaseRecorder):
    """Records a run on the CPU; see PhaseRecorder. `baseline` is what was alive before, in this order."""

    device = torch.device("cpu")

    def __init__(
        self, on_phase: Callable[[Phase], None] = lambda phase: None, baseline: Sequence[Allocation] = ()
    ) -> None:
        super().__init__(on_phase)
        self._baseline = baseline
        self._profile: Any = None

    def _start(self, stack: ExitStack) -> None:
        with _quiet_kineto():
            self._profile = stack.enter_context(
                profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            )

    def _read(self, phase: Phase, state: TrainingState) -> Reading:
        with record_function(_MARK):
            mark = Mark(phase, labels(state, self.device))
        return Reading(mark, _resident_bytes())

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """Everything that happened, in order; ask for it after the `with` block."""
        marks = [reading.mark for reading, _, _ in self._boundaries]
        return [*self._baseline, *_ledger_entries(self._profile, marks)]


@contextmanager
def _quiet_kineto() -> Iterator[None]:
    """While it starts, which is when it reads how much to say: that there is no GPU is no error here."""
    if _KINETO_LOG_LEVEL in os.environ:
        yield
        return
    os.environ[_KINETO_LOG_LEVEL] = _KINETO_SAYS_NOTHING
    try:
        yield
    finally:
        del os.environ[_KINETO_LOG_LEVEL]


def _ledger_entries(profile: Any, marks: list[Mark]) -> list[Entry]:
    """The profile's allocations, frees and phase ends in the order in which they happened."""

    timed: list[tuple[int, Entry]] = []
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
