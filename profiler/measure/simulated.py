"""Measuring on the simulated GPU: the same training step, its allocations told by the device model.

Nothing is computed and no memory is taken; the caching allocator is a model of PyTorch's own
(profiler.allocator), and the temporaries of CUDA kernels come from named rules (profiler.kernels).
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.ledger import Allocation, Free, Mark, account
from profiler.live_tensors import labels
from profiler.measure import PhaseMeasurement

if TYPE_CHECKING:
    import torch

    from profiler.allocator import AllocatorSettings
    from profiler.gpus import GPU
    from profiler.training_step import Phase, TrainingState


@dataclass
class _Boundary:
    mark: Mark
    seconds: float
    reading_seconds: float
    memory_stats: dict[str, int]


class _Listener:
    """Writes what the device reports into the ledger's terms."""

    def __init__(self) -> None:
        self.entries: list[Allocation | Free | Mark] = []

    def allocated(self, address: int, size_bytes: int, requested_bytes: int, op: str) -> None:
        category = "workspaces" if op.endswith("workspace") else ""
        self.entries.append(Allocation(address, size_bytes, requested_bytes, op, category))

    def freed(self, address: int) -> None:
        self.entries.append(Free(address))


class SimulatedRecorder:
    """Records a run on a simulated `gpu`; inside the `with` block "cuda" means that device.

    `device` is what `train` takes. Running out of the GPU's memory raises torch.OutOfMemoryError there, as
    a real one does.
    """

    device: torch.device

    def __init__(
        self,
        gpu: GPU,
        settings: AllocatorSettings | None = None,
        on_phase: Callable[[Phase], None] = lambda phase: None,
    ) -> None:
        self._gpu = gpu
        self._settings = settings
        self._on_phase = on_phase
        self._listener = _Listener()
        self._boundaries: list[_Boundary] = []
        self._open = ExitStack()

    def __enter__(self) -> SimulatedRecorder:
        from profiler.simulation import simulated_gpu

        gc.collect()
        gc.freeze()
        self._open.callback(gc.unfreeze)
        # A training step reads floating-point values only to scale by them (Adafactor's norms).
        self.device = self._open.enter_context(
            simulated_gpu(self._gpu, self._settings, self._listener, float_reads=1.0)
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def phase(self, phase: Phase, state: TrainingState) -> AbstractContextManager[None]:
        """Record one phase of the training step."""
        return self._phase(phase, state)

    @contextmanager
    def _phase(self, phase: Phase, state: TrainingState) -> Iterator[None]:
        import torch

        self._on_phase(phase)
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            gc.collect()
            mark = Mark(phase, labels(state, self.device))
            self._listener.entries.append(mark)
            statistics = dict(torch.cuda.memory_stats())
            reading_seconds = time.perf_counter() - ended
            self._boundaries.append(_Boundary(mark, ended - started, reading_seconds, statistics))

    def measurements(self) -> list[PhaseMeasurement]:
        """One measurement a phase, in order; call it after the `with` block."""
        return [
            PhaseMeasurement(
                account=phase_account,
                seconds=boundary.seconds,
                reading_seconds=boundary.reading_seconds,
                device_used_bytes=None,
                memory_stats=boundary.memory_stats,
            )
            for phase_account, boundary in zip(account(self._listener.entries), self._boundaries, strict=True)
        ]
