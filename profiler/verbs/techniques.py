"""`profiler techniques`: what each memory technique and each pair would save, ranked."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.progress import Progress
from rich.table import Table

from profiler.device import VIRTUAL, Device
from profiler.errors import ProfilerError
from profiler.formula.terms import PhaseTerms
from profiler.runs.processes import threads_side_by_side
from profiler.trace.ledger import CATEGORIES
from profiler.units import format_bytes
from profiler.verbs import options as words
from profiler.views import screen
from profiler.workload import Workload

if TYPE_CHECKING:
    from profiler.advice.savings import Saving
    from profiler.trace.run import Run


SUMMARY = "what each memory technique would save, predicted and ranked"
DESCRIPTION = "Rank the techniques and their pairs by formula, then run the best (needs no GPU)."
EXAMPLES = "example: profiler techniques gpt2 --batch 8 --length 512 --gpu A100-40GB"


def add_options(parser: ArgumentParser) -> None:
    """A model, the GPU for it, and how many pairs to show."""
    parser.add_argument("model", metavar="TARGET", help=words.MODEL)
    words.add_prediction_options(parser)
    words.add_settings(parser)
    parser.add_argument(
        "--pairs",
        type=words.whole_number,
        default=10,
        metavar="N",
        help="how many of the best pairs; default: 10",
    )


def run(options: Namespace) -> None:
    """Print the predicted peak, and tables of what techniques and pairs of them save of allocated bytes.

    The formula ranks all of them. All are run on a virtual GPU, the best pairs on a simulated one, which
    takes longer; what was run is exact, and ranks the pairs that are shown.

    Raises ProfilerError for a model that there is not, a length that it needs, or an unknown GPU.
    """
    from profiler.advice.savings import savings
    from profiler.training.models import examine

    workload, device = words.workload_from(options), words.device_from(options)
    gpu = device.gpu
    assert gpu is not None
    settings = words.allocator_settings(options)
    examine(workload, gpu)  # a sequence too long is said here
    console = screen.console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        counting = progress.add_task("counting", total=None)
        before, found = savings(
            workload,
            gpu,
            lambda counted, total: progress.update(counting, completed=counted, total=total),
        )
        singles = [saving for saving in found if len(saving.techniques) == 1]
        pairs = [saving for saving in found if len(saving.techniques) == 2]
        if device.kind != VIRTUAL or not options.pairs:
            pairs = pairs[: options.pairs]
        workloads = [workload, *(saving.workload for saving in singles + pairs)]
        running = progress.add_task("running", total=len(workloads))

        def tried(changed: Workload) -> Run | str:
            run = _tried(changed, device, settings)
            progress.advance(running)
            return run

        with threads_side_by_side() as threads:
            first, *runs = threads.map(tried, workloads)
    console.print(screen.styled((str(workload), "bold"), f" on {device}"))
    console.print(f"  by formula {format_bytes(before.peak_bytes)} allocated at the peak, in {before.phase}")
    if not isinstance(first, str):
        console.print(
            f"  run {format_bytes(first.peak_allocated_bytes)} allocated at the peak, in "
            f"{first.peak().phase}; {format_bytes(first.needed_bytes)} reserved"
        )
    console.print()
    console.print(
        _table(
            "One technique: what it saves of the allocated peak",
            True,
            before,
            first,
            zip(singles, runs[: len(singles)], strict=True),
        )
    )
    if pairs:
        console.print()
        tried_pairs = sorted(zip(pairs, runs[len(singles) :], strict=True), key=_peak_bytes)[: options.pairs]
        title = f"Two at once, the best {len(tried_pairs)}: what they save of the allocated peak"
        console.print(_table(title, False, before, first, tried_pairs))
    for changed, run in zip(workloads, [first, *runs], strict=True):
        if isinstance(run, str):
            console.print(f"not run: {changed}: {run}", style="dim", soft_wrap=True)
    if not isinstance(first, str):
        words.say_what_it_rests_on(first, options.engine)


def _peak_bytes(pair: tuple[Saving, Run | str]) -> int:
    """What it then takes; by formula, where it could not be run."""
    saving, run = pair
    return saving.peak.peak_bytes if isinstance(run, str) else run.peak_allocated_bytes


def _tried(workload: Workload, device: Device, allocator_settings: str) -> Run | str:
    """The run, or the reason why there is none."""
    from profiler.runs.execute import run_in_fresh_process
    from profiler.runs.run_settings import RunSettings

    settings = RunSettings(allocator_settings=allocator_settings)
    try:
        return run_in_fresh_process(workload, device, settings)
    except ProfilerError as error:
        return str(error)


def _table(
    title: str,
    with_cost: bool,
    before: PhaseTerms,
    first: Run | str,
    rows: Iterable[tuple[Saving, Run | str]],
) -> Table:
    numbers = (screen.number(column) for column in ("by formula", "run", "peak then"))
    words_of = ("in", "mostly", "technique", *(["cost"] if with_cost else []))
    table = screen.table(*numbers, *words_of, title=title, lines=False)
    for saving, run in rows:
        cells = [
            _percent(saving.saved_allocated_bytes, before.peak_bytes),
            "",
            format_bytes(saving.peak.peak_bytes),
        ]
        phase = str(saving.peak.phase)
        if not isinstance(first, str) and not isinstance(run, str):
            then, now = run.peak_allocated_bytes, first.peak_allocated_bytes
            cells[1:] = [_percent(now - then, now), format_bytes(then)]
            phase = str(run.peak().phase)
        names = " + ".join(technique.name for technique in saving.techniques)
        costs = [saving.techniques[0].cost] if with_cost else []
        table.add_row(*cells, phase, _largest_change(before, saving.peak), names, *costs)
    return table


def _percent(saved_allocated_bytes: int, of_bytes: int) -> str:
    """What is saved, with a minus sign in front; more than before has a plus."""
    share = round(-100 * saved_allocated_bytes / of_bytes, 1)
    return f"{share:+.1f} %" if share else "0 %"


def _largest_change(before: PhaseTerms, after: PhaseTerms) -> str:
    """The category that shrinks most between two peaks."""
    shrunk = {name: _category_bytes(before, name) - _category_bytes(after, name) for name in CATEGORIES}
    largest = max(shrunk, key=lambda name: shrunk[name])
    return largest.replace("_", " ") if shrunk[largest] > 0 else ""


def _category_bytes(prediction: PhaseTerms, category: str) -> int:
    return sum(term.size_bytes for term in prediction.peak if term.category == category)
