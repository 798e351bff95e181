"""`profiler fit`: will it fit, with which batch at most, and what would help. The verdict comes first."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from profiler.device import CUDA, Device
from profiler.errors import ProfilerError
from profiler.gpu.cards import find_gpu
from profiler.units import format_bytes, parse_bytes
from profiler.verbs import options as words
from profiler.views import screen
from profiler.workload import LARGEST_BATCH, SHARDINGS, Sharding

if TYPE_CHECKING:
    from profiler.advice.fit import Fit, Question
    from profiler.advice.shared_fit import SharedFit
    from profiler.gpu.cards import GPU
    from profiler.trace.run import Run
    from profiler.workload import Workload

SUMMARY = "will it fit on a GPU, with which batch at most, and what would help (needs no GPU)"
DESCRIPTION = "Run a training step of any model on a GPU that need not be there."
EXAMPLES = (
    "examples: profiler fit gpt2 --batch 8 --length 1024 --gpu A100-40GB; "
    "profiler fit train.py:make_model --batch 32; "
    "profiler fit LlamaConfig --batch 1 --length 2048 --gpu 8xH100-80GB --shard fsdp2. "
    "Exit codes: 0 fits, 3 does not fit, 1 error."
)
_MODULES_SHOWN = 5
_STYLES = {"fits": "bold green", "tight": "bold yellow", "does not fit": "bold red"}


def add_options(parser: ArgumentParser) -> None:
    """A model, where to fit it, and how much to answer."""
    parser.add_argument("model", metavar="TARGET", help=words.MODEL)
    words.add_prediction_options(parser)
    words.add_settings(parser)
    parser.add_argument(
        "--context",
        metavar="SIZE",
        help="memory to set aside for the CUDA context and libraries; default: the most seen on that card",
    )
    parser.add_argument(
        "--shard",
        metavar="HOW",
        help=f"the step is shared by the GPUs, as in --gpu 8xA100-80GB; the batch is a GPU's: "
        f"{', '.join(SHARDINGS)}",
    )
    parser.add_argument("--no-largest", action="store_true", help="do not search for the largest batch")
    parser.add_argument("--no-techniques", action="store_true", help="do not try what would help")
    parser.add_argument(
        "--verify", action="store_true", help="run the real step too, on the CUDA device that is here"
    )
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def run(options: Namespace) -> int:
    """Answer and print; returns the exit code: 0 fits, 3 does not fit."""
    from profiler.advice.fit import DOES_NOT_FIT, Question, fit
    from profiler.runs.execute import run_in_fresh_process
    from profiler.runs.provenance import check_device
    from profiler.runs.run_settings import RunSettings

    count, name = words.count_and_name(words.gpu_name(options))
    gpu = find_gpu(name)
    if count > 1 and not options.shard:
        raise ProfilerError(f"{count} GPUs: say how they share the step, as in --shard fsdp2")
    question = Question(
        allocator_settings=words.allocator_settings(options),
        with_largest=not options.no_largest,
        with_techniques=not options.no_techniques,
        engine=options.engine,
    )
    if options.context:
        question = replace(question, context_bytes=parse_bytes(options.context))
    workload = words.workload_from(options)
    if options.shard:
        words.refuse(options, ["verify"], "runs on the one GPU that is here; not with --shard")
        return _run_shared(workload, gpu, Sharding(options.shard, count), question, options)
    if options.verify:
        check_device(Device(CUDA))
    answer = fit(workload, gpu, question)
    measured = None
    if options.verify:
        settings = RunSettings(allocator_settings=question.allocator_settings)
        measured = run_in_fresh_process(workload, Device(CUDA), settings)
    if options.json:
        print(json.dumps(as_dict(answer, measured), indent=2))
    else:
        _print(answer, measured)
        words.say_what_it_rests_on(answer.run, options.engine)
    return words.DOES_NOT_FIT if answer.verdict == DOES_NOT_FIT else 0


def _run_shared(
    workload: Workload, gpu: GPU, sharding: Sharding, question: Question, options: Namespace
) -> int:
    from profiler.advice.shared_fit import shared_fit

    answer = shared_fit(workload, gpu, sharding, question)
    if options.json:
        print(json.dumps(shared_as_dict(answer), indent=2))
    else:
        _print_shared(answer)
        words.say_what_it_rests_on(answer.run, options.engine)
    return 0 if answer.fits else words.DOES_NOT_FIT


def shared_as_dict(answer: SharedFit) -> dict[str, Any]:
    """The answer for GPUs that share a step, as plain values; see `as_dict`."""
    workload, gpu = answer.run.workload, answer.run.device.gpu
    assert workload is not None
    assert gpu is not None
    return {
        "fits": answer.fits,
        "shard": answer.sharding.kind,
        "gpus": answer.sharding.ranks,
        "how": answer.how,
        "workload": workload.to_dict(),
        "gpu": gpu.name,
        "engine": answer.run.device.kind,
        "rests_on": list(answer.run.rests_on),
        "needed_bytes": answer.needed_bytes,
        "usable_bytes": answer.usable_bytes,
        "largest_batch": answer.largest,
        "fewest_gpus": answer.fewest,
    }


def _print_shared(answer: SharedFit) -> None:
    from profiler.advice.shared_fit import RUN, why_formula

    console, run, ranks = screen.console(), answer.run, answer.sharding.ranks
    verdict = "fits" if answer.fits else "does not fit"
    left = answer.usable_bytes - answer.needed_bytes
    name = run.device.gpu.name if run.device.gpu else ""
    console.print(
        screen.styled((verdict.upper(), _STYLES[verdict]), f"  {run.workload} with {answer.sharding}, {name}")
    )
    room = f"{format_bytes(left)} left" if left >= 0 else f"{format_bytes(-left)} too much"
    console.print(
        f"  a rank needs {format_bytes(answer.needed_bytes)} of {format_bytes(answer.usable_bytes)} usable: "
        f"{room}; the CUDA context and what NCCL takes are set aside"
    )
    if answer.how == RUN:
        sizes = sorted(run.by_category().items(), key=lambda item: -item[1])
        parts = (f"{category.replace('_', ' ')} {format_bytes(size)}" for category, size in sizes)
        console.print(
            f"  run by torch as rank 0 of {ranks}; its peak: {', '.join(parts)}",
            soft_wrap=True,
        )
    else:
        console.print(
            f"  by formula, as {why_formula(answer.sharding)}: one GPU's run less what ZeRO's paper divides; "
            "what is gathered at a time and DeepSpeed's buckets are not in it",
            soft_wrap=True,
        )
    if answer.fewest is None:
        console.print(f"  with this batch not on {ranks} GPUs either")
    else:
        console.print(screen.styled(("\nFewest GPUs", "bold"), f"  {answer.fewest}, with this batch of each"))
    if answer.largest is not None:
        words_ = f"{answer.largest:,} a GPU, {answer.largest * ranks:,} in all" if answer.largest else "none"
        console.print(screen.styled(("\nLargest batch", "bold"), f"  {words_}"))


def as_dict(answer: Fit, measured: Run | None = None) -> dict[str, Any]:
    """The answer as plain values, bytes as integers: what --json prints."""
    from profiler.advice.fit import NOT_INCLUDED

    run, largest = answer.run, answer.largest
    peak, stopped = run.peak(), answer.limited.out_of_memory if answer.limited else None
    place = peak.allocation.where if peak.allocation else None
    return {
        "verdict": answer.verdict,
        "workload": answer.workload.to_dict(),
        "parameters": run.parameters,
        "assumed": run.assumed,
        "engine": run.device.kind,
        "rests_on": list(run.rests_on),
        "gpu": answer.gpu.name,
        "gpu_memory_bytes": answer.gpu.memory_bytes,
        "context_allowance_bytes": answer.context_bytes,
        "usable_bytes": answer.usable_bytes,
        "headroom_bytes": answer.headroom_bytes,
        "peak_reserved_bytes": answer.taken_bytes,
        "peak_allocated_bytes": run.peak_allocated_bytes,
        "peak_phase": str(peak.phase),
        "peak_op": peak.allocation.op if peak.allocation else "",
        "peak_module": place.module if place else "",
        "peak_line": place.line if place else "",
        "peak_modules_bytes": {share.name: share.size_bytes for share in run.by_module()},
        "peak_breakdown_bytes": run.by_category(),
        "out_of_memory": stopped.message if stopped else "",
        "out_of_memory_phase": str(stopped.phase) if stopped else "",
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
                "name": result.name,
                "saved_reserved_bytes": result.saved_reserved_bytes if result.run else None,
                "peak_reserved_bytes": result.run.needed_bytes if result.run else None,
                "peak_phase": str(result.run.peak().phase) if result.run else None,
                "fits": result.run.needed_bytes <= answer.usable_bytes if result.run else None,
                "cost": result.cost,
                "not_simulated": result.reason,
            }
            for result in answer.techniques
        ],
        "not_included": list(NOT_INCLUDED),
        "measured": None if measured is None else _measured_as_dict(measured),
    }


def _measured_as_dict(run: Run) -> dict[str, Any]:
    return {
        "device_name": run.provenance["device_name"],
        "phase": str(run.highest_phase.account.phase),
        "peak_allocated_bytes": run.peak_allocated_bytes,
        "peak_reserved_bytes": run.peak_reserved_bytes,
        "out_of_memory": run.out_of_memory.message if run.out_of_memory else "",
    }


def _print(answer: Fit, measured: Run | None) -> None:
    from profiler.advice.fit import NOT_INCLUDED

    console = screen.console()
    _print_verdict(answer, console)
    _print_peak(answer, console)
    if measured is not None:
        _print_measured(answer, measured, console)
    if answer.largest is not None:
        console.print(screen.styled(("\nLargest batch", "bold"), f"  {_largest_in_words(answer)}"))
    if answer.techniques:
        _print_techniques(answer, console)
    runs = "1 run" if answer.simulations == 1 else f"{answer.simulations} runs"
    console.print(
        f"\nNot included: {'; '.join(NOT_INCLUDED)}. {format_bytes(answer.context_bytes)} is set aside for "
        f"the CUDA context and libraries (--context). {runs}.",
        style="dim",
    )


def _print_verdict(answer: Fit, console: Console) -> None:
    verdict, run = answer.verdict, answer.run
    verdict_words = (verdict.upper(), _STYLES[verdict])
    console.print(screen.styled(verdict_words, f"  {answer.workload} on {answer.run.device}"))
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
    if answer.limited is not None and answer.limited.out_of_memory:
        console.print(f"  runs out of memory in {answer.limited.out_of_memory.phase}")
    console.print(f"  {run.parameters:,} parameters" + (f"; {run.assumed}" if run.assumed else ""))


def _print_peak(answer: Fit, console: Console) -> None:
    run, peak = answer.run, answer.run.peak()
    made_by = (peak.allocation.op, *(peak.allocation.where or ())) if peak.allocation else ()
    where = ", ".join(word for word in made_by if word)
    console.print(
        screen.styled(
            ("\nPeak", "bold"),
            f"  {format_bytes(peak.allocated_bytes)} allocated, "
            f"{format_bytes(run.needed_bytes)} reserved; {peak.phase}",
            f", {where}" if where else "",
        )
    )
    table = screen.table("", screen.number(), screen.number(), lines=False)
    table.show_header = False
    for category, size_bytes in sorted(run.by_category().items(), key=lambda item: -item[1]):
        share = 100 * size_bytes / peak.allocated_bytes
        table.add_row("  " + category.replace("_", " "), format_bytes(size_bytes), f"{share:.1f} %")
    kept = run.needed_bytes - peak.allocated_bytes
    table.add_row("  reserved above that (cache, fragments)", format_bytes(kept), "")
    console.print(table)
    modules = run.by_module()[:_MODULES_SHOWN]
    top = ", ".join(f"{share.name} {format_bytes(share.size_bytes)}" for share in modules)
    console.print(f"  of it by module: {top}")


def _print_measured(answer: Fit, measured: Run, console: Console) -> None:
    said = _measured_as_dict(measured)
    where = f"  on {said['device_name']}, the peak in {said['phase']}"
    console.print(screen.styled(("\nMeasured", "bold"), where))
    for name, real, predicted in (
        ("allocated", measured.peak_allocated_bytes, answer.run.peak_allocated_bytes),
        ("reserved", measured.peak_reserved_bytes, answer.taken_bytes),
    ):
        if real is not None:
            console.print(
                f"  {name} {format_bytes(real)}, predicted {format_bytes(predicted)} "
                f"({100 * (predicted - real) / real:+.2f} %)"
            )
    if measured.out_of_memory:
        console.print(f"  {measured.out_of_memory.message}", soft_wrap=True)


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
        why = largest.stopped or f"{largest.simulations} runs were not enough to tell"
        words = f"at least {largest.fits:,}{upper}; not known more closely: {why}"
    if largest.run is not None and largest.run.retries:
        words += f"; the allocator then gives cached memory back {largest.run.retries} times, which is slow"
    return words


def _print_techniques(answer: Fit, console: Console) -> None:
    together = any(len(result.techniques) > 1 for result in answer.techniques)
    how = f"  ({'alone, and two together' if together else 'each alone'}; reserved bytes)"
    console.print(screen.styled(("\nWhat would help", "bold"), how))
    numbers = (screen.number("  saves reserved"), screen.number("needs then"))
    table = screen.table(*numbers, "fits", "technique and its cost", "peak then in", lines=False)
    simulated = [result for result in answer.techniques if result.run is not None]
    for result in simulated:
        assert result.run is not None
        table.add_row(
            format_bytes(result.saved_reserved_bytes) if result.saved_reserved_bytes > 0 else "nothing",
            format_bytes(result.run.needed_bytes),
            "yes" if result.run.needed_bytes <= answer.usable_bytes else "no",
            screen.styled(result.name, (f" ({result.cost})", "dim")),
            str(result.run.peak().phase),
        )
    console.print(table)
    for result in answer.techniques:
        if result.run is None:
            console.print(f"  {result.name}: not run. {result.reason}", style="dim")
