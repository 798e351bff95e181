"""`profiler report`: a run or a folder of results as an HTML page; a simulated run for other tools."""

from __future__ import annotations

import json
import pickle
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.errors import ProfilerError
from profiler.files import write_atomically
from profiler.trace.file import write_trace
from profiler.verbs import options as words
from profiler.verbs.list import questions
from profiler.views import screen
from profiler.workload import Workload

if TYPE_CHECKING:
    from profiler.runs.prediction import Simulation


SUMMARY = "a run, a snapshot or a folder of results as one HTML page; files for memory_viz and Perfetto"
DESCRIPTION = (
    "Write one HTML file that needs no network: of a training step that is simulated now, of a CUDA memory "
    "snapshot or a saved run, or of a folder of results."
)
EXAMPLES = (
    "examples: profiler report gpt2 --batch 8 --length 512 --memory-viz gpt2.pickle; "
    "profiler report snapshot.pickle -o snapshot.html; profiler report results/cpu -o results.html"
)


def add_options(parser: ArgumentParser) -> None:
    """What to show, and the files to write."""
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "model", nargs="?", metavar="TARGET", help=f"{words.MODEL}; a snapshot, a saved run, a results folder"
    )
    words.add_loop(either)
    words.add_simulation_options(parser)
    words.add_settings(parser)
    words.add_device(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="default: report.html",
    )
    parser.add_argument(
        "--memory-viz", type=Path, metavar="FILE", help="a snapshot for pytorch.org/memory_viz"
    )
    parser.add_argument("--trace", type=Path, metavar="FILE", help="counters for ui.perfetto.dev")
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="the run itself, for a later `profiler diff`"
    )


def run(options: Namespace) -> None:
    """Write the page, and print the paths. Raises ProfilerError as `profiler fit` does."""
    path = Path(options.model or "")
    if options.model and (path.is_dir() or (path.is_file() and path.suffix not in (".json", ".py"))):
        _from_file(path, options)
    else:
        words.refuse(options, ("device",), "is of a snapshot")
        _from_simulation(options)


def _from_file(path: Path, options: Namespace) -> None:
    from profiler.trace.load import load
    from profiler.views.pages.results import results_page
    from profiler.views.pages.run import run_page

    kept = (*words.SIMULATION_OPTIONS, "memory_viz", "trace", "save")
    words.refuse(options, kept, f"is for a run that is simulated now, not for {path}")
    if path.is_dir():
        words.refuse(options, ("device",), "is of a snapshot, not of a folder")
        page = results_page(path, _questions())
    else:
        with screen.reading(path) as on_progress:
            page = run_page(load(path, options.device, on_progress), path.name)
    _write(options.output, page.encode(errors="backslashreplace"))


def _questions() -> dict[str, str]:
    """None where the experiments are not: the tables speak for themselves."""
    try:
        return questions()
    except ProfilerError:
        return {}


def _from_simulation(options: Namespace) -> None:
    from profiler.views.memory_viz import memory_viz, perfetto
    from profiler.views.pages.run import simulation_page

    target, simulation = words.simulated(options)
    terms = words.formula(target, simulation.gpu) if isinstance(target, Workload) else []
    formula = [phase.to_dict() for phase in terms]
    title, settings = f"{target} on {simulation.gpu.name}", options.allocator_settings or ""
    writers: list[tuple[Path | None, Callable[[Simulation], bytes]]] = [
        (options.output, lambda run: simulation_page(run, title, formula).encode()),
        # memory_viz reads no later protocol.
        (options.memory_viz, lambda run: pickle.dumps(memory_viz(run, settings), protocol=4)),
        (options.trace, lambda run: json.dumps(perfetto(run)).encode()),
    ]
    for path, contents in writers:
        if path is not None:
            _write(path, contents(simulation))
    if options.save is not None:
        write_trace(options.save, simulation.entries)
        _say(options.save)


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    _say(path)


def _say(path: Path) -> None:
    screen.console().print(str(path), soft_wrap=True)
