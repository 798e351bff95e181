"""`profiler report`: a run or a folder of results as an HTML page; a simulated run for other tools."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.files import write_atomically
from profiler.gpu.cards import find_gpu
from profiler.runs.prediction import Simulation, simulate
from profiler.runs.simulation_worker import prepared
from profiler.trace.file import write_trace
from profiler.training.own_models import Target, settings_from, with_own_paths
from profiler.verbs.list import questions
from profiler.verbs.predict import allocator_settings
from profiler.workload import Workload


@dataclass(frozen=True)
class ReportOptions:
    """The words of the command line; a file is written where its path is given.

    The workload's model is a target to simulate, or the path of a results folder or of a file of a run.
    """

    workload: Workload
    settings: list[str]
    gpu: str
    allocator_settings: str
    html: Path
    memory_viz: Path | None
    trace: Path | None
    save: Path | None


def report(options: ReportOptions) -> None:
    """Write the page, and print the paths. Raises ProfilerError as `profiler fit` does."""
    path = Path(options.workload.model)
    if path.is_dir() or (path.is_file() and path.suffix not in (".json", ".py")):
        _from_file(path, options)
    else:
        _from_simulation(options)


def _from_file(path: Path, options: ReportOptions) -> None:
    from profiler.trace.load import load
    from profiler.views.pages.results import results_page
    from profiler.views.pages.run import run_page

    if options.memory_viz or options.trace or options.save:
        raise ProfilerError("--memory-viz, --trace and --save are for a run that is simulated now")
    page = results_page(path, _questions()) if path.is_dir() else run_page(load(path), path.name)
    _write(options.html, page.encode())


def _questions() -> dict[str, str]:
    """None where the experiments are not: the tables speak for themselves."""
    try:
        return questions()
    except ProfilerError:
        return {}


def _from_simulation(options: ReportOptions) -> None:
    from profiler.views.memory_viz import memory_viz, perfetto
    from profiler.views.pages.run import simulation_page

    gpu, settings = find_gpu(options.gpu), allocator_settings(options.allocator_settings)
    target = Target(options.workload.model, settings_from(options.settings))
    prepared(target, options.workload)
    simulation = with_own_paths(simulate(options.workload, gpu, settings), target)
    title = f"{options.workload} on {gpu.name}"
    writers: list[tuple[Path | None, Callable[[Simulation], bytes]]] = [
        (options.html, lambda run: simulation_page(run, title).encode()),
        # memory_viz reads no later protocol.
        (
            options.memory_viz,
            lambda run: pickle.dumps(memory_viz(run, options.allocator_settings), protocol=4),
        ),
        (options.trace, lambda run: json.dumps(perfetto(run)).encode()),
    ]
    for path, contents in writers:
        if path is not None:
            _write(path, contents(simulation))
    if options.save is not None:
        write_trace(options.save, simulation.entries)
        print(options.save)


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    print(path)
