"""`profiler report`: a run or a folder of results as an HTML page; a run as a file for other tools."""

from __future__ import annotations

import json
import pickle
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError
from profiler.files import write_atomically
from profiler.formula.per_phase import phase_terms
from profiler.verbs import options as words
from profiler.verbs.list import questions
from profiler.views import screen

if TYPE_CHECKING:
    from profiler.trace.run import Run


SUMMARY = "a run, a snapshot or a folder of results as one HTML page; files for memory_viz and Perfetto"
DESCRIPTION = (
    "Write one HTML file that needs no network: of a training step that is predicted now, of a CUDA memory "
    "snapshot or a saved run, or of a folder of results."
)
EXAMPLES = (
    "examples: profiler report gpt2 --batch 8 --length 512 --memory-viz gpt2.pickle; "
    "profiler report snapshot.pickle -o snapshot.html; profiler report results/cpu -o results.html"
)

_OF_A_RUN = ("device", "memory_viz", "trace", "save")


def add_options(parser: ArgumentParser) -> None:
    """What to show, and the files to write."""
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument(
        "model", nargs="?", metavar="TARGET", help=f"{words.MODEL}; a snapshot, a saved run, a results folder"
    )
    words.add_loop(either)
    words.add_prediction_options(parser)
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
        _from_prediction(options)


def _from_file(path: Path, options: Namespace) -> None:
    from profiler.trace.load import load
    from profiler.views.pages.results import results_page

    words.refuse(options, words.PREDICTION_OPTIONS, f"is for a run that is predicted now, not for {path}")
    if path.is_dir():
        words.refuse(options, _OF_A_RUN, "is of a run, not of a folder")
        _write(options.output, results_page(path, _questions()))
        return
    with screen.reading(path) as on_progress:
        run = load(path, options.device, on_progress)
    _write_run(run, options, _formula(run))


def _questions() -> dict[str, str]:
    """None where the experiments are not: the tables speak for themselves."""
    try:
        return questions()
    except ProfilerError:
        return {}


def _from_prediction(options: Namespace) -> None:
    run = words.predicted(options)
    _write_run(run, options, _formula(run))


def _formula(run: Run) -> list[Mapping[str, Any]]:
    """What the formula says of each phase; nothing where the workload or the GPU is not known."""
    if run.workload is None or run.device.gpu is None:
        return []
    try:
        facts = words.facts(run.workload, run.device.gpu)
    except ProfilerError as error:
        print(error, file=sys.stderr)
        return []
    return [phase.to_dict() for phase in phase_terms(run.workload, facts, "cuda")]


def _write_run(run: Run, options: Namespace, formula: Sequence[Mapping[str, Any]]) -> None:
    """The page, and the files that are asked for."""
    from profiler.views.memory_viz import memory_viz, perfetto
    from profiler.views.pages.run import run_page

    _write(options.output, run_page(run, formula))
    if options.memory_viz is not None:  # it reads no later protocol
        _write(options.memory_viz, pickle.dumps(memory_viz(run), protocol=4))
    if options.trace is not None:
        _write(options.trace, json.dumps(perfetto(run)))
    if options.save is not None:
        run.save(options.save)
        _say(options.save)


def _write(path: Path, contents: str | bytes) -> None:
    data = contents.encode(errors="backslashreplace") if isinstance(contents, str) else contents
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    _say(path)


def _say(path: Path) -> None:
    screen.console().print(str(path), soft_wrap=True)
