"""`profiler fit`: will it fit, with which batch at most, and what would help. The verdict comes first."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table

from profiler.advice.fit import DOES_NOT_FIT, FITS, NOT_INCLUDED, TIGHT, Fit, Question, fit
from profiler.advice.largest_batch import LARGEST_BATCH
from profiler.gpu.cards import find_gpu
from profiler.runs.isolated import MeasuredRun, measure
from profiler.runs.provenance import check_device
from profiler.training.own_models import Target, settings_from
from profiler.units import format_bytes, parse_bytes
from profiler.verbs.predict import allocator_settings
from profiler.workload import Workload

DOES_NOT_FIT_CODE = 3
_MODULES_SHOWN = 5
_STYLES = {FITS: "bold green", TIGHT: "bold yellow", DOES_NOT_FIT: "bold red"}


@dataclass(frozen=True)
class FitOptions:
    """The words of the command line, see profiler.cli."""

    target: str
    gpu: str
    workload: dict[str, Any]
    settings: list[str]
    context: str | None
    allocator_settings: str
    with_largest: bool
    with_techniques: bool
    as_json: bool
    verify: bool


def run(options: FitOptions) -> int:
    """Answer and print; returns the exit code: 0 fits, 3 does not fit."""
    gpu = find_gpu(options.gpu)
    allocator_settings(options.allocator_settings)  # wrong ones are said here
    question = Question(
        allocator_settings=options.allocator_settings,
        with_largest=options.with_largest,
        with_techniques=options.with_techniques,
    )
    if options.context:
        question = replace(question, context_bytes=parse_bytes(options.context))
    target = Target(options.target, settings_from(options.settings))
    workload = Workload(model=options.target, **options.workload)
    if options.verify:
        check_device("cuda")
    answer = fit(target, workload, gpu, question)
    measured = None
    if options.verify:
        measured = measure(target, workload, allocator_settings=options.allocator_settings)
    if options.as_json:
        print(json.dumps(as_dict(answer, measured), indent=2))
    else:
        _print(answer, measured)
    return DOES_NOT_FIT_CODE if answer.verdict == DOES_NOT_FIT else 0


def as_dict(answer: Fit, measured: MeasuredRun | None = None) -> dict[str, Any]:
    """The answer as plain values, bytes as integers: what --json prints."""
    run, largest = answer.run, answer.largest
    return {
        "verdict": answer.verdict,
        "workload": run.workload.to_dict(),
        "parameters": run.parameters,
        "assumed": run.assumed,
        "gpu": answer.gpu.name,
        "gpu_memory_bytes": answer.gpu.memory_bytes,
        "context_allowance_bytes": answer.context_bytes,
        "usable_bytes": answer.usable_bytes,
        "headroom_bytes": answer.headroom_bytes,
        "peak_reserved_bytes": answer.taken_bytes,
        "peak_allocated_bytes": run.peak.peak_allocated_bytes,
        "peak_phase": run.peak.name,
        "peak_op": run.peak.peak_op,
        "peak_module": run.peak.peak_module,
        "peak_line": run.peak.peak_line,
        "peak_modules_bytes": dict(run.modules),
        "peak_breakdown_bytes": dict(run.peak.peak),
        "out_of_memory": answer.limited.out_of_memory if answer.limited else "",
        "out_of_memory_phase": _stopped_in(answer),
        "allocator_retries": answer.limited.retries if answer.limited else 0,
        "largest_batch": None
        if largest is None
        else {
            "fits": largest.fits,
            "does_not_fit": largest.too_large,
            "exact": largest.exact,
            "stopped": largest.stopped,
            "allocator_retries": largest.run.retries if largest.run else 0,
            "simulations": largest.simulations,
        },
        "techniques": [
            {
                "name": result.technique.name,
                "saved_bytes": result.saved_bytes if result.run else None,
                "peak_reserved_bytes": result.run.peak_reserved_bytes if result.run else None,
                "peak_phase": result.run.peak.name if result.run else None,
                "fits": result.run.peak_reserved_bytes <= answer.usable_bytes if result.run else None,
                "cost": result.technique.cost,
                "not_simulated": result.reason,
            }
            for result in answer.techniques
        ],
        "not_included": list(NOT_INCLUDED),
        "measured": None if measured is None else asdict(measured),
    }


def _stopped_in(answer: Fit) -> str:
    limited = answer.limited
    return limited.phases[-1].name if limited is not None and not limited.fits else ""


def _print(answer: Fit, measured: MeasuredRun | None) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=120, highlight=False)
    _print_verdict(answer, console)
    _print_peak(answer, console)
    if measured is not None:
        _print_measured(answer, measured, console)
    if answer.largest is not None:
        console.print(f"\n[bold]Largest batch[/bold]  {_largest_in_words(answer)}")
    if answer.techniques:
        _print_techniques(answer, console)
    console.print(
        f"\nNot included: {'; '.join(NOT_INCLUDED)}. {format_bytes(answer.context_bytes)} is set aside for "
        f"the CUDA context (--context). {answer.simulations} simulations.",
        style="dim",
    )


def _print_verdict(answer: Fit, console: Console) -> None:
    verdict, run = answer.verdict, answer.run
    console.print(f"[{_STYLES[verdict]}]{verdict.upper()}[/]  {run.workload} on {answer.gpu.name}")
    left = answer.headroom_bytes
    room = f"{format_bytes(left)} left" if left >= 0 else f"{format_bytes(-left)} too much"
    share = 100 * (answer.taken_bytes + answer.context_bytes) / answer.gpu.memory_bytes
    console.print(
        f"  needs {format_bytes(answer.taken_bytes)} of {format_bytes(answer.usable_bytes)} usable: {room} "
        f"({share:.0f} % of the device with the CUDA context)"
    )
    if answer.limited is not None and answer.limited.fits:
        console.print(
            f"  only because the allocator gives cached memory back {answer.limited.retries} times: slow"
        )
    if _stopped_in(answer):
        console.print(f"  runs out of memory in {_stopped_in(answer)}")
    console.print(f"  {run.parameters:,} parameters" + (f"; {run.assumed}" if run.assumed else ""))


def _print_peak(answer: Fit, console: Console) -> None:
    run, peak = answer.run, answer.run.peak
    where = ", ".join(word for word in (peak.peak_op, peak.peak_module, peak.peak_line) if word)
    console.print(
        f"\n[bold]Peak[/bold]  {format_bytes(peak.peak_allocated_bytes)} allocated, "
        f"{format_bytes(run.peak_reserved_bytes)} reserved; {peak.name}" + (f", {where}" if where else "")
    )
    table = Table(box=None, show_header=False, padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(justify="right")
    for category, size_bytes in sorted(peak.peak.items(), key=lambda item: -item[1]):
        share = 100 * size_bytes / peak.peak_allocated_bytes
        table.add_row(category.replace("_", " "), format_bytes(size_bytes), f"{share:.1f} %")
    kept = run.peak_reserved_bytes - peak.peak_allocated_bytes
    table.add_row("reserved above that (cache, fragments)", format_bytes(kept), "")
    console.print(table)
    top = ", ".join(f"{name} {format_bytes(size_bytes)}" for name, size_bytes in run.modules[:_MODULES_SHOWN])
    console.print(f"  of it by module: {top}")


def _print_measured(answer: Fit, measured: MeasuredRun, console: Console) -> None:
    console.print(f"\n[bold]Measured[/bold]  on {measured.device_name}, the peak in {measured.phase}")
    for name, real, predicted in (
        ("allocated", measured.peak_allocated_bytes, answer.run.peak.peak_allocated_bytes),
        ("reserved", measured.peak_reserved_bytes, answer.taken_bytes),
    ):
        if real is not None:
            console.print(
                f"  {name} {format_bytes(real)}, predicted {format_bytes(predicted)} "
                f"({100 * (predicted - real) / real:+.2f} %)"
            )
    if measured.out_of_memory:
        console.print(f"  {measured.out_of_memory}", markup=False, soft_wrap=True)


def _largest_in_words(answer: Fit) -> str:
    largest = answer.largest
    assert largest is not None
    if largest.fits == 0 and largest.exact:
        return "not even batch 1 fits"
    if largest.exact and largest.too_large is None:
        return f"{LARGEST_BATCH:,} and more"
    words = f"{largest.fits:,} ({largest.fits + 1:,} does not fit)"
    if not largest.exact:
        upper = f"; {largest.too_large:,} does not fit" if largest.too_large is not None else ""
        why = largest.stopped or f"{largest.simulations} simulations were not enough to tell"
        words = f"at least {largest.fits:,}{upper}; not known more closely: {why}"
    if largest.run is not None and largest.run.retries:
        words += f"; the allocator then gives cached memory back {largest.run.retries} times, which is slow"
    return words


def _print_techniques(answer: Fit, console: Console) -> None:
    console.print("\n[bold]What would help[/bold]  (each alone, by simulation)")
    table = Table(box=None, padding=(0, 2))
    for column in ("saves", "needs then"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("fits")
    table.add_column("technique and its cost")
    table.add_column("peak then in", no_wrap=True)
    simulated = [result for result in answer.techniques if result.run is not None]
    for result in simulated:
        assert result.run is not None
        table.add_row(
            format_bytes(result.saved_bytes) if result.saved_bytes > 0 else "nothing",
            format_bytes(result.run.peak_reserved_bytes),
            "yes" if result.run.peak_reserved_bytes <= answer.usable_bytes else "no",
            f"{result.technique.name} [dim]({result.technique.cost})[/dim]",
            result.run.peak.name,
        )
    console.print(table)
    for result in answer.techniques:
        if result.run is None:
            console.print(f"  {result.technique.name}: not simulated. {result.reason}", style="dim")
