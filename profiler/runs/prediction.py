"""What a training step does to a GPU that is not there: one simulation, from the program to its account."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError, first_line
from profiler.trace.events import Allocation
from profiler.trace.moments import Entries, Moment, peaks
from profiler.trace.phase import Phase
from profiler.trace.run import PhaseMeasurement

if TYPE_CHECKING:
    from profiler.gpu.allocator import AllocatorSettings
    from profiler.gpu.cards import GPU
    from profiler.recording.simulated import Refusal, SimulatedRecorder
    from profiler.workload import Workload


@dataclass(frozen=True)
class OutOfMemory:
    """A run that did not fit: in which phase, and the request that had no room."""

    phase: Phase
    message: str
    request: Refusal


@dataclass(frozen=True)
class Simulation:
    """One simulated run.

    Attributes:
        gpu: the simulated GPU.
        phases: one measurement a phase; after running out of memory, the last one is what there was.
        entries: every allocation and free in order, with the ends of the phases.
        reserved_bytes: what the allocator held after each entry.
        out_of_memory: None for a run that came to its end.
    """

    gpu: GPU
    phases: tuple[PhaseMeasurement, ...]
    entries: Entries
    reserved_bytes: tuple[int, ...]
    out_of_memory: OutOfMemory | None

    def peaks(self) -> list[Moment]:
        """The peak of each phase."""
        return peaks(self.entries, self.reserved_bytes)

    def peak(self) -> Moment:
        """The first moment with the most allocated."""
        return max(self.peaks(), key=lambda moment: moment.allocated_bytes)

    @property
    def allocations(self) -> int:
        """How many blocks were handed out."""
        return sum(isinstance(entry, Allocation) for entry in self.entries)


def simulate(workload: Workload, gpu: GPU, settings: AllocatorSettings | None = None) -> Simulation:
    """Train `workload` on a simulated `gpu`, in this process.

    Raises ProfilerError for a workload that cannot be built, or that does what the simulation cannot.
    """
    from profiler.recording.simulated import OWN_STEP_READS, SimulatedRecorder
    from profiler.training.optimizers import import_library
    from profiler.training.step import train

    def run(recorder: SimulatedRecorder) -> None:
        train(workload, recorder.device, recorder, initialize=False)

    import_library(workload)  # where a GPU seems to be there, it would look for the GPU's own libraries
    return _simulate(run, SimulatedRecorder(gpu, settings, float_reads=OWN_STEP_READS), gpu, str(workload))


def simulate_function(reference: str, gpu: GPU, settings: AllocatorSettings | None = None) -> Simulation:
    """Run a user's own training code on a simulated `gpu`, in this process, and find its phases.

    Nothing is computed: a program that reads a floating-point scalar, such as its loss, gets 1.0.

    Args:
        reference: "path/to/script.py:function". The function takes nothing, or a device; it trains on "cuda".
        gpu: the GPU.
        settings: of its allocator.

    Raises:
        ProfilerError: no such file or function, or it failed; names the user's own line.
    """
    from profiler.recording.auto_phases import auto_phases
    from profiler.recording.simulated import PROGRAM_READS, SimulatedRecorder

    path, function_name = split_reference(reference)

    def run(recorder: SimulatedRecorder) -> None:
        with auto_phases(recorder):
            function = _load(path, function_name)
            function(*([recorder.device] if inspect.signature(function).parameters else []))

    return _simulate(run, SimulatedRecorder(gpu, settings, float_reads=PROGRAM_READS), gpu, reference)


def is_reference(name: str) -> bool:
    """Whether `name` is a script's function rather than a model."""
    return ".py:" in name or name.endswith(".py")


def split_reference(reference: str) -> tuple[Path, str]:
    """The file and the function of "script.py:function"; raises ProfilerError where there is no such file."""
    file, _, function = reference.rpartition(":")
    if not file or not function:
        raise ProfilerError(f"{reference} names no function; write it as in train.py:main")
    path = Path(file)
    if not path.is_file():
        raise ProfilerError(f"{file} does not exist")
    return path, function


def _simulate(
    run: Callable[[SimulatedRecorder], None], recorder: SimulatedRecorder, gpu: GPU, name: str
) -> Simulation:
    import torch

    out_of_memory = None
    try:
        with recorder:
            try:
                run(recorder)
            except torch.OutOfMemoryError as error:
                if not recorder.refusals:
                    raise
                message = first_line(error)
                out_of_memory = OutOfMemory(
                    recorder.measurements()[-1].account.phase, message, recorder.refusals[-1]
                )
    except ProfilerError:
        raise
    except (Exception, SystemExit) as error:
        raise ProfilerError(f"{name}: {in_one_line(error)}") from error
    return Simulation(
        gpu,
        tuple(recorder.measurements()),
        recorder.entries,
        tuple(recorder.reserved_bytes),
        out_of_memory,
    )


def _load(path: Path, function_name: str) -> Callable[..., Any]:
    """Import the file under its own name, as a program beside it would."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ProfilerError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ProfilerError(f"{path} has no function {function_name!r}")
    return function


def in_one_line(error: BaseException) -> str:
    """The error's kind, its first line, and the innermost line outside torch and this package."""
    from profiler.gpu.simulated import UnsupportedOperation
    from profiler.recording.places import is_user_code, short_path

    words = str(error).splitlines()
    said = words[0] if words else ""
    if isinstance(error, UnsupportedOperation):
        return f"cannot be simulated: {said}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {said} ({short_path(error.filename)}:{error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_user_code(f.filename)]
    place = f" ({short_path(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {said}{place}"
