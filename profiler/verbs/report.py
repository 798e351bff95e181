"""`profiler report`: one simulated run as an HTML page, a memory_viz snapshot, or a Perfetto trace."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.lazy_weights import weights_left_unwritten
from profiler.prediction import Simulation, in_one_line, simulate
from profiler.records import write_atomically
from profiler.targets import Target, register, settings_from
from profiler.trace_file import write_trace
from profiler.verbs.predict import allocator_settings, find_gpu
from profiler.workload import Workload


@dataclass(frozen=True)
class ReportOptions:
    """The words of the command line; a file is written where its path is given."""

    workload: Workload
    settings: list[str]
    gpu: str
    allocator_settings: str
    html: Path
    memory_viz: Path | None
    trace: Path | None
    save: Path | None


def report(options: ReportOptions) -> None:
    """Simulate and write; prints the paths. Raises ProfilerError as `profiler fit` does."""
    from profiler.export import memory_viz, perfetto
    from profiler.html_report import html

    gpu, settings = find_gpu(options.gpu), allocator_settings(options.allocator_settings)
    _register(Target(options.workload.model, settings_from(options.settings)))
    simulation = simulate(options.workload, gpu, settings)
    title = f"{options.workload} on {gpu.name}"
    writers: list[tuple[Path | None, Callable[[Simulation], bytes]]] = [
        (options.html, lambda run: html(run, title).encode()),
        # memory_viz reads no later protocol.
        (
            options.memory_viz,
            lambda run: pickle.dumps(memory_viz(run, options.allocator_settings), protocol=4),
        ),
        (options.trace, lambda run: json.dumps(perfetto(run)).encode()),
    ]
    for path, contents in writers:
        if path is not None:
            data = contents(simulation)
            write_atomically(path, lambda temporary, data=data: temporary.write_bytes(data))  # type: ignore[misc]
            print(path)
    if options.save is not None:
        write_trace(options.save, simulation.entries)
        print(options.save)


def _register(target: Target) -> None:
    try:
        with weights_left_unwritten():
            register(target)
    except ProfilerError:
        raise
    except (Exception, SystemExit) as error:
        raise ProfilerError(f"{target.name}: {in_one_line(error)}") from error
