"""Recording a user's own training loop: `with profiler.record(model, optimizer) as recording: ...`.

Phases are found by themselves (profiler.recording.auto_phases), or named with `recording.phase("forward")`.
Works on the CPU, on CUDA, and on the simulated GPU of `profiler.simulated_gpu("A100-40GB")`, wherever the
model is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from profiler.device import CPU, CUDA, SIMULATED, Device
from profiler.errors import ProfilerError
from profiler.recording.owners import storages
from profiler.recording.recorder import PhaseRecorder
from profiler.recording.simulated import SimulatedRecorder
from profiler.trace.events import Allocation, Mark
from profiler.trace.ledger import CATEGORIES
from profiler.trace.phase import BACKWARD, FORWARD, OPTIMIZER_STEP, ZERO_GRAD, Phase
from profiler.trace.run import PhaseMeasurement, Run
from profiler.training.step import TrainingState
from profiler.units import format_bytes

if TYPE_CHECKING:
    import pandas as pd


# Wide tables are for the data frame; the summary names the categories that make up the peak.
_CATEGORIES_SHOWN = 3


class _Simulated:
    """The simulated GPU that `simulated_gpu` has open; one a process."""

    recorder: SimulatedRecorder | None = None


@contextmanager
def simulated_gpu(name: str) -> Iterator[torch.device]:
    """Inside, "cuda" is a simulated GPU that computes nothing and reports every block; yields its device.

    Args:
        name: a GPU's name, or a size such as "24 GiB".

    Raises:
        ProfilerError: no such GPU, one is open already, or backward() has run in this process before.
    """
    from profiler.gpu.cards import find_gpu
    from profiler.recording.simulated import PROGRAM_READS, SimulatedRecorder

    if _Simulated.recorder is not None:
        raise ProfilerError("a simulated GPU is open already; leave its block first")
    gpu = find_gpu(name)
    with ExitStack() as stack:
        # What a program gets that prints its loss: a number, not a value.
        recorder = SimulatedRecorder(gpu, float_reads=PROGRAM_READS)
        try:
            stack.enter_context(recorder)
        except RuntimeError as error:  # the process has begun to use autograd, or another backend
            raise ProfilerError(str(error)) from None
        _Simulated.recorder = recorder
        try:
            yield recorder.device
        finally:
            _Simulated.recorder = None


class _Open:
    """The recording whose block is open; one a process."""

    recording: Recording | None = None


class Recording:
    """What `record` yields. Its tables are complete after the block; they show an error's phase too."""

    def __init__(self, recorder: PhaseRecorder, device: Device, state: TrainingState) -> None:
        # The simulated GPU's recorder hears all that is recorded on it.
        shared = recorder.entries if recorder is _Simulated.recorder else ()
        self._recorded_before = sum(isinstance(entry, Mark) for entry in shared)
        self._recorder = recorder
        self._device = device
        self._name = " and ".join(type(module).__name__ for module in state.modules)
        self._state = state
        self._open: AbstractContextManager[None] | None = None
        self._named = False
        self._step, self._micro_batch, self._stepped = 0, 0, False
        self._run: Run | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Name a stretch of the loop; from the first use on, phases are no longer found by themselves.

        "forward", "backward", "optimizer_step" and "zero_grad" have their meaning in the tables: what a
        "forward" leaves alive is activations. Any other name is kept as it is.
        """
        self._close()
        self._named = True
        with self._recorder.phase(self._number(name), self._state):
            yield

    def _number(self, name: str) -> Phase:
        """The next phase: the first after an optimizer's step begins a step, each forward a micro-batch."""
        if self._step == 0 or (self._stepped and name not in (OPTIMIZER_STEP, ZERO_GRAD)):
            self._step, self._micro_batch, self._stepped = self._step + 1, 0, False
        self._stepped = self._stepped or name == OPTIMIZER_STEP
        self._micro_batch += name == FORWARD
        return Phase(self._step, name, self._micro_batch if name in (FORWARD, BACKWARD) else 0)

    @contextmanager
    def _found(self, phase: Phase, state: TrainingState) -> Iterator[None]:
        """A phase that auto_phases found."""
        if self._named:
            yield
            return
        opened = self._open = self._recorder.phase(phase, self._state)
        opened.__enter__()
        try:
            yield
        finally:
            if self._open is opened:
                self._state.batch = state.batch
                self._close()
                self._state.batch = None

    def _close(self) -> None:
        if self._open is not None:
            opened, self._open = self._open, None
            opened.__exit__(None, None, None)

    def _finish(self) -> None:
        """Read everything, at the end of the block."""
        run = self._recorder.run(self._device, self._name)
        self._run = replace(run, phases=run.phases[self._recorded_before :])

    @property
    def run(self) -> Run:
        """All that was recorded. Raises ProfilerError inside the block."""
        if self._run is None:
            raise ProfilerError("the recording is still open; read it after its `with` block")
        return self._run

    @property
    def measurements(self) -> Sequence[PhaseMeasurement]:
        """One measurement a phase, in order. Raises ProfilerError inside the block."""
        return self.run.phases

    def table(self) -> pd.DataFrame:
        """One row a phase: step, phase, micro_batch, bytes allocated and reserved at its end and at its peak,
        each category at both (columns `<category>_bytes`, `peak_<category>_bytes`), the peak's op, seconds.

        Reserved bytes are missing on the CPU, which has no caching allocator.
        """
        import pandas as pd

        rows = pd.DataFrame([_row(measurement) for measurement in self.measurements])
        whole = [name for name in rows.columns if name.endswith("_bytes")]
        return rows.astype(dict.fromkeys(whole, "Int64"))

    def save(self, path: str | Path) -> None:
        """Write every allocation and free to a file that `profiler diff` and `profiler report` read.

        Raises ProfilerError inside the block, or if the folder cannot be written.
        """
        self.run.save(path)

    def summary(self) -> str:
        """The phases with their peaks and what the peaks are made of, as text."""
        rows = [_summary_row(measurement) for measurement in self.measurements]
        shown = [0, 1, 2, *([3] if any(row[3] for row in rows) else [])]  # the CPU reserves nothing
        lines = []
        for row in (_SUMMARY, *rows):
            cells = [f"{row[0]:32}", *(f"{row[column]:>12}" for column in shown[1:])]
            lines.append(f"{''.join(cells)}  {row[4]}")
        if rows:
            top = self.run.highest_phase
            op = f" ({top.account.peak_op})" if top.account.peak_op else ""
            lines.append(f"peak: {format_bytes(top.peak_allocated_bytes)} in {top.account.phase}{op}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        """For notebooks: the summary's columns as an HTML table."""
        from html import escape

        cells = []
        for measurement in self.measurements:
            values = "".join(f"<td>{escape(value)}</td>" for value in _summary_row(measurement))
            cells.append(f"<tr>{values}</tr>")
        head = "".join(f"<th>{name}</th>" for name in _SUMMARY)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(cells)}</tbody></table>"


@contextmanager
def record(model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Iterator[Recording]:
    """Record the memory of the training loop in the block, phase by phase. A few steps are enough.

    Args:
        model: whose parameters, gradients and buffers are told apart; its device is the one recorded.
        optimizer: whose states are told apart.

    Raises:
        ProfilerError: the model has no parameters, or is on a device that cannot be recorded; another
            recording is open, or on the CPU torch.profiler, of which a process can have one.
    """
    from profiler.recording.auto_phases import auto_phases

    if _Open.recording is not None:
        raise ProfilerError("a recording is open already; leave its block first")
    state = TrainingState((model,), () if optimizer is None else (optimizer,))
    with ExitStack() as stack:
        device, recorder = _recorder(model, state)
        if recorder is not _Simulated.recorder:
            stack.enter_context(recorder)
        recording = _Open.recording = Recording(recorder, device, state)
        try:
            with auto_phases(recording._found):
                yield recording
        finally:
            _Open.recording = None
            stack.close()
            recording._finish()
            state.modules, state.optimizers, state.batch = (), (), None


def _recorder(model: torch.nn.Module, state: TrainingState) -> tuple[Device, PhaseRecorder]:
    first = next(model.parameters(), None)
    if first is None:
        raise ProfilerError(f"{type(model).__name__} has no parameters to record")
    kind = first.device.type
    if _Simulated.recorder is not None and kind == "cuda":
        return Device(SIMULATED, _Simulated.recorder.gpu), _Simulated.recorder
    if kind == "cuda":
        from profiler.recording.cuda import CudaRecorder

        return Device(CUDA), CudaRecorder(from_snapshot=True)
    if kind == "cpu":
        if torch.autograd._profiler_enabled():
            raise ProfilerError(
                "torch.profiler is on, and what records the CPU is one too: leave its block, or record on a "
                "simulated GPU"
            )
        from profiler.recording.cpu import CpuRecorder

        alive = storages(state, first.device).items()
        return Device(CPU), CpuRecorder(baseline=[Allocation(*block, block[1]) for block in alive])
    if kind == "meta":
        name = type(model).__name__
        raise ProfilerError(f"{name} is on 'meta', without memory: call its to_empty(device=...) before")
    raise ProfilerError(f"no recorder for a model on {kind!r}; cpu and cuda can be recorded")


def _row(measurement: PhaseMeasurement) -> dict[str, Any]:
    phase = measurement.account.phase
    return {
        "step": phase.step,
        "phase": phase.name,
        "micro_batch": phase.micro_batch,
        "allocated_bytes": measurement.allocated_bytes,
        "peak_allocated_bytes": measurement.peak_allocated_bytes,
        "reserved_bytes": measurement.reserved_bytes,
        "peak_reserved_bytes": measurement.peak_reserved_bytes,
        **{f"{category}_bytes": measurement.end[category] for category in CATEGORIES},
        **{f"peak_{category}_bytes": measurement.peak[category] for category in CATEGORIES},
        "peak_op": measurement.account.peak_op,
        "seconds": measurement.seconds,
    }


_SUMMARY = ("phase", "allocated", "peak", "reserved", "at the peak")


def _summary_row(measurement: PhaseMeasurement) -> tuple[str, str, str, str, str]:
    reserved = measurement.peak_reserved_bytes
    return (
        str(measurement.account.phase),
        format_bytes(measurement.allocated_bytes),
        format_bytes(measurement.peak_allocated_bytes),
        format_bytes(reserved) if reserved is not None else "",
        _largest(measurement.peak),
    )


def _largest(peak: Any) -> str:
    named = sorted(((size, category) for category, size in peak.items() if size), reverse=True)
    return ", ".join(
        f"{category.replace('_', ' ')} {format_bytes(size)}" for size, category in named[:_CATEGORIES_SHOWN]
    )
