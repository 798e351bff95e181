"""Running workloads one after the other, each measured in a fresh process, and keeping what they give."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU
from profiler.records.table import Row
from profiler.runs import execute as worker
from profiler.runs import rows as predicted_rows
from profiler.runs.provenance import device_class, gpu_here, in_a_path, provenance
from profiler.runs.rows import formula_rows
from profiler.runs.run_settings import RunSettings
from profiler.trace.phase import phases
from profiler.workload import Workload

# Seconds of imports that each run would repeat.
_PRELOADED_MODELS = ("gpt2", "bert", "llama", "vit", "resnet")


def run_key(workload: Workload, device: str, about: Mapping[str, str | None]) -> str:
    """The name that the rows of one run share; a run under this name need not be run again.

    It is another name for another workload, device, processor or torch version. `about` is a provenance.
    """
    where = hashlib.sha256(str(about["device_name"]).encode()).hexdigest()[:6]
    return f"{workload.key}-{device}-{where}-torch{about['torch_version']}"


def run(
    experiment: str, workload: Workload, settings: RunSettings, on_phase: Callable[[int], None]
) -> list[Row]:
    """Measure one workload and predict it: on the CPU by formula, on a GPU also by simulation of that GPU.

    Args:
        experiment: the name that the rows bear.
        workload: what to run.
        settings: where.
        on_phase: told the index of each phase as it begins.

    Returns:
        The rows of all sources, complete.

    Raises:
        ProfilerError: the workload failed for another reason than memory.
    """
    rows = [*_predicted_here(workload, settings.device_type), *measured(workload, settings, on_phase)]
    return _complete(experiment, workload, *real_device(settings.device_type), rows)


def predict(experiment: str, workload: Workload, device_type: str) -> list[Row]:
    """The rows of `run` without the measured ones: for a workload that has been measured already."""
    rows = _predicted_here(workload, device_type)
    return _complete(experiment, workload, *real_device(device_type), rows)


def simulate(experiment: str, workload: Workload, gpu: GPU) -> list[Row]:
    """Predict one workload on a GPU that need not be there, by formula and simulation; the rows, complete.

    Raises ProfilerError if the process that simulates dies.
    """
    return _complete(experiment, workload, *simulated_device(gpu), _predicted(workload, gpu))


def real_device(device_type: str) -> tuple[str, dict[str, str | None]]:
    """The device class and provenance of rows that are measured here."""
    return device_class(device_type), provenance(device_type)


def simulated_device(gpu: GPU) -> tuple[str, dict[str, str | None]]:
    """The device class and provenance of rows that are simulated here."""
    return in_a_path(gpu.name), provenance("cpu") | {"device_name": gpu.name}


def _predicted_here(workload: Workload, device_type: str) -> list[Row]:
    if device_type == "cuda":
        return _predicted(workload, gpu_here())
    from profiler.formula.facts import count

    return list(formula_rows(workload, count(workload), device_type))


def _predicted(workload: Workload, gpu: GPU) -> list[Row]:
    settings = RunSettings("simulated", gpu=gpu)
    rows: list[Row] = in_fresh_process(predicted_rows.run, (workload, settings), f"simulating {workload}")
    return rows


def _complete(
    experiment: str, workload: Workload, device: str, about: dict[str, str | None], rows: list[Row]
) -> list[Row]:
    shared = {
        "experiment": experiment,
        "run_key": run_key(workload, device, about),
        "workload": str(workload),
        **workload.to_dict(),
        "device": device,
        **about,
    }
    return [{**shared, **row} for row in rows]


def measured(workload: Workload, settings: RunSettings, on_phase: Callable[[int], None]) -> list[Row]:
    """Run the workload in a fresh process; one row a phase, the last of which may be out of memory.

    Raises ProfilerError if the workload failed for another reason.
    """
    phase_index = 0

    def note(index: int) -> None:
        nonlocal phase_index
        phase_index = index
        on_phase(index)

    try:
        with _environment(settings.allocator_settings):
            rows: list[Row] = in_fresh_process(
                worker.run,
                (workload, settings),
                str(workload),
                note,
                bool(settings.allocator_settings),
                settings.timeout_seconds,
            )
            return rows
    except _Killed:
        return [_killed(workload, phase_index)]


class _Killed(ProfilerError):
    """A process that the operating system ended."""


def in_fresh_process(
    target: Callable[..., None],
    arguments: tuple[Any, ...],
    name: str,
    on_phase: Callable[[int], None] = lambda index: None,
    fresh_environment: bool = False,
    timeout_seconds: float | None = None,
) -> Any:
    """What `target(connection, *arguments, log)` sends at last from a process of its own.

    It may send ("phase", index) before that, of which `on_phase` is told, and ("error", line) in its place.

    Raises ProfilerError with that line; or, with `name` and the last line of the log, if it ends without
    sending anything, or is silent for `timeout_seconds`: it is ended then.
    """
    context = process_context(fresh_environment)
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile(prefix="profiler-", suffix=".log") as log:
        process = context.Process(target=target, args=(sender, *arguments, log.name))
        process.start()
        sender.close()
        try:
            kind, content = _listen(receiver, on_phase, timeout_seconds)
        except TimeoutError:
            process.kill()
            process.join()
            raise ProfilerError(f"{name} said nothing for {timeout_seconds:.0f} s and was ended") from None
        process.join()
        if kind == "error":
            raise ProfilerError(content)
        if kind != "died":
            return content
        if process.exitcode == -signal.SIGKILL:
            raise _Killed(f"{name} was killed by the operating system, as it does when memory runs out")
        raise ProfilerError(f"{name} failed: {_last_line(Path(log.name))} (exit code {process.exitcode})")


@contextmanager
def _environment(allocator_settings: str) -> Iterator[None]:
    """What a process started in here inherits: torch reads its allocator's settings from there, once.

    PYTORCH_CUDA_ALLOC_CONF is the old name of PYTORCH_ALLOC_CONF, which torch reads since 2.9.
    """
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF") if allocator_settings else ()
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, allocator_settings))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def process_context(fresh_environment: bool = False) -> Any:
    """Fresh processes that start fast: forked from a server that has the libraries but no CUDA context.

    The server keeps the environment that it started with: `fresh_environment` asks for a process that does
    not come from it.
    """
    if fresh_environment or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Asking CUDA how many devices there are would spoil it for every process forked later; NVML may be asked.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    models = [f"transformers.models.{name}.modeling_{name}" for name in _PRELOADED_MODELS]
    # The optimizers import torch._dynamo, which takes longer than a simulation.
    libraries = ["torch", "torch._dynamo", "transformers", *models]
    context.set_forkserver_preload([*libraries, "profiler.runs.rows", "profiler.runs.simulation_worker"])
    return context


def _listen(
    receiver: Connection, on_phase: Callable[[int], None], timeout_seconds: float | None
) -> tuple[str, Any]:
    """The worker's last message; ("died", None) without one. Raises TimeoutError after so long a silence."""
    while True:
        if not receiver.poll(timeout_seconds):
            raise TimeoutError
        try:
            kind, content = receiver.recv()
        except EOFError:
            return "died", None
        if kind != "phase":
            return kind, content
        on_phase(content)


def _killed(workload: Workload, phase_index: int) -> Row:
    """The row of a run that the operating system ended, as it does when memory runs out."""
    return {
        **worker.phase_columns(phase_index, phases(workload)[phase_index]),
        **worker.out_of_memory("killed by the operating system, as it does when memory runs out"),
    }


def _last_line(log: Path) -> str:
    """What a process said last, before it died."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "the process ended without a word"
