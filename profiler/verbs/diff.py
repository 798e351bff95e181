"""`profiler diff`: what grew between two runs, or between two folders of records."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from profiler.errors import ProfilerError
from profiler.records.folder_difference import RecordsDifference, RunChange, is_records, records_difference
from profiler.trace.difference import Change, Difference, difference
from profiler.trace.ledger import CATEGORIES
from profiler.trace.load import load
from profiler.trace.moments import Moment
from profiler.trace.run import Run
from profiler.units import format_bytes, parse_bytes
from profiler.verbs.options import add_device, whole_number
from profiler.views import screen
from profiler.views.markdown import difference_page, side, signed

SUMMARY = "what grew between two runs, or two folders of records: by category, module and line"
DESCRIPTION = (
    "Compare the allocated bytes at the peaks of two runs: the differences of the parts sum to that of the "
    "peaks. The runs of two folders are paired by workload, and by device where there are several. "
    "Exit code 3: the peak grew by more than --allow."
)
EXAMPLES = (
    "example: profiler report gpt2 --length 512 --save before.parquet; "
    "profiler report gpt2 --length 768 --save after.parquet; "
    "profiler diff before.parquet after.parquet --output grew.png"
)
_PHASES_SHOWN, _NAMES_SHOWN = 3, 5
GREW = 3  # exit code of a peak that grew by more than --allow


def add_options(parser: ArgumentParser) -> None:
    """Two runs or folders, and how to show what grew."""
    kinds = "file of `profiler report --save` or recording.save(), CUDA memory snapshot, or results folder"
    parser.add_argument("before", type=Path, metavar="A", help=kinds)
    parser.add_argument("after", type=Path, metavar="B", help="another of the kind")
    parser.add_argument(
        "--top", type=whole_number, default=10, metavar="N", help="parts or runs to show; default: 10"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="a picture of what grew, as .png or .svg")
    add_device(parser)
    parser.add_argument(
        "--allow",
        metavar="SIZE",
        help="exit code 3 if a peak, allocated or reserved, grew by more, as in 64MiB or 0B",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print every part as JSON")
    form.add_argument("--markdown", action="store_true", help="print it for the comment of a pull request")


def run(options: Namespace) -> int:
    """Compare and print; returns the exit code, GREW or 0.

    Raises ProfilerError for what cannot be read or compared.
    """
    allowed = None if options.allow is None else parse_bytes(options.allow)
    before, after = options.before, options.after
    for path in (before, after):
        if not path.exists():
            raise ProfilerError(f"{path} does not exist")
    kinds = {is_records(before), is_records(after)}
    if len(kinds) == 2:
        raise ProfilerError(f"{before} and {after} are a run and a folder of records: give two of a kind")
    grown = _diff_records(options) if kinds == {True} else _diff_runs(options)
    return GREW if allowed is not None and grown > allowed else 0


def _diff_records(options: Namespace) -> int:
    """The most that a peak of the two folders grew."""
    if options.device is not None:
        raise ProfilerError("--device is of snapshots, not of folders of records")
    if options.output:
        raise ProfilerError("--output draws the difference of two runs, not of two folders of records")
    if options.markdown:
        raise ProfilerError("--markdown is of two runs, not of two folders of records")
    found = records_difference(options.before, options.after)
    if options.json:
        print(json.dumps(_records_as_dict(found), indent=2))
    else:
        _print_records(found, options.top, screen.console())
    return max((run.peak.difference_bytes for run in found.runs), default=0)


def _diff_runs(options: Namespace) -> int:
    """What the peak grew by: the allocated or the reserved one, whichever grew more."""
    paths = (options.before, options.after)
    first, second = (_load(path, options.device) for path in paths)
    found, console = difference(first, second), screen.console()
    warnings = _warnings(first, second)
    if options.json:
        print(json.dumps({**_as_dict(found), **_sides(first, second), "warnings": warnings}, indent=2))
    elif options.markdown:
        print(difference_page(first, second, found, warnings, options.top))
    else:
        _print_run(found, options.top, console)
        _print_sides(first, second, console)
        for warning in warnings:
            console.print(warning, style="yellow", soft_wrap=True)
        for path, run in zip(paths, (first, second), strict=True):
            if run.note:
                console.print(f"{path}: {run.note}", soft_wrap=True)
    if options.output:
        from profiler.views.figures.difference import draw

        draw(found, f"{options.before.name} → {options.after.name}", options.output)
        if not (options.json or options.markdown):
            console.print(f"  {options.output}", soft_wrap=True)
    return max(found.difference_bytes, _reserved_growth(first, second) or 0)


def _reserved_growth(before: Run, after: Run) -> int | None:
    """Of the reserved peaks; None where one of them is not known."""
    sizes = (before.peak_reserved_bytes, after.peak_reserved_bytes)
    return None if sizes[0] is None or sizes[1] is None else sizes[1] - sizes[0]


def _warnings(before: Run, after: Run) -> list[str]:
    """What else than the program may be why the peaks differ."""
    sides = (before, after)
    found = []
    if str(before.device) != str(after.device):
        found.append(f"The two ran on {before.device} and {after.device}: part of the difference is theirs.")
    for name in ("torch_version", "allocator_settings"):
        first, second = ((run.provenance.get(name) or "") for run in sides)
        if first != second and all(run.provenance for run in sides):
            words = f"{first or 'none'} and {second or 'none'}"
            found.append(f"Their {name.replace('_', ' ')} differ: {words}.")
    found += [f"A side has no end: {run.out_of_memory.message}" for run in sides if run.out_of_memory]
    return found


def _sides(before: Run, after: Run) -> dict[str, Any]:
    return {
        f"{name}_{what}": value
        for name, run in (("before", before), ("after", after))
        for what, value in (
            ("run", run.name),
            ("device", str(run.device)),
            ("peak_reserved_bytes", run.peak_reserved_bytes),
        )
    }


def _print_sides(before: Run, after: Run, console: Console) -> None:
    grown = _reserved_growth(before, after)
    if grown is not None:
        sizes = " → ".join(format_bytes(run.peak_reserved_bytes or 0) for run in (before, after))
        console.print(f"  reserved: {sizes}: {signed(grown)}", soft_wrap=True)
    console.print(f"  before: {side(before)}; after: {side(after)}", style="dim", soft_wrap=True)


def _load(path: Path, device: int | None) -> Run:
    with screen.reading(path) as on_progress:
        return load(path, device, on_progress)


# --- two runs ------------------------------------------------------------------------------------------


def _print_run(run: Difference, top: int, console: Console) -> None:
    before, after = run.before.allocated_bytes, run.after.allocated_bytes
    share = f" ({100 * run.difference_bytes / before:+.1f} %)" if before else ""
    console.print(
        screen.styled(
            ("Peak", "bold"),
            f"  {format_bytes(before)} → {format_bytes(after)}: ",
            (signed(run.difference_bytes), f"bold {_colour(run.difference_bytes)}".strip()),
            f"{share}, {run.difference_bytes:+,} B allocated",
        )
    )
    for name, moment in (("before", run.before), ("after", run.after)):
        console.print(f"  {name}: {_moment(moment)}", soft_wrap=True)
    if not run.difference_bytes and not any(
        _changed(part) for part in (run.categories, run.modules, run.lines)
    ):
        console.print("\nNothing changed at the peak.")
        return
    for name, parts in (("category", run.categories), ("module", run.modules), ("line", run.lines)):
        if parts:
            console.print()
            console.print(_table(name, parts, top))
        else:
            console.print(f"\nNot by {name}: at least one of the files does not name it.")


def _moment(moment: Moment) -> str:
    allocation = moment.allocation
    words = [f"in {moment.phase}"]
    if allocation is not None:
        place = allocation.where
        words += [allocation.op, *((place.module, place.line) if place else ())]
    return ", ".join(word for word in words if word)


def _changed(parts: Sequence[Change]) -> list[Change]:
    return [part for part in parts if part.difference_bytes]


def _table(name: str, parts: Sequence[Change], top: int) -> Table:
    """The parts that changed, at most `top` of them; what is left out and what is the same in a row each."""
    numbers = (screen.number(column) for column in ("before", "after", "difference"))
    table = screen.table(f"by {name}", *numbers, "", lines=False)
    changed = _changed(parts)
    for part in changed[:top]:
        note = "new" if not part.before_bytes else "gone" if not part.after_bytes else ""
        table.add_row(_words(part.name), *_cells(part.before_bytes, part.after_bytes), note)
    for words, rest in (
        (f"{len(changed[top:])} more that changed", changed[top:]),
        ("unchanged", [part for part in parts if not part.difference_bytes]),
    ):
        if rest:
            table.add_row(
                words,
                *_cells(sum(p.before_bytes for p in rest), sum(p.after_bytes for p in rest)),
                style="dim",
            )
    table.add_section()
    table.add_row("together", *_cells(sum(p.before_bytes for p in parts), sum(p.after_bytes for p in parts)))
    return table


def _cells(before_bytes: int, after_bytes: int) -> tuple[str, str, Text]:
    size_bytes = after_bytes - before_bytes
    change = screen.styled((signed(size_bytes), _colour(size_bytes)))
    return format_bytes(before_bytes), format_bytes(after_bytes), change


def _colour(size_bytes: int) -> str:
    return "red" if size_bytes > 0 else "green" if size_bytes else ""


def _words(name: str) -> str:
    return name.replace("_", " ") if name in CATEGORIES else name


# --- two folders of records ----------------------------------------------------------------------------


def _print_records(found: RecordsDifference, top: int, console: Console) -> None:
    same = found.paired - len(found.runs)
    console.print(
        screen.styled(
            (f"{found.paired} runs in both", "bold"),
            f": {same} with the same peaks, {len(found.runs)} changed",
        )
    )
    for words, names in (
        ("only before", found.only_before),
        ("only after", found.only_after),
        ("out of memory only before", found.out_of_memory_before),
        ("out of memory only after", found.out_of_memory_after),
    ):
        if names:
            more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
            console.print(f"  {words}: {'; '.join(names[:_NAMES_SHOWN])}{more}")
    for problem in found.problems:
        console.print(problem, style="yellow", soft_wrap=True)
    if not found.runs:
        return
    numbers = (screen.number(column) for column in ("peak before", "after", "difference"))
    reasons = "what changed at the peak, and in which phases"
    table = screen.table("workload", *numbers, reasons, lines=False)
    for run in found.runs[:top]:
        table.add_row(run.workload, *_cells(run.peak.before_bytes, run.peak.after_bytes), _reason(run))
    console.print()
    console.print(table)
    if len(found.runs) > top:
        console.print(f"{len(found.runs) - top} more runs changed; --top shows more", style="dim")


def _reason(run: RunChange) -> str:
    parts = ", ".join(f"{_words(p.name)} {signed(p.difference_bytes)}" for p in _changed(run.categories))
    phases = ", ".join(f"{p.name} {signed(p.difference_bytes)}" for p in run.phases[:_PHASES_SHOWN])
    more = f" and {len(run.phases) - _PHASES_SHOWN} more" if len(run.phases) > _PHASES_SHOWN else ""
    return f"{parts or 'nothing'}; {phases}{more}"


# --- as data -------------------------------------------------------------------------------------------


def _as_dict(run: Difference) -> dict[str, Any]:
    return {
        "before_bytes": run.before.allocated_bytes,
        "after_bytes": run.after.allocated_bytes,
        "difference_bytes": run.difference_bytes,
        "before_phase": str(run.before.phase),
        "after_phase": str(run.after.phase),
        "categories": _parts(run.categories),
        "modules": _parts(run.modules),
        "lines": _parts(run.lines),
    }


def _records_as_dict(found: RecordsDifference) -> dict[str, Any]:
    return {
        "paired": found.paired,
        "only_before": list(found.only_before),
        "only_after": list(found.only_after),
        "out_of_memory_before": list(found.out_of_memory_before),
        "out_of_memory_after": list(found.out_of_memory_after),
        "problems": list(found.problems),
        "runs": [
            {
                "workload": run.workload,
                **_parts([run.peak])[0],
                "phases": _parts(run.phases),
                "categories": _parts(run.categories),
            }
            for run in found.runs
        ],
    }


def _parts(parts: Sequence[Change]) -> list[dict[str, Any]]:
    return [
        {
            "name": part.name,
            "before_bytes": part.before_bytes,
            "after_bytes": part.after_bytes,
            "difference_bytes": part.difference_bytes,
        }
        for part in parts
    ]
